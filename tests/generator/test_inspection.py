"""What is wrong with weights is said before a job is taken, with the numbers and what to do."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from generator import inspection
from generator.__main__ import main
from generator.download import LOCK_NAME, hash_file, spots_of
from generator.errors import ModelError
from generator.inspection import inspect_weights
from generator.models import ModelFolder, open_model


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def weights_of(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


def change(folder: Path, part: str, by: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = weights_of(folder, part)
    tensors = load_file(file)
    by(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        inspect_weights(ModelFolder(folder))
    return str(caught.value)


def test_good_weights_pass(folder: Path) -> None:
    inspect_weights(ModelFolder(folder))


def test_the_model_that_is_shipped_passes() -> None:
    inspect_weights(open_model("demo"))


def test_half_a_download(folder: Path) -> None:
    partial = folder / "transformer" / "diffusion_pytorch_model.safetensors.part"
    partial.write_bytes(bytes(2**20 * 30))
    said = refused(folder)
    assert "transformer/diffusion_pytorch_model.safetensors is half a download (0.03 GiB" in said
    assert "models download" in said


def test_a_file_that_ends_too_early(folder: Path) -> None:
    file = weights_of(folder, "text_encoder")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert f"it has {len(whole) - 100:,} of {len(whole):,} bytes" in refused(folder)


def test_a_shard_of_another_model(folder: Path) -> None:
    shutil.copyfile(weights_of(folder, "vae"), weights_of(folder, "transformer"))
    said = refused(folder)
    assert "transformer/ holds weights of another model than its config.json describes" in said
    assert "which is missing" in said


@pytest.mark.parametrize("part", ["text_encoder_2", "image_encoder", "vae"])
def test_a_file_of_another_part(folder: Path, part: str) -> None:
    shutil.copyfile(weights_of(folder, "text_encoder"), weights_of(folder, part))
    said = refused(folder)
    assert f"{part}/ holds weights of another model" in said and "too few" in said


def test_a_transformer_of_another_architecture(folder: Path) -> None:
    # Plain HunyuanVideo has no embedder of what was made before.
    change(folder, "transformer", lambda t: [t.pop(n) for n in [*t] if "clean_x_embedder" in n])
    said = refused(folder)
    assert "transformer/" in said and "6 tensors do not fit, such as clean_x_embedder." in said


def test_a_transformer_of_another_width(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    facts = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**facts, "num_attention_heads": 4}), "utf-8")
    assert "of shape [64" in refused(folder)


def test_a_config_that_the_class_refuses(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    facts = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**facts, "block_out_channels": "wide"}), "utf-8")
    assert "vae could not be loaded" in refused(folder)


def test_numbers_that_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SMALL_BYTES", 100)
    inspect_weights(ModelFolder(folder))
    change(folder, "vae", lambda tensors: [t.fill_(torch.nan) for t in tensors.values()])
    assert "of vae/ holds NaN or Inf" in refused(folder)


def test_holes_of_a_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SMALL_BYTES", 100)
    file = weights_of(folder, "transformer")
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    file.write_bytes(raw[: 8 + length] + bytes(len(raw) - 8 - length))
    assert "of transformer/ is empty at" in refused(folder)


def write_lock(folder: Path) -> None:
    files = {}
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in {".json", ".safetensors"}:
            entry = {"size": file.stat().st_size, "sha256": hash_file(file)[0]}
            files[file.relative_to(folder).as_posix()] = {**entry, "spots": spots_of(file)}
    entry = {"commit": "c" * 40, "licence": "-", "files": files}
    lock = {"version": 1, "repositories": {"somebody/model": entry}}
    (folder / LOCK_NAME).write_text(json.dumps(lock), "utf-8")


def test_what_the_lock_file_knows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(folder)
    inspect_weights(ModelFolder(folder))
    monkeypatch.setattr(inspection, "SMALL_BYTES", 10_000)  # as if the weights were large
    # The other variant's weights: the same names, shapes and size.
    shutil.copyfile(weights_of(folder, "transformer_f1"), weights_of(folder, "transformer"))
    said = refused(folder)
    assert "transformer/" in said and "is damaged, or another file of the same size" in said
    weights_of(folder, "transformer").write_bytes(b"short")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text("utf-8")[::-1].replace(":", " ", 1)[::-1], "utf-8")
    short, other = inspection._against_lock(folder)
    assert "has 5 bytes instead of" in short
    assert "vae/config.json is not the file that was downloaded" in other


def test_the_commands_say_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "--model", str(folder), "--device", "cpu"]
    assert main(words) == 0
    assert "resident: it computes on the CPU" in capsys.readouterr().out
    shutil.copyfile(weights_of(folder, "vae"), weights_of(folder, "transformer_f1"))
    assert main(words) == 1
    assert "transformer_f1/ holds weights of another model" in capsys.readouterr().err
    assert main(["models", "check", str(folder)]) == 1
