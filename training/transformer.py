"""The transformer stage: flow matching on sections, as the generator will sample them.

Decides: the small config, which section of which clip is learned under what history, the noise
levels, the loss. Refuses to know: layouts and contexts (`generator.sections`), sigmas, pictures.
Both variants are mixed in one set of weights. What is here besides the config — `Lesson`, `lesson`,
`loss_of` — is what fine-tuning on other clips needs as well.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, SiglipVisionModel

from generator.encoders import encode_image
from generator.protocol import Variant
from generator.sections import Context, History, section_plan
from training.captions import OPPOSITE, PANS, ZOOMS, Motion
from training.clips import SHARES, WINDOW, Clip, Phrase, Phrases, load_clips, test_clips
from training.export import fit_preview
from training.optimizing import Average, Optimizers, curve, load_state, save_state
from training.pair import average_gradients, progress_bar, rank

log = logging.getLogger(__name__)

CONFIG = {
    "num_attention_heads": 5, "attention_head_dim": 32, "num_layers": 1, "num_single_layers": 4,
    "num_refiner_layers": 1, "mlp_ratio": 3.0, "rope_axes_dim": (8, 12, 12),
    "text_embed_dim": 64, "pooled_projection_dim": 64, "image_proj_dim": 48,
    "guidance_embeds": True, "has_image_proj": True, "has_clean_x_embedder": True,
}  # fmt: skip
EDGE = (
    "x_embedder", "proj_out", "norm", "time_text_embed", "image_projection",
    "context_embedder.proj_in",
)  # fmt: skip
SECTIONS = {1: 0.3, 2: 0.5, 3: 0.2}
"""How often a clip is learned as a video of that many sections."""
F1_SHARE = 0.4
FIRST_WEIGHT, MIDDLE_WEIGHT, LAST_WEIGHT = 2.0, 1.0, 1.5
"""The section sampled first has no history and is copied by all others, so it counts twice."""
LEARNED = tuple(SHARES)
"""The motions that are learned: those there are clips of."""
SHIFTS = (5.0, 1.5)
"""Half the noise levels lean to structure, half are near those of sampling at 128 px (1.74)."""
NO_PROMPT_SHARE = 0.05
STEPS = 2700
"""At 1.2 s a step, measured on two free cores of an AMD EPYC, 54 minutes."""
HELD_STILL = ((Motion.STILL, 0.4), (Motion.CALM, 0.3), *((zoom, 0.15) for zoom in ZOOMS))
"""What a clip that holds still is called: what is outside the grammar, and what is not learned."""
CUT_SHARE = 0.8
"""How often a larger clip is cut to 12 × 12 latents: they take half the time."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One section to learn: what it is, what it sees, how much it counts."""

    target: Tensor  # (1, 16, w, h, w)
    context: Context
    weight: float


def plan_lesson(rng: np.random.Generator) -> tuple[Variant, int, int]:
    """By chance: the variant, the number of sections, and which one (in sampling order) is next."""
    variant = Variant.F1 if rng.random() < F1_SHARE else Variant.I2V
    sections = int(rng.choice(list(SECTIONS), p=list(SECTIONS.values())))
    return variant, sections, int(rng.integers(sections))


def lesson(
    clip: Clip, variant: Variant, sections: int, number: int, rng: np.random.Generator | None = None
) -> Lesson:
    """Section `number` (from 0, in sampling order) of the clip's first `sections` windows.

    The sections before it are its history: the true ones, or with `rng` in three of four cases
    spoiled ones, because in sampling they are never perfect.
    """
    true = list(clip.latents[:, :, : sections * WINDOW].split(WINDOW, dim=2))
    if variant is Variant.I2V:
        true.reverse()
    history = History(variant, WINDOW, clip.start)
    spoil = rng is not None and rng.random() < 0.75
    for piece in true[:number]:
        history.push(_spoiled(piece, rng) if spoil and rng is not None else piece)
    padding = section_plan(variant, sections)[number]
    weight = MIDDLE_WEIGHT
    if number == 0:
        weight = FIRST_WEIGHT
    elif number == sections - 1:
        weight = LAST_WEIGHT
    return Lesson(target=true[number], context=history.context(padding), weight=weight)


def _spoiled(piece: Tensor, rng: np.random.Generator) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(piece.shape, dtype=np.float32))
    colour = torch.from_numpy(rng.standard_normal((1, piece.shape[1], 1, 1, 1), dtype=np.float32))
    return piece + rng.uniform(0, 0.3) * noise + rng.uniform(0, 0.15) * colour


def cut(clip: Clip, rng: np.random.Generator) -> Clip:
    """Most of the larger clips are cut to 12 × 12 latents; zooms keep their centre."""
    height, width = clip.start.shape[-2:]
    if min(height, width) < 12 or (height, width) == (12, 12) or rng.random() > CUT_SHARE:
        return clip
    top, left = (height - 12) // 4 * 2, (width - 12) // 4 * 2
    if clip.motion in PANS or clip.motion is Motion.STILL:
        top, left = (2 * int(rng.integers((side - 12) // 2 + 1)) for side in (height, width))
    part = np.s_[..., top : top + 12, left : left + 12]
    return Clip(
        motion=clip.motion,
        frame=clip.frame[8 * top : 8 * top + 96, 8 * left : 8 * left + 96],
        start=clip.start[part],
        latents=clip.latents[part],
    )


def draw_sigma(rng: np.random.Generator) -> float:
    """A noise level in 0.02..1 from the mixture of shifts."""
    t, shift = rng.uniform(0.0, 1.0), SHIFTS[rng.integers(len(SHIFTS))]
    return max(shift * t / (1 + (shift - 1) * t), 0.02)


def predict_velocity(
    transformer: HunyuanVideoFramepackTransformer3DModel,
    x: Tensor,
    sigma: float,
    context: Context,
    phrase: Phrase,
    image_embeds: Tensor,
    guidance: float = 10.0,
) -> Tensor:
    """The model call of the generator, with gradients."""
    (velocity,) = transformer(
        hidden_states=x,
        timestep=torch.tensor([1000 * sigma]),
        guidance=torch.tensor([1000 * guidance]),
        encoder_hidden_states=phrase.prompt_embeds,
        encoder_attention_mask=torch.ones(phrase.prompt_embeds.shape[:2], dtype=torch.bool),
        pooled_projections=phrase.pooled_projections,
        image_embeds=image_embeds,
        return_dict=False,
        **{field.name: getattr(context, field.name) for field in fields(context)},
    )
    return velocity


def loss_of(
    transformer: HunyuanVideoFramepackTransformer3DModel,
    what: Lesson,
    phrase: Phrase,
    image_embeds: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """Squared error of the velocity at one random noise level, times the section's weight.

    Guidance is drawn at random: this model is not distilled, so it learns not to care.
    """
    noise = torch.from_numpy(rng.standard_normal(what.target.shape, dtype=np.float32))
    sigma = draw_sigma(rng)
    x = (1 - sigma) * what.target + sigma * noise
    guidance = float(rng.uniform(1, 32))
    velocity = predict_velocity(transformer, x, sigma, what.context, phrase, image_embeds, guidance)
    return what.weight * (velocity - (noise - what.target)).square().mean()


class Course:
    """Everything a training step draws from: clips, captions, the frozen image encoder."""

    def __init__(self, clips: Path, text: Path):
        self.clips = load_clips(clips)
        self.phrases = Phrases(text, dict.fromkeys([*LEARNED, *dict(HELD_STILL)]))
        self._siglip = SiglipVisionModel.from_pretrained(text / "image_encoder").eval()
        self._extractor = AutoImageProcessor.from_pretrained(text / "feature_extractor")

    def image_embeds(self, clip: Clip) -> Tensor:
        """The image encoder's features of the first frame."""
        return encode_image(self._extractor, self._siglip, clip.frame).clone()

    def loss(
        self, transformer: HunyuanVideoFramepackTransformer3DModel, rng: np.random.Generator
    ) -> Tensor:
        """The loss of one section drawn by chance."""
        clip = cut(self.clips[rng.integers(len(self.clips))], rng)
        told = clip.motion
        if told is Motion.STILL:
            names, shares = zip(*HELD_STILL, strict=True)
            told = names[rng.choice(len(names), p=shares)]
        known = self.phrases.of[told]
        phrase = known[rng.integers(len(known))]
        if rng.random() < NO_PROMPT_SHARE:
            phrase = self.phrases.empty
        what = lesson(clip, *plan_lesson(rng), rng)
        return loss_of(transformer, what, phrase, self.image_embeds(clip), rng)


@torch.inference_mode()
def gate(
    transformer: HunyuanVideoFramepackTransformer3DModel, course: Course, tests: list[Clip]
) -> str:
    """R² of the expected section (one call at sigma 1) against a still copy, as a line of text.

    For both variants and three sections, in time order: under the right caption, and under the
    opposite one. A falling loss is not motion; a gap between the two is.
    """
    words = []
    for group, name in ((PANS, "pans"),):
        for variant in Variant:
            right, wrong = [], []
            for number in range(3):
                scores = [
                    _explained(transformer, course, clip, variant, number)
                    for clip in tests
                    if clip.motion in group
                ]
                right.append(np.mean([s[0] for s in scores]))
                wrong.append(np.mean([s[1] for s in scores]))
            order = slice(None, None, -1) if variant is Variant.I2V else slice(None)
            shown = ["/".join(f"{v:.2f}" for v in values[order]) for values in (right, wrong)]
            words.append(f"{name} {variant.value} {shown[0]} (opposite {shown[1]})")
    return "; ".join(words)


def _explained(
    transformer: HunyuanVideoFramepackTransformer3DModel,
    course: Course,
    clip: Clip,
    variant: Variant,
    number: int,
) -> tuple[float, float]:
    what = lesson(clip, variant, 3, number)
    still = (clip.start - what.target).square().mean()
    scores = []
    for motion in (clip.motion, OPPOSITE[clip.motion]):
        x0 = _expected(transformer, course, clip, what, motion, number)
        scores.append(1 - float((x0 - what.target).square().mean() / still))
    return scores[0], scores[1]


def _expected(
    transformer: HunyuanVideoFramepackTransformer3DModel,
    course: Course,
    clip: Clip,
    what: Lesson,
    told: Motion,
    seed: int,
) -> Tensor:
    """What one call at sigma 1 takes a section to become."""
    noise = torch.randn(what.target.shape, generator=torch.Generator().manual_seed(seed))
    phrase, image = course.phrases.of[told][0], course.image_embeds(clip)
    return noise - predict_velocity(transformer, noise, 1.0, what.context, phrase, image)


@torch.inference_mode()
def contact_sheet(
    transformer: HunyuanVideoFramepackTransformer3DModel,
    course: Course,
    tests: list[Clip],
    path: Path,
) -> None:
    """True and expected latents of the first section of every test clip, in colour, as a PNG."""
    colours = fit_preview(course.clips[:100])
    factors, bias = torch.tensor(colours["factors"]), torch.tensor(colours["bias"])
    rows = []
    for clip in tests:
        what = lesson(clip, Variant.F1, 1, 0)
        x0 = _expected(transformer, course, clip, what, clip.motion, 0)
        for latents in (what.target, x0):
            shown = torch.einsum("cthw,cd->thwd", latents[0, :, ::2], factors) + bias
            rows.append(torch.cat(list(shown.clamp(0, 1)), dim=1))
    pixels = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    small = Image.fromarray(pixels)
    small.resize((6 * small.width, 6 * small.height), Image.Resampling.NEAREST).save(path)


def train(
    folder: Path,
    clips: Path,
    text: Path,
    vae: Path,
    steps: int = STEPS,
    first: Path | None = None,
    *,
    sections: int = 4,
) -> Path:
    """Train or go on training; returns the diffusers folder of the averaged weights.

    `first` is a folder of weights to start from instead of chance. `sections` are learned per step
    and process. Every 50 steps: `state.pt` and the weights; every 200 the
    gates in the log and a contact sheet.
    """
    torch.manual_seed(14)
    model = HunyuanVideoFramepackTransformer3DModel(**CONFIG)
    if first is not None:
        known = HunyuanVideoFramepackTransformer3DModel.from_pretrained(first)
        model.load_state_dict(known.state_dict())
    course = Course(clips, text)
    optimizers = Optimizers(model, lr=3e-3, adam_lr=1.5e-3, edge=EDGE)
    average, start = Average(model), 0
    if state := load_state(folder / "state.pt"):
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        average.weights, start = state["average"], state["step"]
    began, recent = time.monotonic(), math.nan
    for step in progress_bar(start, steps, "transformer"):
        rng = np.random.default_rng((43, step, rank()))
        total = 0.0
        for _ in range(sections):
            loss = course.loss(model, rng) / sections
            loss.backward()
            total += float(loss.detach())
        average_gradients(model)
        norm = optimizers.step(curve(step, steps))
        average.update(model, min(0.99, (step + 1) / (step + 20)))
        recent = total if math.isnan(recent) else 0.95 * recent + 0.05 * total
        if step % 20 == 0:
            pace = (time.monotonic() - began) / (step - start + 1)
            log.info(
                "transformer %d/%d loss %.4f grad %.2f %.2f s/step", step, steps, recent, norm, pace
            )
        if rank() == 0 and ((step + 1) % 50 == 0 or step + 1 == steps):
            shown = HunyuanVideoFramepackTransformer3DModel(**CONFIG).eval()
            shown.load_state_dict(average.weights)
            shown.save_pretrained(folder / "transformer")
            # Last: a state of the last step says that all else is there.
            parts = {"model": model.state_dict(), "optimizers": optimizers.state_dict()}
            save_state(folder / "state.pt", average=average.weights, step=step + 1, **parts)
            if (step + 1) % 200 == 0 or step + 1 == steps:
                tests = test_clips(vae, PANS)
                log.info("transformer %d: R² %s", step + 1, gate(shown, course, tests))
                contact_sheet(shown, course, tests, folder / "transformer.png")
    return folder / "transformer"
