"""The latents of the demo model: a linear code, computed instead of learned.

Decides: the encoder's weights. An 8 × 8 block of pixels becomes its 16 strongest principal
components over the training pictures, so latents are known before anything was trained, differ
between pictures as pixels do, and cannot lag behind motion. Measured: 16 components keep 26 dB of
busy photos at 128 px, where an encoder that was trained for an hour had kept 22 dB in all.
Refuses to know: decoders, motion.

It is written into diffusers' own encoder: strided convolutions gather pixels, residual branches are
zero, and the last GroupNorm and SiLU, which are not linear, are made so: constant channels dominate
the norm, and silu(x) − silu(−x) = x.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, nn

CHANNELS = 16
LOG_VARIANCE = -30.0
"""Encoding has no noise of its own: the posterior is (nearly) a point."""
CONSTANT = 24.0
"""Size of the constant channels, beside components of about 1: the norm varies by 0.3 % at most."""
SPREAD = 0.3
"""Latents' standard deviations go with this power of the components' own, mean square 1. At 0 fine
detail would count as much as colour; at 1 it would drown in the noise of sampling."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """Two steps of gathering: 4 × 4 × 3 pixels → `inner` values, 2 × 2 of those → 16 latents."""

    inner: Tensor  # (inner, 3, 4, 4)
    inner_mean: Tensor  # (inner,)
    outer: Tensor  # (16, inner, 2, 2)
    outer_mean: Tensor  # (16,)


def fit_code(frames: Tensor, inner: int) -> Code:
    """The code of pictures (N, 3, H, W) in -1..1, through `inner` values for 4 × 4 pixels."""
    first, mean, _ = _components(_blocks(frames, 4), inner)
    small = nn.functional.conv2d(frames, first.view(inner, 3, 4, 4), -first @ mean, stride=4)
    second, centre, deviations = _components(_blocks(small, 2), CHANNELS)
    wanted = deviations**SPREAD
    wanted = wanted / wanted.square().mean().sqrt()
    second = second * (wanted / deviations)[:, None]
    return Code(
        inner=first.view(inner, 3, 4, 4),
        inner_mean=-first @ mean,
        outer=second.view(CHANNELS, inner, 2, 2),
        outer_mean=-second @ centre,
    )


def _blocks(frames: Tensor, side: int) -> Tensor:
    return nn.functional.unfold(frames, side, stride=side).transpose(1, 2).flatten(0, 1)


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest directions (count, D) of rows (N, D), the rows' mean, the deviations along."""
    rows = rows.double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    strongest = vectors[:, -count:].flip(1).T
    # An eigenvector's sign is the library's whim.
    strongest = strongest * strongest.sum(1, keepdim=True).sign()
    return strongest.float(), mean.float(), values[-count:].flip(0).sqrt().float()


@torch.no_grad()
def write_code(vae: AutoencoderKLHunyuanVideo, code: Code) -> None:
    """Make the encoder and quant_conv of `vae` compute `code`, whatever they were."""
    encoder = vae.encoder
    for module in (*encoder.modules(), vae.quant_conv):
        if isinstance(module, nn.Conv3d):
            module.weight.zero_()
            module.bias.zero_()
    _pass_on(encoder.conv_in.conv, 3)
    pixels, quarters, inner = 3, 12, len(code.inner)
    kept = (pixels, quarters, inner, 2 * CHANNELS)
    for block, count in zip(encoder.down_blocks, kept, strict=True):
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                _pass_on(resnet.conv_shortcut.conv, count)
    first, second, third = (block.downsamplers[0].conv.conv for block in encoder.down_blocks[:3])
    for k in range(quarters):  # channel k of 2 × 2 pixels: colour k // 4, row, column
        first.weight[k, k // 4, -1, 1 + k // 2 % 2, 1 + k % 2] = 1
    # Row 2p + q of the 4 × 4 pixels is row q of the inner 2 × 2, row p of the outer one.
    gathered = code.inner.view(inner, 3, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4)
    second.weight[:inner, :quarters, -1, 1:, 1:] = gathered.reshape(inner, quarters, 2, 2)
    second.bias[:inner] = code.inner_mean
    both = torch.cat([code.outer, -code.outer])
    third.weight[: 2 * CHANNELS, :inner, -1, 1:, 1:] = both
    third.bias[: 2 * CHANNELS] = torch.cat([code.outer_mean, -code.outer_mean])
    constant = third.bias[2 * CHANNELS :]
    constant[0::2], constant[1::2] = CONSTANT, -CONSTANT
    norm = encoder.conv_norm_out
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)
    share = len(constant) / len(third.bias)
    size = (share * CONSTANT**2 + 2 * CHANNELS / len(third.bias)) ** 0.5
    for k in range(CHANNELS):
        encoder.conv_out.conv.weight[k, k, -1, 1, 1] = size
        encoder.conv_out.conv.weight[k, CHANNELS + k, -1, 1, 1] = -size
    _pass_on(vae.quant_conv, CHANNELS)
    vae.quant_conv.bias[CHANNELS:] = LOG_VARIANCE


def _pass_on(convolution: nn.Conv3d, channels: int) -> None:
    """Hand the first `channels` on as they are."""
    middle = convolution.kernel_size[1] // 2
    for k in range(channels):
        convolution.weight[k, k, -1, middle, middle] = 1
