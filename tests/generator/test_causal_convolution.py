"""The quicker convolutions are the library's, whatever the kernel and the number of frames."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d
from torch import nn

from generator.causal_convolution import quicken
from generator.models import ModelFolder
from generator.placement import Placement

VAE = {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture(scope="module")
def vaes() -> tuple[nn.Module, nn.Module]:
    """The library's and the quick one, with the same weights."""
    torch.manual_seed(3)
    real = AutoencoderKLHunyuanVideo(**VAE).eval()
    return real, quicken(copy.deepcopy(real))


@pytest.mark.parametrize("frames", [1, 5, 9])
@torch.inference_mode()
def test_encoder_and_decoder_are_the_librarys(
    vaes: tuple[nn.Module, nn.Module], frames: int
) -> None:
    real, quick = vaes
    video = torch.randn(2, 3, frames, 16, 24)
    torch.testing.assert_close(quick.encoder(video), real.encoder(video), atol=1e-4, rtol=0)
    latents = torch.randn(2, 16, (frames - 1) // 4 + 1, 2, 4)
    torch.testing.assert_close(quick.decoder(latents), real.decoder(latents), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frames", [1, 5])
@torch.inference_mode()
def test_sixteen_bits_are_added_up_in_float32_and_rounded_once(
    dtype: torch.dtype, frames: int
) -> None:
    real = HunyuanVideoCausalConv3d(32, 5, 3).to(dtype)
    video = torch.randn(1, 32, frames, 8, 8).to(dtype)
    made = quicken(copy.deepcopy(real))(video)
    once = real.float()(video.float())
    assert made.dtype is dtype
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(made.float(), once, rtol=0.51 * step, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, (1, 2, 2), (2, 1, 1), 2, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@torch.inference_mode()
def test_a_single_convolution_in_all_its_shapes(kernel: int, stride: int, frames: int) -> None:
    real = HunyuanVideoCausalConv3d(3, 5, kernel, stride)
    video = torch.randn(2, 3, frames, 7, 9)
    torch.testing.assert_close(quicken(copy.deepcopy(real))(video), real(video))


@pytest.mark.parametrize("zeros", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
@torch.inference_mode()
def test_taps_of_zeros_are_left_out_and_nothing_else(zeros: tuple[int, ...]) -> None:
    real = HunyuanVideoCausalConv3d(3, 5, 3)
    for tap in zeros:
        real.conv.weight[:, :, tap] = 0
    video = torch.randn(1, 3, 6, 8, 8)
    torch.testing.assert_close(quicken(copy.deepcopy(real))(video), real(video))


def test_taps_of_zeros_can_learn() -> None:
    real = HunyuanVideoCausalConv3d(3, 5, 3)
    with torch.no_grad():
        real.conv.weight[:, :, :2] = 0
    quick, video = quicken(copy.deepcopy(real)), torch.randn(1, 3, 6, 8, 8)
    for module in (real, quick):
        module(video).square().sum().backward()
    gradients = [module.conv.weight.grad for module in (quick, real)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
    assert real.conv.weight.grad[:, :, 0].any()


@torch.inference_mode()
def test_what_it_does_not_know_it_leaves_alone() -> None:
    real = HunyuanVideoCausalConv3d(3, 5, 3, padding=1)
    video = torch.randn(1, 3, 4, 8, 8)
    assert torch.equal(quicken(copy.deepcopy(real))(video), real(video))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_is_the_way_of_the_cpu(tiny_model: Path, dtype: str) -> None:
    placement = Placement(ModelFolder(tiny_model), device="cpu", dtype=dtype)
    with placement.on_gpu("vae") as vae:
        assert "forward" in vars(vae.decoder.conv_in)
