"""The VAE's causal convolutions on a CPU, as sums of two-dimensional ones.

Decides: how diffusers' `HunyuanVideoCausalConv3d` is computed there, equal but for rounding. A
kernel of three temporal taps is three convolutions of shifted frames; a tap of zeros is none, and a
single frame, whose past is itself, needs but one with the kernel summed over time. 16-bit numbers
are added up in float32 and rounded once, as GPUs do it: few CPUs have such convolutions, and on one
without them a small bfloat16 job took 58 s with the library's and 6 s with these. Refuses to know:
the VAE around it. On a GPU the library's own way is the quick one, and stays.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def quicken(vae: Module) -> Module:
    """Have this VAE compute its causal convolutions so; for weights on a CPU."""
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d

    for module in vae.modules():
        if isinstance(module, HunyuanVideoCausalConv3d) and _is_plain(module.conv):
            module.forward = functools.partial(_convolve, module)
    return vae


def _is_plain(conv: nn.Conv3d) -> bool:
    """Whether it is what these models have: a cube without padding of its own or gaps."""
    cubic = len({*conv.kernel_size}) == 1
    return cubic and {*conv.padding} == {0} and {*conv.dilation} == {1} and conv.groups == 1


def _convolve(module: Any, video: Tensor) -> Tensor:
    """The module's own forward: (B, C, T, H, W) → (B, C', T', H', W')."""
    left, right, top, bottom, before, _ = module.time_causal_padding
    wide = torch.promote_types(video.dtype, torch.float32)
    kernel, bias = module.conv.weight.to(wide), module.conv.bias.to(wide)
    stride = module.conv.stride
    batch, _, frames, *_ = video.shape
    flat = F.pad(video.transpose(1, 2).flatten(0, 1), (left, right, top, bottom), module.pad_mode)
    flat = flat.to(wide)
    if frames == 1:
        made = F.conv2d(flat, kernel.sum(2), bias, stride[1:])
        return made.unflatten(0, (batch, 1)).transpose(1, 2).to(video.dtype)
    newest = torch.arange(0, frames, stride[0])
    made = F.conv2d(_frames_at(flat, batch, newest), kernel[:, :, before], bias, stride[1:])
    for past in range(1, before + 1):
        tap = kernel[:, :, before - past]
        if torch.is_grad_enabled() or tap.any():  # who learns may still change a tap of zeros
            earlier = _frames_at(flat, batch, (newest - past).clamp(min=0))
            made += F.conv2d(earlier, tap, None, stride[1:])
    return made.unflatten(0, (batch, -1)).transpose(1, 2).to(video.dtype)


def _frames_at(flat: Tensor, batch: int, times: Tensor) -> Tensor:
    """Of (B·T, C, H, W) the frames of each video at these times, without a copy if it is all."""
    frames = len(flat) // batch
    if torch.equal(times, torch.arange(frames)):
        return flat
    return flat.unflatten(0, (batch, frames))[:, times].flatten(0, 1)
