"""Weights of the transformer's blocks in 8 bits: half the memory, nearly the same pictures.

Decides: which tensors are stored in float8_e4m3fn, and how a converted copy is written. They are
cast back to the compute dtype where they are used. Embedders, the output layer, norms and biases
keep their precision. Nothing of this happens unless the operator asks: it changes values.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from generator.errors import ModelError
from generator.models import ModelFolder, folder_digest
from generator.protocol import Storage
from generator.tensor_files import TensorFiles

NOTE_NAME = "fp8.json"
SHARD_BYTES = 4 * 2**30
_BLOCK = re.compile(r"(?:single_)?transformer_blocks\.\d+\.")
_MODULATION = re.compile(r"\.norm\w*\.linear\.weight$")


def is_fp8(name: str, shape: tuple[int, ...], storage: Storage) -> bool:
    """Whether that storage holds the tensor in 8 bits."""
    if storage is Storage.NATIVE or len(shape) != 2 or not _BLOCK.match(name):
        return False
    return storage is Storage.FP8 or not _MODULATION.search(name)


def refuse_without_fp8(device: torch.device, storage: Storage) -> None:
    """ModelError where this device, or this torch, can not turn 8 bits into a number."""
    if storage is Storage.NATIVE:
        return
    try:
        torch.ones(8, device=device).to(torch.float8_e4m3fn).to(torch.bfloat16)
    except (RuntimeError, NotImplementedError) as error:
        name = str(device)
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"storage is {storage}, but {name} can not convert 8-bit numbers with torch "
            f"{torch.__version__} ({reason}); set storage = native."
        ) from error


def convert(source: Path, target: Path, advance: Callable[[int], None]) -> Path:
    """Write `target`, a copy of the transformer in `source` with its blocks in fp8.

    One shard is in memory at a time. A target that exists is replaced once the new one is whole.
    """
    files = TensorFiles(source)
    partial = target.with_name(target.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(source / "config.json", partial / "config.json")
    shard: dict[str, Tensor] = {}
    weight_map: dict[str, str] = {}
    for name, entry in files.entries.items():
        tensor = files.read(name)
        if is_fp8(name, entry.shape, Storage.FP8):
            tensor = tensor.to(torch.float8_e4m3fn)
        shard[name] = tensor
        advance(entry.nbytes)
        if sum(t.nbytes for t in shard.values()) >= SHARD_BYTES:
            _write_shard(partial, shard, weight_map)
    _write_shard(partial, shard, weight_map)
    files.close()
    index = {"metadata": {}, "weight_map": weight_map}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (partial / name).write_text(json.dumps(index, indent=1), "utf-8")
    note = {"storage": Storage.FP8, "source_digest": folder_digest(source)}
    (partial / NOTE_NAME).write_text(json.dumps(note), "utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def converted_folder(model: ModelFolder, part: str, storage: Storage) -> Path | None:
    """The converted copy of a transformer, if there is one. ModelError: it is of other weights."""
    folder = model.path / f"{part}_fp8"
    if storage is not Storage.FP8 or not (folder / NOTE_NAME).is_file():
        return None
    made_from = json.loads((folder / NOTE_NAME).read_text("utf-8")).get("source_digest")
    if made_from != folder_digest(model.path / part):
        raise ModelError(
            f"{folder} was made from other weights than {model.path / part}; run "
            f"`framepack-bot models convert {model.path} --fp8`."
        )
    return folder


def _write_shard(folder: Path, shard: dict[str, Tensor], weight_map: dict[str, str]) -> None:
    if not shard:
        return
    number = len(set(weight_map.values())) + 1
    name = f"diffusion_pytorch_model-{number:05d}.safetensors"
    save_file(shard, folder / name, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(shard, name)
    shard.clear()
