"""`framepack-bot models` against a small hub: broken, gated, lying, and well."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_hub import TOKEN, SmallHub

from generator import hub as hub_module
from generator.__main__ import main
from generator.download import LOCK_NAME, Lock
from generator.errors import ModelError
from generator.hub import SOURCES, needed_files
from generator.licences import CONSENT_NAME, ask_consent
from generator.models import ModelFolder
from generator.protocol import Variant

LLAMA = "text_encoder/model.safetensors"
HUNYUAN = SOURCES[0].repository
NEEDLESS = ("README.md", "transformer/x.safetensors", "text_encoder/model.fp16.safetensors")


@pytest.fixture
def hub(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    """The tiny model as the four repositories of FramePack, with things nobody needs beside it."""
    import huggingface_hub.constants

    running = SmallHub()
    for source in SOURCES:
        for theirs, ours in source.folders.items():
            running.add_folder(source.repository, tiny_model / ours, theirs)
    files = running.repositories[HUNYUAN]
    files.update(dict.fromkeys(NEEDLESS, b"nobody needs this"))
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.url)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("generator.download.SPARE_BYTES", 0)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits a second before it retries
    yield running
    running.close()


def models(*words: str | Path) -> int:
    return main(["models", *map(str, words)])


def download(folder: Path, *words: str) -> int:
    return models("download", folder, "--accept-licences", *words)


def test_a_download_makes_a_model_folder_and_a_lock(hub: SmallHub, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    assert download(folder) == 0
    ModelFolder(folder)
    lock = json.loads((folder / LOCK_NAME).read_text())
    assert {entry["commit"] for entry in lock["repositories"].values()} == {hub.commit}
    assert len(lock["repositories"]) == 4
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*.safetensors")}
    assert on_disk == {n for n in Lock(folder).files() if n.endswith(".safetensors")}
    assert not {*hub.fetched()} & {*NEEDLESS}
    assert models("verify", folder) == 0


def test_main_is_resolved_once_and_then_kept(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download(tmp_path, "--variant", "f1") == 0
    assert hub.commit in capsys.readouterr().out
    hub.requests.clear()
    assert download(tmp_path) == 0
    asked = [path.rsplit("/", 1)[1] for _, path, _ in hub.requests if path.startswith("/api/")]
    assert sorted(asked) == sorted([hub.commit] * 3 + ["main"])  # only I2V's is new
    assert set(hub.fetched()) == set(hub.repositories[SOURCES[2].repository])


def test_an_update_fetches_what_has_changed_and_nothing_else(hub: SmallHub, tmp_path: Path) -> None:
    """Other weights of the same shapes are as large as those before, and so is a typo's repair."""
    assert download(tmp_path) == 0
    config = "text_encoder/config.json"
    files = hub.repositories[HUNYUAN]
    changed = {LLAMA: files[LLAMA][:-1] + b"!", config: files[config].replace(b": ", b" :")}
    files.update(changed)
    hub.commit = hub.commit[::-1]
    hub.requests.clear()
    assert download(tmp_path, "--update") == 0
    assert set(hub.fetched()) == {*changed}
    assert {name: (tmp_path / name).read_bytes() for name in changed} == changed
    assert models("verify", tmp_path) == 0


def test_f1_alone_does_without_the_other_transformer(hub: SmallHub, tmp_path: Path) -> None:
    assert download(tmp_path, "--variant", "f1") == 0
    model = ModelFolder(tmp_path)
    assert model.transformer_part(Variant.F1) == "transformer_f1"
    with pytest.raises(ModelError, match=r"no transformer for i2v.*--variant i2v"):
        model.transformer_part(Variant.I2V)


def test_a_broken_connection_goes_on_where_it_stopped(hub: SmallHub, tmp_path: Path) -> None:
    hub.cut_after[LLAMA] = [1000, 500]
    assert download(tmp_path) == 0
    ranges = [wanted for _, path, wanted in hub.requests if path.endswith(LLAMA)]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert models("verify", tmp_path) == 0


def test_a_later_run_goes_on_where_an_earlier_one_died(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.cut_after[LLAMA] = [1000, *[0] * 20]
    assert download(tmp_path) == 1
    said = capsys.readouterr().err
    assert "goes on where it stopped" in said and str(tmp_path / "vae") in said
    assert (tmp_path / (LLAMA + ".part")).stat().st_size == 1000
    hub.cut_after.clear()
    hub.requests.clear()
    assert download(tmp_path) == 0
    assert [w for _, path, w in hub.requests if path.endswith(LLAMA)] == ["bytes=1000-"]


def test_a_wrong_hash_is_named_and_not_kept(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.lies[LLAMA] = "f" * 64
    assert download(tmp_path) == 1
    assert "ffffffff" in capsys.readouterr().err
    assert not (tmp_path / LLAMA).exists() and not (tmp_path / (LLAMA + ".part")).exists()
    assert LLAMA not in Lock(tmp_path).files()


def test_a_full_disk_is_found_before_the_first_byte(
    hub: SmallHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    assert download(tmp_path) == 1
    assert "0.0 GiB are free" in capsys.readouterr().err
    assert hub.fetched() == []


def test_a_disk_that_fills_up_keeps_what_came(
    hub: SmallHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(url: str, stream: object, **_: object) -> None:
        stream.write(b"the first bytes")  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert download(tmp_path) == 1
    assert "No space left" in capsys.readouterr().err
    assert [p.read_bytes() for p in tmp_path.rglob("*.part")] == [b"the first bytes"]


def test_a_gated_repository_asks_for_a_token(
    hub: SmallHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.gated.add(SOURCES[1].repository)
    assert download(tmp_path) == 1
    said = capsys.readouterr().err
    assert "gated" in said and "HF_TOKEN" in said and SOURCES[1].repository in said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert download(tmp_path) == 0


def test_verify_names_what_changed(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert download(tmp_path) == 0
    weights = tmp_path / LLAMA
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (tmp_path / "vae" / "config.json").unlink()
    assert models("verify", tmp_path) == 1
    said = capsys.readouterr().err
    assert LLAMA in said and "vae/config.json is missing" in said


def test_files_copied_by_hand_are_checked_not_fetched(
    hub: SmallHub, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model / "vae", tmp_path / "vae")
    assert download(tmp_path) == 0
    assert not [name for name in hub.fetched() if name.startswith("vae/")]
    assert "vae/config.json" in Lock(tmp_path).files()


def test_remove_frees_only_what_was_named(hub: SmallHub, tmp_path: Path) -> None:
    assert download(tmp_path) == 0
    assert models("remove", tmp_path, "--variant", "f1", "--yes") == 0
    assert not (tmp_path / "transformer_f1").exists()
    assert not [name for name in Lock(tmp_path).files() if "f1" in name]
    assert models("verify", tmp_path) == 0


def test_convert_writes_a_copy_in_8_bits_beside_each_transformer(
    tiny_model: Path, tmp_path: Path
) -> None:
    for part in tiny_model.iterdir():
        if part.is_dir() and part.name != "transformer":
            shutil.copytree(part, tmp_path / part.name)
    assert models("convert", tmp_path, "--fp8") == 0
    before = tmp_path / "transformer_f1" / "diffusion_pytorch_model.safetensors"
    after = list((tmp_path / "transformer_f1_fp8").glob("*.safetensors"))
    assert sum(file.stat().st_size for file in after) < 0.8 * before.stat().st_size
    assert not (tmp_path / "transformer_fp8").exists()


def test_without_consent_nothing_is_fetched(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert models("download", tmp_path) == 1
    said = capsys.readouterr().err
    assert "--accept-licences" in said and "South Korea" in said and "FLUX" in said
    assert hub.fetched() == []


def test_consent_is_kept_and_a_new_licence_is_a_new_question(hub: SmallHub, tmp_path: Path) -> None:
    listings = [hub_module.list_source(source, "main") for source in SOURCES]
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "yes"

    for _ in range(2):
        ask_consent(tmp_path, listings, accepted=False, ask=answer)
    assert len(asked) == 1
    assert json.loads((tmp_path / CONSENT_NAME).read_text())[HUNYUAN]["accepted"] == "typed"
    hub.licences[HUNYUAN] = {"license": "another"}
    listings[0] = hub_module.list_source(SOURCES[0], "main")
    with pytest.raises(ModelError, match="nothing was downloaded"):
        ask_consent(tmp_path, listings, accepted=False, ask=lambda _: "no")


def test_a_repository_that_changed_its_layout_is_refused(hub: SmallHub, tmp_path: Path) -> None:
    files = hub.repositories[HUNYUAN]
    for name in [name for name in files if name.startswith("vae/")]:
        del files[name]
    with pytest.raises(ModelError, match=r"no file for vae/"):
        hub_module.list_source(SOURCES[0], "main")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["config.json", "model.safetensors", "model.bin"], ["config.json", "model.safetensors"]),
        (
            [
                "m-00001-of-00002.safetensors",
                "m-00002-of-00002.safetensors",
                "m.safetensors",
                "m.safetensors.index.json",
                "m.fp16-00001-of-00001.safetensors",
                "m.safetensors.index.fp16.json",
            ],
            [
                "m-00001-of-00002.safetensors",
                "m-00002-of-00002.safetensors",
                "m.safetensors.index.fp16.json",
                "m.safetensors.index.json",
            ],
        ),
        (["model.fp16.safetensors"], ["model.fp16.safetensors"]),
        (["deeper/config.json", "LICENSE"], []),
    ],
)
def test_only_what_a_part_needs_is_chosen(names: list[str], expected: list[str]) -> None:
    assert needed_files(names, "") == expected


def test_the_endpoint_of_the_environment_is_used(hub: SmallHub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "generator", "models", "download", tmp_path / "model"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert hub.commit in done.stdout
    assert done.returncode == 1 and "--accept-licences" in done.stderr
