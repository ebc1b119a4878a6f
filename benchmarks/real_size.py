"""Each part of FramePack at its real size, with random weights, run once on the CPU from its files.

    python benchmarks/real_size.py FOLDER            about 40 GB of disk, some minutes
    python benchmarks/real_size.py FOLDER --layers 2 a small one: two layers of each kind
    python benchmarks/real_size.py FOLDER --keep     the weights stay; the next run takes them

Prints, per part, the peak of anonymous memory (what a machine must have), what was read, and the
time: it shows that `disk` needs no more RAM than `framepack-bot plan` says, on any machine, with no
GPU and no download. Latents are small: memory of weights is measured here, not of activations.
FOLDER must not exist, or be one of --keep; it is deleted at the end unless --keep. Linux only: it
reads /proc.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generator.encoders import decode_latents, encode_image, encode_latent
from generator.machine import give_back_freed_memory
from generator.models import ModelFolder
from generator.placement import Placement
from generator.plan import empty_module, read_configs, transformer_inputs
from generator.protocol import Mode
from generator.tiny import make_tiny_model

GIB = 2**30
SHARD_BYTES = 5 * 10**9
PATTERN_NUMBERS = 2**24
SMALL_FILES = ("tokenizer", "tokenizer_2", "feature_extractor")
LAYER_COUNTS = ("num_layers", "num_single_layers", "num_hidden_layers")
TOKENS, SIDE = 32, 64
KEPT = "written-by-real-size"


@dataclass(kw_only=True)
class Measured:
    """What one run took."""

    seconds: float = 0.0
    peak_anonymous: int = 0
    read_bytes: int = 0


def main() -> None:
    arguments = _arguments()
    folder: Path = arguments.folder
    is_kept = (folder / KEPT).exists()
    if folder.exists() and not is_kept:
        sys.exit(f"{folder} exists; name a folder that this may create and delete")
    configs = read_configs(None)
    for config in configs.values():
        for name in LAYER_COUNTS:
            if arguments.layers and name in config:
                config[name] = min(config[name], arguments.layers)
    try:
        if not is_kept:
            began = time.monotonic()
            size = write_model(folder, configs)
            print(f"wrote {size / GIB:.1f} GiB in {time.monotonic() - began:.0f} s", flush=True)
            (folder / KEPT).touch()
        run_all(folder, arguments.dtype, arguments.parts)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="layers of each kind; all of them without it")
    parser.add_argument("--dtype", default="bfloat16", help="what it computes in")
    parser.add_argument("--parts", nargs="+", default=[*_RUNS], choices=[*_RUNS])
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    return parser.parse_args()


def write_model(folder: Path, configs: dict[str, dict[str, Any]]) -> int:
    """A model folder of random bfloat16 weights in those configurations; returns its bytes."""
    needed, shapes = 0, {}
    for part, config in configs.items():
        module = empty_module(part, config)
        shapes[part] = {name: tuple(p.shape) for name, p in module.named_parameters()}
        needed += 2 * sum(math.prod(shape) for shape in shapes[part].values())
    free = shutil.disk_usage(folder.absolute().parent).free
    if needed + GIB > free:
        sys.exit(f"{needed / GIB:.1f} GiB are needed at {folder}, {free / GIB:.1f} GiB are free")
    with tempfile.TemporaryDirectory() as scratch:
        make_tiny_model(Path(scratch))
        for name in SMALL_FILES:
            shutil.copytree(Path(scratch) / name, folder / name)
    for part, config in configs.items():
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config), "utf-8")
        _write_shards(folder / part, shapes[part])
    return needed


def _write_shards(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(PATTERN_NUMBERS, generator=generator).mul_(0.02).to(torch.bfloat16)
    raw = pattern.view(torch.uint8).numpy().data
    weight_map, shard, size = {}, dict[str, tuple[int, ...]](), 0
    plural = "diffusion_pytorch_model" if folder.name in ("vae", "transformer") else "model"
    for name, shape in [*sorted(shapes.items()), ("", ())]:
        nbytes = 2 * math.prod(shape)
        if shard and (not name or size + nbytes > SHARD_BYTES):
            file = f"{plural}-{len(set(weight_map.values())) + 1:05d}.safetensors"
            _write_file(folder / file, shard, raw)
            weight_map |= dict.fromkeys(shard, file)
            shard, size = {}, 0
        shard[name], size = shape, size + nbytes
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{plural}.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _write_file(file: Path, shapes: dict[str, tuple[int, ...]], raw: memoryview) -> None:
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = place + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [place, end]}  # type: ignore[dict-item]
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        while place:
            place -= stream.write(raw[: min(place, len(raw))])


def run_all(folder: Path, dtype: str, parts: list[str]) -> None:
    """Run the parts in the order of a job and print the table."""
    give_back_freed_memory()  # as the generator does at its start
    placement = Placement(ModelFolder(folder), device="cpu", dtype=dtype, mode=Mode.DISK)
    print(placement.why)
    print(f"before anything: {_status('RssAnon') / GIB:.2f} GiB anonymous\n")
    print(f"{'part':<16}{'run':>5}{'s':>8}{'anonymous GiB':>15}{'read GiB':>10}", flush=True)
    for part in parts:
        run = _RUNS[part]
        _forget_pages(folder / part)
        with torch.inference_mode():
            for number in range(2 if part == "transformer" else 1):
                with _measuring() as measured, placement.on_gpu(part) as module:
                    run(module)
                    del module  # what is given back below must not be held here
                print(
                    f"{part:<16}{number + 1:>5}{measured.seconds:>8.1f}"
                    f"{measured.peak_anonymous / GIB:>15.2f}{measured.read_bytes / GIB:>10.2f}",
                    flush=True,
                )
    placement.unload()
    print(f"\nafter unload: {_status('RssAnon') / GIB:.2f} GiB anonymous")


def _run_llama(llama: Any) -> None:
    llama(torch.arange(TOKENS)[None], output_hidden_states=True, use_cache=False)


def _run_clip(clip: Any) -> None:
    clip(torch.arange(TOKENS)[None])


def _run_siglip(siglip: Any) -> None:
    side = siglip.config.image_size
    encode_image(_Pixels(side), siglip, np.zeros((side, side, 3), np.uint8))


class _Pixels:
    """A feature extractor that makes grey."""

    def __init__(self, side: int):
        self.pixel_values = torch.zeros(1, 3, side, side)

    def __call__(self, **_: Any) -> _Pixels:
        return self


def _run_vae(vae: Any) -> None:
    latent = encode_latent(vae, np.zeros((SIDE, SIDE, 3), np.uint8))
    decode_latents(vae, latent.expand(-1, -1, 2, -1, -1))


def _run_transformer(transformer: Any) -> None:
    dtype = next(transformer.x_embedder.parameters()).dtype
    call = transformer_inputs(transformer.config, (SIDE, SIDE), 1, dtype)
    for name in ("encoder_hidden_states", "encoder_attention_mask", "image_embeds"):
        call[name] = call[name][:, :TOKENS]
    transformer(**call, return_dict=False)


_RUNS: dict[str, Callable[[Any], None]] = {
    "text_encoder": _run_llama,
    "text_encoder_2": _run_clip,
    "image_encoder": _run_siglip,
    "transformer": _run_transformer,
    "vae": _run_vae,
}


@contextmanager
def _measuring() -> Iterator[Measured]:
    measured, stop = Measured(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            measured.peak_anonymous = max(measured.peak_anonymous, _status("RssAnon"))

    watcher = threading.Thread(target=watch)
    read, began = _bytes_read(), time.monotonic()
    watcher.start()
    try:
        yield measured
    finally:
        stop.set()
        watcher.join()
        measured.seconds = time.monotonic() - began
        measured.read_bytes = _bytes_read() - read


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def _bytes_read() -> int:
    """By read calls; whether from the disk or from memory is the system's business."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def _forget_pages(folder: Path) -> None:
    """Let the next reads come from the disk."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
