"""The VAE stage: a decoder for a code of pictures, without lag behind motion.

Decides: the small config of `AutoencoderKLHunyuanVideo`, the decoder's loss and its temporal taps.
The encoder is computed (`training.code`), so latents never change while this stage runs, and the
transformer may be trained before it or beside it. Refuses to know: captions, the transformer. It
runs nothing but diffusers' own class.

Training sees single frames only, where a causal kernel acts by the sum of its temporal taps. What
the taps are is then set, not learned (`set_taps`): each latent is the code of its newest frame, and
the decoder fades from one latent to the next. Measured on pans and zooms at the demo model's speed,
frames between latents are within 0.2 dB of those at latents; kernels left as trained lag by 20.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import (
    HunyuanVideoResnetBlockCausal3D,
    HunyuanVideoUpsampleCausal3D,
)
from PIL import Image
from torch import Tensor, nn

from generator.causal_convolution import quicken
from training.captions import Motion
from training.code import CHANNELS, fit_code, write_code
from training.data import Pictures, render
from training.optimizing import Average, Optimizers, curve, load_state, save_state
from training.pair import average_gradients, progress_bar, rank
from training.scenes import panoramas, photographs

log = logging.getLogger(__name__)

CONFIG = {
    "latent_channels": CHANNELS,
    "block_out_channels": (24, 32, 64, 64),
    "layers_per_block": 1,
    # With two channels a group GroupNorm loses flat colours; one group keeps them.
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
INNER = CONFIG["block_out_channels"][1]
CODE_CROPS = 3000
EDGE = ("conv_in", "conv_out", "post_quant_conv")
NOISE = 0.1
"""The most noise on the latents: sampling never makes them perfectly."""


def make_code(folder: Path, pictures: Path) -> Path:
    """Write the diffusers folder of a VAE that encodes, and whose decoder knows nothing yet."""
    torch.manual_seed(11)
    rng, source = np.random.default_rng(13), Pictures(pictures)
    frames = torch.stack([crop(source.draw(rng), 64, rng) for _ in range(CODE_CROPS)])
    vae = AutoencoderKLHunyuanVideo(**CONFIG)
    write_code(vae, fit_code(frames, INNER))
    vae.save_pretrained(folder)
    return folder


class Autoencoder(nn.Module):
    """The real class as training uses it: the encoder fixed, each latent one frame."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo):
        super().__init__()
        self.vae = quick(vae)
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in -1..1 → latents (B, 16, 1 + (T − 1)/4, H/8, W/8).

        Each latent is the code of its newest frame alone; what lies between two of them is the
        decoder's to draw.
        """
        newest = video[:, :, ::4].transpose(1, 2).flatten(0, 1).unsqueeze(2)
        latents = self.vae.encode(newest).latent_dist.mode()
        return latents.squeeze(2).unflatten(0, (len(video), -1)).transpose(1, 2)

    def forward(self, video: Tensor) -> Tensor:
        """The video after a round trip."""
        return self.decode(self.encode(video))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 16, T, h, w) → video (B, 3, 4T − 3, 8h, 8w) in about -1..1."""
        return self.vae.decoder(self.vae.post_quant_conv(latents))

    def loss(self, video: Tensor, noise: float) -> Tensor:
        """The error of a round trip with Gaussian noise on the latents."""
        with torch.no_grad():
            latents = self.encode(video)
        return reconstruction_loss(self.decode(latents + noise * torch.randn_like(latents)), video)


def quick(vae: AutoencoderKLHunyuanVideo) -> AutoencoderKLHunyuanVideo:
    """Compute this instance faster on a CPU, and a computed encoder's idle branches not at all."""
    for module in vae.encoder.modules():
        if isinstance(module, HunyuanVideoResnetBlockCausal3D):
            idle = not module.conv2.conv.weight.any() and not module.conv2.conv.bias.any()
            if idle:
                module.forward = functools.partial(_shortcut, module)
    return quicken(vae)


def _shortcut(module: HunyuanVideoResnetBlockCausal3D, video: Tensor) -> Tensor:
    return video if module.conv_shortcut is None else module.conv_shortcut(video)


@torch.no_grad()
def set_taps(vae: nn.Module) -> None:
    """Set every kernel's temporal taps, keeping their sum: no lag, equal on single frames.

    The sum goes to the last tap, so that nothing looks back; where the decoder doubles the frame
    rate it goes half to the last and half to the one before, which is a fade between two latents.
    """
    doubling = {
        module.conv.conv
        for module in vae.modules()
        if isinstance(module, HunyuanVideoUpsampleCausal3D) and module.upsample_factor[0] == 2
    }
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            total = module.weight.sum(2)
            before = 0.5 if module in doubling else 0.0
            module.weight.zero_()
            module.weight[:, :, 1] = before * total
            module.weight[:, :, 2] = (1 - before) * total


def reconstruction_loss(made: Tensor, true: Tensor) -> Tensor:
    """Absolute and squared error and that of the edges, at full and half size; that of colours."""
    error = (made - true).transpose(1, 2).flatten(0, 1)
    total = torch.zeros(())
    for weight in (1.0, 0.4):
        slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        total = total + weight * (error.abs().mean() + 2 * error.square().mean() + 0.25 * slopes)
        error = F.avg_pool2d(error, 2)
    # Flat colours differ by little from grey in the sum above and would be learned last.
    flat = opponents(F.avg_pool2d(error, 2))
    return total + flat.abs().mean() + 3 * flat.square().mean()


def opponents(colours: Tensor) -> Tensor:
    """Brightness, red − green and blue − yellow of (B, 3, …): the axes that colours vary on."""
    red, green, blue = colours.unbind(1)
    return torch.stack([colours.mean(1), red - green, blue - (red + green) / 2], dim=1)


def psnr(made: Tensor, true: Tensor) -> float:
    """Peak signal to noise ratio in dB of two tensors in -1..1."""
    error = (made.clamp(-1, 1) - true).square().mean()
    return 10 * math.log10(4 / max(float(error), 1e-10))


def crop(source: np.ndarray, side: int, rng: np.random.Generator) -> Tensor:
    """A square of a picture at a random scale, (3, side, side) in -1..1."""
    height, width = source.shape[:2]
    widest = max(2.4, min(height, width) / side)  # whole pictures are as busy as photos get
    span = min(side * math.exp(rng.uniform(math.log(0.8), math.log(widest))), height, width)
    left, top = rng.uniform(0, width - span), rng.uniform(0, height - span)
    box = (left, top, left + span, top + span)
    image = Image.fromarray(source).resize((side, side), Image.Resampling.LANCZOS, box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def single_frames(pictures: Pictures, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """A batch of still crops, (count, 3, 1, side, side)."""
    return torch.stack([crop(pictures.draw(rng), side, rng) for _ in range(count)]).unsqueeze(2)


def held_back_crops(count: int, rng: np.random.Generator) -> Tensor:
    """Crops of the pictures held back, (count, 3, 1, 128, 128)."""
    sources = panoramas(held_back=True) + photographs(held_back=True)
    crops = [crop(sources[i % len(sources)], 128, rng) for i in range(count)]
    return torch.stack(crops).unsqueeze(2)


@torch.no_grad()
def measure(model: Autoencoder) -> tuple[float, float]:
    """PSNR in dB of single frames and of a pan, both over pictures held back."""
    rng = np.random.default_rng(5)
    stills = held_back_crops(12, rng)
    pans = [
        render(s, Motion.RIGHT, range(17), (128, 128), rng).transpose(0, 1)[None]
        for s in panoramas(held_back=True)
    ]
    return psnr(model(stills), stills), float(np.mean([psnr(model(p), p) for p in pans]))


@torch.no_grad()
def contact_sheet(model: Autoencoder, path: Path) -> None:
    """Six held-back crops above their reconstructions, as a PNG."""
    true = held_back_crops(6, np.random.default_rng(6))
    rows = [torch.cat(list(part[:, :, 0]), dim=-1) for part in (true, model(true).clamp(-1, 1))]
    pixels = torch.cat(rows, dim=-2).permute(1, 2, 0) * 127.5 + 127.5
    Image.fromarray(pixels.round().to(torch.uint8).numpy()).save(path)


def _batch(pictures: Pictures, step: int, steps: int) -> Tensor:
    rng = np.random.default_rng((17, step, rank()))
    # Small crops first: twice the steps a minute while everything is still to be learned.
    side, count = (64, 10) if step < 0.8 * steps else (96, 5)
    return single_frames(pictures, rng, count, side)


def train(folder: Path, code: Path, pictures: Path, *, steps: int = 4000) -> Path:
    """Train or go on training; returns the diffusers folder of the averaged weights.

    Every 100 steps: the state to resume from, a contact sheet, the measured PSNR in the log.
    """
    torch.manual_seed(11)
    model = Autoencoder(AutoencoderKLHunyuanVideo.from_pretrained(code))
    source = Pictures(pictures)
    learns = nn.ModuleList([model.vae.decoder, model.vae.post_quant_conv])
    optimizers = Optimizers(learns, 4e-3, 2e-3, edge=EDGE)
    average, start = Average(learns), 0
    if state := load_state(folder / "state.pt"):
        learns.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        average.weights, start = state["average"], state["step"]
    began = time.monotonic()
    for step in progress_bar(start, steps, "vae"):
        torch.manual_seed(2 * step + rank())
        loss = model.loss(_batch(source, step, steps), noise=NOISE * (step % 5) / 4)
        loss.backward()
        average_gradients(learns)
        norm = optimizers.step(curve(step, steps))
        average.update(learns, 0.98)
        if step % 20 == 0:
            pace = (time.monotonic() - began) / (step - start + 1)
            log.info(
                "vae %d/%d loss %.4f grad %.2f %.2f s/step", step, steps, loss.item(), norm, pace
            )
        if rank() == 0 and ((step + 1) % 100 == 0 or step + 1 == steps):
            _show(folder, code, average, step + 1)
            # Last: a state of the last step says that all else is there.
            parts = {"model": learns.state_dict(), "optimizers": optimizers.state_dict()}
            save_state(folder / "state.pt", average=average.weights, step=step + 1, **parts)
    return folder / "vae"


def _show(folder: Path, code: Path, average: Average, step: int) -> None:
    shown = Autoencoder(AutoencoderKLHunyuanVideo.from_pretrained(code))
    nn.ModuleList([shown.vae.decoder, shown.vae.post_quant_conv]).load_state_dict(average.weights)
    set_taps(shown.vae.decoder)
    still, moving = measure(shown)
    log.info("vae %d: held-back still %.2f dB, moving %.2f dB", step, still, moving)
    contact_sheet(shown, folder / "vae.png")
    shown.vae.save_pretrained(folder / "vae")
