"""The generator's command line: one sentence for each slip, before anything is computed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_jobs import SMALL, draw_picture, frames_in, names_in

from generator import once
from generator.__main__ import main
from generator.protocol import JobRequest, limits


@pytest.fixture
def words(tiny_model: Path, tmp_path: Path) -> list[str]:
    """A small job that works."""
    picture = draw_picture(tmp_path / "a picture.png")
    found = ["generate", "--model", str(tiny_model), "--image", str(picture), "--no-progress"]
    found += ["--out", str(tmp_path / "out" / "v.mp4"), "--device", "cpu"]
    for name, value in SMALL.items():
        found += ["--" + name.replace("_", "-"), str(value)]
    return found


@pytest.fixture
def nothing_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(*_: Any, **__: Any) -> None:
        raise AssertionError("this was to be refused before anything is computed")

    monkeypatch.setattr(once, "generate", compute)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str], status: int) -> str:
    """What is said on stderr: one line; nothing on stdout."""
    assert main(words) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("framepack-bot: ")
    assert said.err.count("\n") == 1
    return said.err


# ---- what works


def test_a_video_its_record_and_its_latents(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents = tmp_path / "deep" / "er" / "latents.safetensors"
    assert main([*words, "--latents-out", str(latents)]) == 0
    video = tmp_path / "out" / "v.mp4"
    assert capsys.readouterr().out == f"{video}\n"
    assert len(frames_in(video, 64, 64)) == 9
    assert names_in(tmp_path / "out") == {"v.mp4", "v.json"}
    assert load_file(latents)["latents"].shape == (1, 16, 3, 8, 8)


def test_every_option_arrives(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[JobRequest] = []
    monkeypatch.setattr(once, "generate_once", lambda request, _: got.append(request) or 0)
    end, first = draw_picture(tmp_path / "end.png"), draw_picture(tmp_path / "1.png")
    words += ["--variant", "i2v", "--negative-prompt", "n", "--guidance-scale", "4"]
    words += ["--true-cfg-scale", "2", "--guidance-rescale", "0.5", "--motion-bias", "3"]
    words += ["--consistency-boost", "1.5", "--end-image", str(end), "--end-strength", "0.25"]
    words += ["--reference", str(first), "--reference", str(end), "--fps", "24", "--crf", "20"]
    words += ["--resampling", "blend", "--magcache", "0.2"]
    assert main(words) == 0
    (request,) = got
    expected = {
        **SMALL,
        "negative_prompt": "n",
        "guidance_scale": 4.0,
        "true_cfg_scale": 2.0,
        "fps": 24,
        "guidance_rescale": 0.5,
        "motion_bias": 3.0,
        "consistency_boost": 1.5,
        "crf": 20,
        "end_image": str(end),
        "end_strength": 0.25,
        "references": (str(first), str(end)),
        "resampling": "blend",
        "step_cache": "magcache",
        "step_cache_threshold": 0.2,
    }
    assert {name: getattr(request, name) for name in expected} == expected


def test_the_record_tells_no_path(words: list[str], tmp_path: Path) -> None:
    other = draw_picture(tmp_path / "other.png", phase=9)
    assert main([*words, "--reference", str(other), "--end-image", str(other)]) == 0
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
    record = json.loads((tmp_path / "out" / "v.json").read_text("utf-8"))
    assert len(record["pictures"]) == 2


def test_a_name_without_its_ending_gets_it(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--out", str(tmp_path / "x.tar"), "--steps", "1"]) == 0
    assert (tmp_path / "x.tar.mp4").exists()


def test_help_shows_the_protocols_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["generate", "--help"])
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    low, high = limits("steps")
    assert f"({low:g} to {high:g}; default 25)" in text


# ---- what is refused


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--seconds", "121", "seconds is 121; it must be between 0.1 and 120"),
        ("--seconds", "nan", "seconds is nan"),
        ("--steps", "0", "steps is 0; it must be between 1 and 100"),
        ("--seed", "-1", "seed is -1"),
        ("--resolution", "63", "resolution is 63; it must be between 64 and 1,280"),
        ("--teacache", "1.5", "step_cache_threshold is 1.5; it must be between 0 and 1"),
        ("--teacache", "-0.1", "step_cache_threshold is -0.1"),
        ("--prompt", "", "prompt is empty"),
        ("--prompt", "x" * 2001, "prompt has 2,001 characters"),
        ("--crf", "52", "crf is 52; it must be between 0 and 51"),
        ("--true-cfg-scale", "0", "true_cfg_scale is 0; it must be between 1 and 32"),
    ],
)
def test_a_value_out_of_its_range_is_wrong_use(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    sentence: str,
) -> None:
    assert sentence in refusal([*words, option, value], capsys, 2)


@pytest.mark.parametrize(
    "extra",
    [
        ["--steps", "many"],
        ["--variant", "i3v"],
        ["--no-such-option"],
        ["--teacache", "0.1", "--magcache", "0.1"],
        ["--placement", "cloud"],
    ],
)
def test_words_that_are_not_understood_are_wrong_use(words: list[str], extra: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([*words, *extra])
    assert done.value.code == 2


def test_no_verb_is_wrong_use() -> None:
    with pytest.raises(SystemExit) as done:
        main([])
    assert done.value.code == 2


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--model", "no-such-model", "no model of that name; use demo, tiny, or the path"),
        ("--device", "tpu", "device is 'tpu'; it must be auto, cpu, cuda or cuda:N"),
        ("--dtype", "int8", "dtype is 'int8'; it must be auto or one of float32"),
        ("--image", "no-such.png", "no-such.png"),
        ("--reference", "no-such.png", "no-such.png"),
        ("--end-image", "no-such.png", "no-such.png"),
    ],
)
def test_what_is_not_there_is_named(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    sentence: str,
) -> None:
    assert sentence in refusal([*words, option, value], capsys, 1)
    assert not (tmp_path / "out").exists() or names_in(tmp_path / "out") == set()


def test_a_picture_that_is_none_is_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a picture.png").write_text("not a picture")
    assert "could not be read as a picture" in refusal(words, capsys, 1)
    assert names_in(tmp_path / "out") == set()


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("option", ["--out", "--latents-out"])
def test_a_folder_that_can_not_be_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    target = tmp_path / "file" / "sub" / "x.mp4"
    assert "can not be made" in refusal([*words, option, str(target)], capsys, 1)


@pytest.mark.usefixtures("nothing_computed")
@pytest.mark.parametrize("option", ["--out", "--latents-out"])
def test_a_folder_where_a_file_is_wanted_is_said(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    (tmp_path / "x.mp4").mkdir()
    assert "is a folder" in refusal([*words, option, str(tmp_path / "x.mp4")], capsys, 1)


@pytest.mark.usefixtures("nothing_computed")
def test_a_folder_that_can_not_be_written_is_said(
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert "can not be written: Permission denied" in refusal(words, capsys, 1)


def test_a_full_disk_is_one_sentence(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("generator.preview.write_preview", refuse)
    assert "disk is full" in refusal(words, capsys, 1)
    assert names_in(tmp_path / "out") == set()


def test_models_tiny_makes_a_folder_that_check_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "model"
    assert main(["models", "tiny", str(folder)]) == 0
    assert main(["models", "check", str(folder)]) == 0
    capsys.readouterr()
    assert "exists and is not empty" in refusal(["models", "tiny", str(folder)], capsys, 2)
    (folder / "vae" / "config.json").unlink()
    assert "vae/config.json is missing" in refusal(["models", "check", str(folder)], capsys, 1)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text("ascii"),
    reason="this system has no huge pages to give",
)
def test_torch_asks_for_huge_pages() -> None:
    code = (
        "from generator.__main__ import main\n"
        "main(['probe'])\n"
        "import generator.workshop, torch\n"
        "tensor = torch.ones(2**25)\n"
        "print(open('/proc/self/smaps_rollup').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    (kib,) = re.findall(r"AnonHugePages: +(\d+) kB", done)
    # A machine short of them may give fewer than the 128 MiB that were asked for.
    assert int(kib) > 0
