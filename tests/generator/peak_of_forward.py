"""A process of its own: one forward of a middle-sized transformer, and how much memory it took.

Run as `python peak_of_forward.py`; prints the bytes by which the peak exceeded what was held.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import torch

from generator.plan import transformer_inputs

SIZE, WINDOW = (384, 384), 9
CONFIG: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 128,
    "num_layers": 1,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "text_embed_dim": 256,
    "pooled_projection_dim": 64,
    "has_image_proj": True,
    "image_proj_dim": 128,
    "has_clean_x_embedder": True,
}


def build() -> Any:
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    return HunyuanVideoFramepackTransformer3DModel(**CONFIG)


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def main() -> None:
    torch.set_num_threads(1)
    transformer = build().eval()
    small = transformer_inputs(transformer.config, (64, 64), 1, torch.float32)
    call = transformer_inputs(transformer.config, SIZE, WINDOW, torch.float32)
    with torch.no_grad():
        transformer(**small, return_dict=False)  # loads kernels and takes what is taken once
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = memory("VmRSS")
        transformer(**call, return_dict=False)
    sys.stdout.write(f"{memory('VmHWM') - before}\n")


if __name__ == "__main__":
    main()
