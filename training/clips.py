"""The clip stage: what the transformer learns from, encoded once by the finished VAE.

Decides: which clips there are (picture, motion, shape), the captions' features, the files they lie
in. Refuses to know: noise, losses, the transformer. Every latent is made as `generator.encoders`
makes the start latent, so training and sampling see the same numbers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from generator.encoders import encode_latent, encode_prompt, summarise_prompt
from training.captions import Motion, caption
from training.data import Pictures, render, sparkle
from training.pair import rank
from training.scenes import panoramas
from training.vae import quick

log = logging.getLogger(__name__)

WINDOW = 9
MAX_SECTIONS = 3
KEY_FRAMES = range(0, 4 * WINDOW * MAX_SECTIONS + 1, 4)
"""The frames that latents show."""
SHAPES = (
    (128, 128), (128, 128), (128, 128), (128, 128), (96, 96), (96, 160), (160, 96), (112, 144),
    (144, 112),
)  # fmt: skip
"""Heights and widths of clips: FramePack's buckets at a resolution of 128, and 96."""
SHARES = {
    Motion.LEFT: 0.22, Motion.RIGHT: 0.22, Motion.UP: 0.22, Motion.DOWN: 0.22, Motion.STILL: 0.12,
}  # fmt: skip
"""Zooms are left out: they take twice the steps to be seen at all."""
CAPTIONS_EACH = 24
MIN_SPARKLE = 0.035
"""Below this gradient nothing in a picture could be seen to move: draw another."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One encoded clip. `latents` (1, 16, 27, h, w) follow `start` (1, 16, 1, h, w) in time."""

    motion: Motion
    frame: np.ndarray  # (H, W, 3) uint8, the first frame
    start: Tensor
    latents: Tensor


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """One caption as the transformer sees it: (1, tokens, 64) and (1, 64)."""

    prompt_embeds: Tensor
    pooled_projections: Tensor


@torch.inference_mode()
def encode(vae: AutoencoderKLHunyuanVideo, frames: Tensor, motion: Motion) -> Clip:
    """Encode every fourth frame (T, 3, H, W) in -1..1 as the still picture that a latent shows."""
    first = (frames[0].permute(1, 2, 0) * 127.5 + 127.5).round().to(torch.uint8).numpy()
    latents = vae.encode(frames.unsqueeze(2)).latent_dist.mode() * vae.config.scaling_factor
    return Clip(
        motion=motion,
        frame=first,
        start=encode_latent(vae, first),
        latents=latents[1:].squeeze(2).transpose(0, 1)[None],
    )


def film(sources: Pictures, number: int) -> tuple[Tensor, Motion]:
    """Clip number `number` before encoding: the same frames for the same number."""
    rng = np.random.default_rng((31, number))
    motion = Motion(rng.choice(list(SHARES), p=list(SHARES.values())))
    shape = SHAPES[rng.integers(len(SHAPES))]
    for _ in range(6):
        frames = render(sources.draw(rng), motion, KEY_FRAMES, shape, rng)
        if sparkle(frames) > MIN_SPARKLE:
            break
    return frames, motion


def encode_clips(folder: Path, pictures: Path, vae_folder: Path, count: int, ranks: int) -> None:
    """Encode this process's share of the clips that are not there yet."""
    vae = quick(AutoencoderKLHunyuanVideo.from_pretrained(vae_folder).eval())
    sources = Pictures(pictures)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(rank(), count, ranks):
        path = folder / f"{number:05}.safetensors"
        if not path.exists():
            save_clip(path, encode(vae, *film(sources, number)))
            log.info("clips: %d of %d encoded", number + 1, count)


def test_clips(vae_folder: Path, motions: tuple[Motion, ...]) -> list[Clip]:
    """Encoded clips over the panoramas held back, for the gates of training."""
    vae = quick(AutoencoderKLHunyuanVideo.from_pretrained(vae_folder).eval())
    rng = np.random.default_rng(37)
    sources = panoramas(held_back=True)
    return [
        encode(vae, render(sources[i % 2], motion, KEY_FRAMES, (128, 128), rng), motion)
        for i, motion in enumerate(motions)
    ]


def save_clip(path: Path, clip: Clip) -> None:
    """Write a clip; its file is complete or absent."""
    tensors = {
        "frame": torch.from_numpy(clip.frame.copy()),
        "start": clip.start.half().contiguous(),
        "latents": clip.latents.half().contiguous(),
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"motion": clip.motion.value})
    partial.replace(path)


def load_clips(folder: Path) -> list[Clip]:
    """Every clip of a folder, by number. FileNotFoundError when there is none."""
    from safetensors import safe_open

    clips = []
    for path in sorted(folder.glob("?????.safetensors")):
        with safe_open(path, "pt") as file:
            motion = Motion(file.metadata()["motion"])
        t = load_file(path)
        clips.append(
            Clip(
                motion=motion,
                frame=t["frame"].numpy(),
                start=t["start"].float(),
                latents=t["latents"].float(),
            )
        )
    if not clips:
        raise FileNotFoundError(f"no clips in {folder}; run `python -m training clips` first")
    return clips


class Phrases:
    """Captions of every motion, encoded once by the frozen text encoders."""

    def __init__(self, text_folder: Path, motions: Iterable[Motion], each: int = CAPTIONS_EACH):
        self._llama_tokenizer = AutoTokenizer.from_pretrained(text_folder / "tokenizer")
        self._clip_tokenizer = AutoTokenizer.from_pretrained(text_folder / "tokenizer_2")
        self._llama = LlamaModel.from_pretrained(text_folder / "text_encoder").eval()
        self._clip = CLIPTextModel.from_pretrained(text_folder / "text_encoder_2").eval()
        rng = np.random.default_rng(41)
        self.of = {m: [self.encode(caption(rng, m)) for _ in range(each)] for m in motions}
        self.empty = self.encode("")

    @functools.cache  # noqa: B019 - lives as long as the stage
    def encode(self, prompt: str) -> Phrase:
        """Encode one prompt exactly as the generator does."""
        return Phrase(
            prompt_embeds=encode_prompt(self._llama_tokenizer, self._llama, prompt).clone(),
            pooled_projections=summarise_prompt(self._clip_tokenizer, self._clip, prompt).clone(),
        )
