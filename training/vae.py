"""The VAE stage: from noise to an autoencoder that keeps a picture and does not lag behind motion.

Decides: the small config of `AutoencoderKLHunyuanVideo`, its two phases, its loss, and what becomes
of latent mean and standard deviation. Refuses to know: captions, the transformer. It runs nothing
but diffusers' own class.

Training sees single frames only, where a causal kernel acts by the sum of its temporal taps. What
the taps are is then set, not learned (`set_taps`): each latent is the code of its newest frame, and
the decoder fades from one latent to the next. Measured on pans and zooms at the demo model's speed,
frames between latents are within 0.2 dB of those at latents; kernels left as trained lag by 20.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoUpsampleCausal3D
from PIL import Image
from torch import Tensor, nn

from generator.causal_convolution import quicken
from training.captions import Motion
from training.data import Pictures, render
from training.optimizing import Average, Optimizers, curve, load_state, save_state
from training.pair import average_gradients, rank
from training.scenes import panoramas

log = logging.getLogger(__name__)

CONFIG = {
    "latent_channels": 16,
    "block_out_channels": (16, 32, 48, 48),
    "layers_per_block": 1,
    # With two channels a group GroupNorm loses flat colours; one group keeps them.
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
CHANNELS = 16
EDGE = ("conv_in", "conv_out", "quant_conv", "colours")
COLOUR_WEIGHT = 20.0
LOG_VARIANCE = -30.0
"""Encoding has no noise of its own: the posterior is (nearly) a point."""


class Autoencoder(nn.Module):
    """The real class plus what training needs around its latents: whitening and noise."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo | None = None):
        super().__init__()
        self.vae = vae or AutoencoderKLHunyuanVideo(**CONFIG)
        self.whiten = nn.BatchNorm3d(CHANNELS, affine=False, momentum=0.05)
        # Read straight from the latents: colours take a short way into them. Without it red and
        # green were still one after 800 steps.
        self.colours = nn.Conv3d(CHANNELS, 3, 1)
        quicken(self.vae)

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) in -1..1 → whitened latents (B, 16, 1 + (T − 1)/4, H/8, W/8).

        Each latent is the code of its newest frame alone: a section's start and its other latents
        are made alike, and what lies between two of them is the decoder's to learn.
        """
        newest = video[:, :, ::4].transpose(1, 2).flatten(0, 1).unsqueeze(2)
        moments = self.vae.quant_conv(self.vae.encoder(newest))
        latents = self.whiten(moments[:, :CHANNELS])
        return latents.squeeze(2).unflatten(0, (len(video), -1)).transpose(1, 2)

    def encoder_learns(self, learns: bool) -> None:
        """Whether the way to the latents still changes."""
        self.vae.encoder.requires_grad_(learns)
        self.vae.quant_conv.requires_grad_(learns)
        self.colours.requires_grad_(learns)
        self.whiten.train(learns)

    def forward(self, video: Tensor) -> Tensor:
        """The video after a round trip."""
        return self.decode(self.encode(video))

    def decode(self, latents: Tensor) -> Tensor:
        """Whitened latents (B, 16, T, h, w) → video (B, 3, 4T − 3, 8h, 8w) in about -1..1."""
        return self.vae.decoder(self.vae.post_quant_conv(latents))

    def loss(self, video: Tensor, noise: float) -> Tensor:
        """The error of a round trip with Gaussian noise on the latents, and of their colours."""
        latents = self.encode(video)
        flat = F.avg_pool3d(video[:, :, ::4], (1, 8, 8))
        colours = opponents(self.colours(latents) - flat).square().mean()
        noisy = latents + noise * torch.randn_like(latents)
        return reconstruction_loss(self.decode(noisy), video) + COLOUR_WEIGHT * colours


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


def folded(model: Autoencoder) -> AutoencoderKLHunyuanVideo:
    """The VAE alone, with the whitening inside quant_conv and a point as its posterior."""
    vae = AutoencoderKLHunyuanVideo(**CONFIG)
    vae.load_state_dict(model.vae.state_dict())
    scale = torch.rsqrt(model.whiten.running_var + model.whiten.eps)
    with torch.no_grad():
        weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
        weight[:CHANNELS] *= scale[:, None, None, None, None]
        bias[:CHANNELS] = (bias[:CHANNELS] - model.whiten.running_mean) * scale
        weight[CHANNELS:] = 0
        bias[CHANNELS:] = LOG_VARIANCE
    return vae.eval()


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
    span = min(side * math.exp(rng.uniform(math.log(0.8), math.log(2.4))), height, width)
    left, top = rng.uniform(0, width - span), rng.uniform(0, height - span)
    box = (left, top, left + span, top + span)
    image = Image.fromarray(source).resize((side, side), Image.Resampling.LANCZOS, box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def single_frames(pictures: Pictures, rng: np.random.Generator, count: int, side: int) -> Tensor:
    """A batch of still crops, (count, 3, 1, side, side)."""
    return torch.stack([crop(pictures.draw(rng), side, rng) for _ in range(count)]).unsqueeze(2)


def measure(model: Autoencoder) -> tuple[float, float]:
    """PSNR in dB of single frames and of a pan, both over the panoramas held back."""
    rng = np.random.default_rng(5)
    sources = panoramas(held_back=True)
    stills = torch.stack([crop(sources[i % 2], 128, rng) for i in range(12)]).unsqueeze(2)
    pans = [render(s, Motion.RIGHT, range(17), (128, 128), rng) for s in sources]
    model.eval()
    with torch.no_grad():
        still = psnr(model(stills), stills)
        moving = float(
            np.mean([psnr(model(p), p) for p in (q.transpose(0, 1)[None] for q in pans)])
        )
    model.train()
    return still, moving


def contact_sheet(model: Autoencoder, path: Path) -> None:
    """Six held-back crops above their reconstructions, as a PNG."""
    rng = np.random.default_rng(6)
    sources = panoramas(held_back=True)
    true = torch.stack([crop(sources[i % 2], 128, rng) for i in range(6)]).unsqueeze(2)
    model.eval()
    with torch.no_grad():
        made = model(true)
    model.train()
    rows = [torch.cat(list(part[:, :, 0]), dim=-1) for part in (true, made.clamp(-1, 1))]
    pixels = torch.cat(rows, dim=-2).permute(1, 2, 0) * 127.5 + 127.5
    Image.fromarray(pixels.round().to(torch.uint8).numpy()).save(path)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How one of the two phases trains. `lr` is Muon's peak rate, `adam_lr` AdamW's."""

    name: str
    steps: int
    lr: float
    adam_lr: float


WHOLE = Phase(name="whole", steps=1200, lr=4e-3, adam_lr=2e-3)
DECODER = Phase(name="decoder", steps=300, lr=2e-3, adam_lr=1e-3)


def _batch(pictures: Pictures, phase: Phase, step: int) -> Tensor:
    rng = np.random.default_rng((17, step, rank()))
    # Small crops first: twice the steps a minute while everything is still to be learned.
    side, count = (64, 10) if step < 0.9 * phase.steps else (96, 6)
    return single_frames(pictures, rng, count, side)


def train(folder: Path, pictures: Path, phase: Phase) -> Path:
    """Train or go on training; returns the diffusers folder of the averaged weights.

    The second phase starts from the first one's average and leaves the encoder as it is: latents
    stay what they were, so it may run while (or after) the transformer is trained. Every 50 steps:
    the state to resume from, a contact sheet, the measured PSNR in the log.
    """
    torch.manual_seed(11)
    model, source = Autoencoder(), Pictures(pictures)
    if phase.name == DECODER.name:
        whole = load_state(folder / f"{WHOLE.name}.pt")
        if whole is None:
            raise FileNotFoundError(f"no {WHOLE.name}.pt in {folder}; run the stage vae first")
        model.load_state_dict(whole["average"])
        model.encoder_learns(False)
    optimizers = Optimizers(model, phase.lr, phase.adam_lr, edge=EDGE)
    average, start = Average(model), 0
    if state := load_state(folder / f"{phase.name}.pt"):
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        average.weights, start = state["average"], state["step"]
    began = time.monotonic()
    for step in range(start, phase.steps):
        torch.manual_seed(2 * step + rank())
        video = _batch(source, phase, step)
        loss = model.loss(video, noise=0.04 + 0.12 * (step % 5) / 4)
        loss.backward()
        average_gradients(model)
        norm = optimizers.step(curve(step, phase.steps))
        average.update(model, 0.96)
        if step % 20 == 0:
            pace = (time.monotonic() - began) / (step - start + 1)
            log.info(
                "vae, %s %d/%d loss %.4f grad %.2f %.2f s/step",
                phase.name, step, phase.steps, loss.item(), norm, pace,
            )  # fmt: skip
        if rank() == 0 and ((step + 1) % 50 == 0 or step + 1 == phase.steps):
            parts = {"model": model.state_dict(), "optimizers": optimizers.state_dict()}
            save_state(folder / f"{phase.name}.pt", average=average.weights, step=step + 1, **parts)
            _show(folder, average, phase, step + 1)
    return folder / phase.name


def _show(folder: Path, average: Average, phase: Phase, step: int) -> None:
    shown = Autoencoder()
    shown.load_state_dict(average.weights)
    set_taps(shown)
    still, moving = measure(shown)
    log.info("vae, %s %d: held-back still %.2f dB, moving %.2f dB", phase.name, step, still, moving)
    contact_sheet(shown, folder / f"{phase.name}.png")
    folded(shown).save_pretrained(folder / phase.name)
