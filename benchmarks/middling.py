"""What the generator's benchmarks share: random models between tiny and real, jobs, peak memory.

Decides: sizes at which two CPU cores show proportions that mean something. Refuses to know: what a
benchmark compares.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TEXT, POOLED, IMAGE = 32, 24, 40  # the tiny model's widths


def make_model(folder: Path, *, heads: int, dual: int, single: int, vae_channels: int) -> Path:
    """The tiny model with a larger transformer (heads × 32, so many blocks) and another VAE."""
    import torch
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel

    from generator.tiny import make_tiny_model

    make_tiny_model(folder)
    torch.manual_seed(1)
    HunyuanVideoFramepackTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=32,
        num_layers=dual,
        num_single_layers=single,
        num_refiner_layers=1,
        mlp_ratio=4.0,
        text_embed_dim=TEXT,
        pooled_projection_dim=POOLED,
        rope_axes_dim=(4, 14, 14),
        has_image_proj=True,
        image_proj_dim=IMAGE,
        has_clean_x_embedder=True,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLHunyuanVideo(
        block_out_channels=(vae_channels,) * 4, layers_per_block=1, norm_num_groups=2
    ).save_pretrained(folder / "vae")
    return folder


def draw_picture(path: Path, size: int) -> Path:
    y, x = np.indices((size, size))
    Image.fromarray(np.stack([x * 2 % 256, y * 3 % 256, x ^ y], -1).astype(np.uint8)).save(path)
    return path


def open_workshop(model: Path) -> Any:
    """The generator's workshop on the CPU, with the defaults of `serve`.

    Call it before anything makes a tensor, as `serve` would.
    """
    from generator.__main__ import _parser, use_huge_pages

    use_huge_pages()
    from generator.workshop import open_workshop

    words = ["serve", "--model", str(model), "--device", "cpu", "--placement", "resident"]
    return open_workshop(_parser().parse_args(words))


def peak_rss_mib() -> float:
    """The most memory that this process has held so far."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class OwnMemoryPeak:
    """While it lasts: the most memory of this process's own, without files mapped from disk.

    Pages of the libraries come and go with what else the machine does. Sampled every ms; where
    the system does not tell the two apart (all but Linux) it is the peak of everything.
    """

    def __init__(self) -> None:
        self.mib = self._lap = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> OwnMemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            now = own_memory_mib()
            self.mib, self._lap = max(self.mib, now), max(self._lap, now)

    def lap(self) -> float:
        """The most since the last lap."""
        peak, self._lap = self._lap, 0.0
        return peak


def own_memory_mib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return peak_rss_mib()


def measured_apart(script: str, *words: object) -> dict[str, Any]:
    """What `script … --one WORDS` prints as its last line, in a process of its own."""
    command = [sys.executable, script, "--one", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=_environment())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(heads: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def about_this_machine() -> str:
    """One line: what the figures below were measured on."""
    import diffusers
    import torch

    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, no GPU used; "
        f"Python {platform.python_version()}, torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}; load before the run: {_load()}"
    )


def arguments(description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_with(root, os.environ.get("PYTHONPATH")))}


def _with(root: str, others: str | None) -> Iterator[str]:
    yield root
    if others:
        yield others


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
