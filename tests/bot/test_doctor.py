"""Doctor's findings: what is in place is said, what is not comes with a remedy."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bot import doctor
from bot.doctor import Finding, examine, findings
from bot.instance import sole_instance

GOOD: dict[str, Any] = {
    "torch": "2.13.0+cu130",
    "cuda": "13.0",
    "gpus": [{"name": "NVIDIA RTX", "vram_gib": 23.6, "free_gib": 22.9}],
    "problems": [],
    "ffmpeg": None,
}
TOKEN = {"DISCORD_TOKEN": "secret-token"}


def checked(code: int, said: str) -> subprocess.CompletedProcess[str]:
    """How `generator check` ends."""
    said, wrong = ("", said) if code else (said, "")
    return subprocess.CompletedProcess([], code, stdout=said, stderr=wrong)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_probe", lambda: GOOD)
    monkeypatch.setattr(doctor, "_generator", lambda *words: checked(0, "stream: 7 stay\n"))
    return tmp_path


def found(environ: dict[str, str], config: Path | None = None) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(config, environ)}


def test_the_real_probe_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    probe = doctor._probe()
    assert isinstance(probe, dict)
    assert probe["torch"]
    assert not doctor._ffmpeg(probe).remedy
    assert [finding.what for finding in doctor._torch(probe)] == ["torch"]


def test_a_machine_in_good_order_has_no_problem_but_what_is_missing_here() -> None:
    things = found(TOKEN)
    assert [what for what, finding in things.items() if finding.remedy] == ["ffmpeg"]
    assert things["torch"].seen == "2.13.0+cu130, built for CUDA 13.0"
    assert things["GPU"].seen == "NVIDIA RTX with 23.6 GiB, 22.9 GiB free"
    assert things["placement"].seen == "stream: 7 stay"
    assert things["model"].seen == "demo, which comes with the bot"


def test_a_problem_means_exit_code_1_and_a_remedy() -> None:
    out = io.StringIO()
    assert examine(None, {}, out) == 1
    text = out.getvalue()
    assert "problem token:        there is no bot token\n" in text
    assert "→ set DISCORD_TOKEN, or DISCORD_TOKEN_FILE" in text
    assert "Problems: 2." in text


def test_the_token_is_never_shown() -> None:
    out = io.StringIO()
    examine(None, TOKEN, out)
    assert "secret-token" not in out.getvalue()


def test_no_problem_means_exit_code_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_ffmpeg", lambda probe: Finding(what="ffmpeg", seen="7"))
    out = io.StringIO()
    assert examine(None, TOKEN, out) == 0
    assert out.getvalue().endswith("Everything is in place.\n")


def test_a_broken_config_does_not_end_the_examination(folder: Path) -> None:
    (folder / "config.toml").write_text("[generator]\nmodle = 1\n", encoding="utf-8")
    things = found(TOKEN)
    assert "did you mean generator.model?" in things["config"].seen
    assert things["config"].remedy
    assert "GPU" in things


def test_a_running_bot_is_no_problem(folder: Path) -> None:
    with sole_instance(folder / "data"):
        finding = found(TOKEN)["data folder"]
    assert finding.seen.endswith("in use by a running bot")
    assert not finding.remedy


def test_a_data_folder_that_is_a_file_is_a_problem(folder: Path) -> None:
    (folder / "data").write_text("", encoding="utf-8")
    assert found(TOKEN)["data folder"].remedy


def test_a_missing_torch_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = {**GOOD, "torch": None, "gpus": [], "problems": ["torch can not be imported: no."]}
    monkeypatch.setattr(doctor, "_probe", lambda: probe)
    things = found(TOKEN)
    assert things["torch"].seen == "torch can not be imported: no."
    assert "pip install 'framepack-bot[generator]'" in things["torch"].remedy
    assert not things["GPU"].remedy


def test_a_generator_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_probe", lambda: "the generator does not start (no)")
    things = found(TOKEN)
    assert things["generator"].remedy
    assert things["ffmpeg"].remedy


def test_cuda_without_a_gpu_is_a_problem(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config.toml").write_text("[generator]\ndevice = 'cuda'\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "_probe", lambda: {**GOOD, "gpus": []})
    assert found(TOKEN)["GPU"].remedy


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_GIB_WANTED", 1e9)
    assert "free some" in found(TOKEN)["disk"].remedy


def test_a_driver_that_is_too_old_is_said_with_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentence = "driver: the NVIDIA driver is too old: it can run CUDA 11.4; update the driver."
    monkeypatch.setattr(doctor, "_probe", lambda: {**GOOD, "problems": [sentence]})
    finding = found(TOKEN)["driver"]
    assert finding.seen == "the NVIDIA driver is too old: it can run CUDA 11.4"
    assert finding.remedy == "update the driver"


def test_what_keeps_the_generator_from_starting_is_said_with_its_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.toml").write_text(
        "[generator]\nmodel = './weights'\nstorage = 'fp8'\ncompile = true\n", encoding="utf-8"
    )
    asked: list[str] = []

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        asked.extend(words)
        return checked(1, "a warning\nframepack-bot: At least 4.6 GiB of VRAM are needed, and 3.1")

    monkeypatch.setattr(doctor, "_generator", check)
    finding = found(TOKEN)["model"]
    assert finding.seen == "At least 4.6 GiB of VRAM are needed, and 3.1" and finding.remedy
    assert asked[0] == "check" and "--compile" in asked
    assert asked[asked.index("--storage") + 1] == "fp8"
    assert asked[asked.index("--model") + 1].endswith("weights")


@pytest.mark.slow
def test_the_real_check_is_understood(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.undo()
    (folder / "weights" / "vae").mkdir(parents=True)
    (folder / "good.toml").write_text("[generator]\nmodel = 'tiny'\n", encoding="utf-8")
    (folder / "bad.toml").write_text(
        f"[generator]\nmodel = '{(folder / 'weights').as_posix()}'\n", encoding="utf-8"
    )
    good, bad = (doctor.load_config(folder / name, {}) for name in ("good.toml", "bad.toml"))
    model, placement = doctor._model(good)
    assert not model.remedy and not placement.remedy
    assert "resident: it computes on the CPU" in placement.seen
    assert "attention native" in placement.seen
    (model,) = doctor._model(bad)
    assert "transformer" in model.seen and model.remedy
