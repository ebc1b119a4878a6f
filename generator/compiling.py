"""The transformer's blocks through torch.compile: faster steps, other rounding.

Decides: that each block is compiled by itself, with one graph for all blocks of a kind, and that
the tools for it are there before a job is taken. Refuses to know: where a block's weights lie.
Nothing of this happens unless the operator asks: the first steps take minutes, and it changes
values in their last digits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import torch
from torch import nn

from generator.errors import ModelError
from generator.stopping import ask_as_one_layer

BACKEND = "inductor"
LEAST_CAPABILITY = (7, 0)  # of a GPU, for Triton


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block's forward. Weights may be exchanged between calls: they are inputs."""
    for block in blocks:
        ask_as_one_layer(block)
        block.forward = torch.compile(block.forward, backend=BACKEND)


def refuse_without_compiler(device: torch.device) -> None:
    """ModelError, with what is missing, where blocks can not be compiled for this device."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if importlib.util.find_spec("triton") is None:
            raise ModelError(
                "compile is on, but Triton is not installed, which compiles for the GPU; install "
                "triton (on Windows triton-windows), or set compile = false."
            )
        if capability < LEAST_CAPABILITY:
            raise ModelError(
                f"compile is on, but Triton needs a GPU of compute capability 7.0, and "
                f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}; set "
                "compile = false."
            )
        return
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except (exc.InvalidCxxCompiler, OSError, RuntimeError):
        raise ModelError(
            "compile is on, but no C++ compiler was found; install one (g++, clang++ or Visual "
            "C++), or set compile = false."
        ) from None
