"""FramePack once more, written out plainly: the oracle for models that no golden case covers.

Nothing here comes from `generator` but the pinned timestep features, which the golden cases check.
It does what the reference does, in its order: it decodes after every section, holds the history as
one tensor, pads the text to 512 tokens and keeps every pixel. It is slow, and used on tiny models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    DEFAULT_PROMPT_TEMPLATE as TEMPLATE,
)
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    LlamaModel,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from generator.timesteps import pin_timesteps

POLYNOMIAL = (733.226126, -401.131952, 67.5869174, -3.1498780, 0.0961237896)
SHORT_TO_LONG = ((416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640))
Call = Callable[[Tensor, float, int], Tensor]


class Book:
    """One model folder, every part loaded by the libraries."""

    def __init__(self, folder: Path, variant: str):
        own = variant == "f1" and (folder / "transformer_f1").is_dir()
        self.folder = folder
        self.llama = LlamaModel.from_pretrained(folder / "text_encoder").eval()
        self.clip = CLIPTextModel.from_pretrained(folder / "text_encoder_2").eval()
        self.siglip = SiglipVisionModel.from_pretrained(folder / "image_encoder").eval()
        self.vae = AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae").eval()
        self.transformer = HunyuanVideoFramepackTransformer3DModel.from_pretrained(
            folder / ("transformer_f1" if own else "transformer")
        ).eval()
        pin_timesteps(self.transformer)

    def text(self, prompt: str) -> dict[str, Tensor]:
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer")
        tokens = tokenizer(
            TEMPLATE["template"].format(prompt),
            max_length=95 + 256,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        real = int(tokens.attention_mask.sum())
        hidden = self.llama(**tokens, output_hidden_states=True).hidden_states[-3][:, 95:real]
        padded = torch.zeros(1, 512, hidden.shape[2])
        padded[:, : hidden.shape[1]] = hidden
        mask = torch.arange(512)[None] < hidden.shape[1]
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "tokenizer_2")
        tokens = tokenizer(
            prompt, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        )
        return {
            "encoder_hidden_states": padded,
            "encoder_attention_mask": mask,
            "pooled_projections": self.clip(tokens.input_ids).pooler_output,
        }

    def features(self, pixels: np.ndarray) -> Tensor:
        processor = SiglipImageProcessorPil.from_pretrained(self.folder / "feature_extractor")
        return self.siglip(**processor(images=[pixels], return_tensors="pt")).last_hidden_state

    def encode(self, pixels: np.ndarray) -> Tensor:
        video = torch.from_numpy(pixels.copy()).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
        return self.vae.encode(video).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample


def bucket(file: Path, resolution: int) -> tuple[int, int]:
    with Image.open(file) as image:
        width, height = image.size
    tall = [(w, h) for h, w in reversed(SHORT_TO_LONG)]
    sizes = [
        (round(h * resolution / 640 / 16) * 16, round(w * resolution / 640 / 16) * 16)
        for h, w in (*SHORT_TO_LONG, *tall)
    ]
    best, least = sizes[0], math.inf
    for h, w in sizes:
        distance = abs(height * w - width * h)
        if distance <= least:
            best, least = (h, w), distance
    return best


def crop(file: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    h, w = size
    scale = max(w / image.width, h / image.height)
    rw, rh = round(image.width * scale), round(image.height * scale)
    image = image.resize((rw, rh), Image.Resampling.LANCZOS)
    return np.array(image.crop(((rw - w) / 2, (rh - h) / 2, (rw + w) / 2, (rh + h) / 2)))


def sample(call: Call, x: Tensor, sigmas: list[float]) -> Tensor:
    """UniPC as FRAMEPACK's formulas have it."""
    past: list[Tensor] = []
    for i, sigma in enumerate(sigmas[:-1]):
        if i == 0:
            past.append(call(x, sigma, 0))
            continue
        order = min(3, len(sigmas) - 2, i)
        lam = [-math.log(value) for value in sigmas[: i + 1]]
        h = lam[i] - lam[i - 1]
        ratios = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, order)]
        slopes = [(past[-1 - k] - past[-1]) / ratios[k - 1] for k in range(1, order)]
        system = np.vander([*ratios, 1.0], order, increasing=True).T
        right = np.array([math.factorial(k) * phi(k + 1, -h) for k in range(1, order + 1)])
        predict = [0.5] if order == 2 else np.linalg.solve(system[:-1, :-1], right[:-1])
        correct = [0.5] if order == 1 else np.linalg.solve(system, right)
        base = sigma / sigmas[i - 1] * x - math.expm1(-h) * past[-1]
        guess = base + h * sum(float(p) * d for p, d in zip(predict, slopes, strict=False))
        past.append(call(guess, sigma, i))
        slopes.append(past[-1] - past[-2])
        x = base + h * sum(float(c) * d for c, d in zip(correct, slopes, strict=True))
    return past[-1]


def phi(k: int, z: float) -> float:
    return math.fsum(z**j / math.factorial(j + k) for j in range(60))


class TeaCache:
    """TeaCache around whole calls: a skipped one runs with one block that adds the residual."""

    def __init__(self, transformer: Any, steps: int, threshold: float):
        self.transformer, self.steps, self.threshold = transformer, steps, threshold
        self.seen: Tensor | None = None
        self.total = 0.0
        self.residual: Tensor | None = None
        self.computed: list[int] = []

    def __call__(self, step: int, arguments: dict[str, Any]) -> Tensor:
        first = self.transformer.transformer_blocks[0]
        entry = {}

        def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            entry["hidden"], entry["modulated"] = (
                inputs[0],
                first.norm1(inputs[0], emb=inputs[2])[0],
            )
            raise StopIteration

        handle = first.register_forward_pre_hook(stop)
        try:
            self.transformer(**arguments)
        except StopIteration:
            pass
        finally:
            handle.remove()
        if not self.must_compute(step, entry["modulated"]):
            with self.skipping():
                return self.transformer(**arguments).sample
        self.computed.append(step)
        handle = self.transformer.single_transformer_blocks[-1].register_forward_hook(
            lambda _, __, output: entry.update(end=output[0])
        )
        try:
            return self.transformer(**arguments).sample
        finally:
            handle.remove()
            self.residual = entry["end"] - entry["hidden"]

    def must_compute(self, step: int, modulated: Tensor) -> bool:
        before, self.seen = self.seen, modulated
        if step in (0, self.steps - 1):
            self.total = 0.0
            return True
        assert before is not None
        distance = float((modulated - before).abs().mean() / before.abs().mean())
        self.total += float(np.polyval(POLYNOMIAL, distance))
        if self.total < self.threshold:
            return False
        self.total = 0.0
        return True

    @contextmanager
    def skipping(self) -> Iterator[None]:
        residual = self.residual

        class Add(nn.Module):
            def forward(self, hidden: Tensor, other: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
                return hidden + residual, other

        blocks = self.transformer.transformer_blocks, self.transformer.single_transformer_blocks
        self.transformer.transformer_blocks = nn.ModuleList()
        self.transformer.single_transformer_blocks = nn.ModuleList([Add()])
        try:
            yield
        finally:
            (
                self.transformer.transformer_blocks,
                self.transformer.single_transformer_blocks,
            ) = blocks


def blend(earlier: Tensor, later: Tensor, overlap: int) -> Tensor:
    weights = torch.linspace(1, 0, overlap).view(1, 1, -1, 1, 1)
    mixed = weights * earlier[:, :, -overlap:] + (1 - weights) * later[:, :, :overlap]
    return torch.cat([earlier[:, :, :-overlap], mixed, later[:, :, overlap:]], dim=2)


def sigmas_of(case: dict[str, Any], tokens: float) -> list[float]:
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = min(slope * tokens + 0.5 - 256 * slope, math.log(7))
    shift = case["motion_bias"] or math.exp(mu)
    t = torch.linspace(1, 0, case["steps"] + 1)
    sigma = shift / (shift + (1 / t - 1))
    return (sigma * (1 + (case["consistency_boost"] - 1) * (1 - sigma))).tolist()


def indices_of(variant: str, padding: int, w: int) -> dict[str, Tensor]:
    if variant == "i2v":
        parts = torch.arange(1 + padding * w + w + 19).split([1, padding * w, w, 1, 2, 16])
        start, _, window, one, two, four = parts
    else:
        start, four, two, one, window = torch.arange(20 + w).split([1, 16, 2, 1, w])
    return {
        "indices_latents": window,
        "indices_latents_clean": torch.cat([start, one]),
        "indices_latents_history_2x": two,
        "indices_latents_history_4x": four,
    }


def context_of(
    variant: str, history: Tensor, sampled: int, references: list[Tensor], end: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """1x, 2x and 4x out of the whole history, with what additional pictures put in."""
    backward = variant == "i2v"
    near = (history[:, :, :19] if backward else history[:, :, -19:]).clone()
    places = range(19) if backward else range(18, -1, -1)  # from the window outward
    if end is not None and sampled == 0:
        near[:, :, 0:1], sampled = end, 1
    for outward, place in enumerate(places):
        if outward >= max(sampled, 3) and references:
            slot, count = outward - 3, len(references)
            number = (slot // 4) % count if count <= 4 else slot % count
            near[:, :, place] = references[number][:, :, 0]
    if backward:
        return near[:, :, :1], near[:, :, 1:3], near[:, :, 3:]
    return near[:, :, 18:], near[:, :, 16:18], near[:, :, :16]


def plan_of(variant: str, n: int) -> list[int]:
    if variant == "f1":
        return [0] * n
    return list(range(n))[::-1] if n <= 4 else [3] + [2] * (n - 3) + [1, 0]


@torch.inference_mode()
def make(folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    """`latents`, `frames` (uint8) and `computed` (a list of steps a section) of a case."""
    book, variant, w = Book(folder, case["variant"]), case["variant"], case["latent_window_size"]
    size = bucket(case["image"], case["resolution"])
    picture = crop(case["image"], size)
    start = book.encode(picture)
    references = [book.encode(crop(file, size)) for file in case["references"]]
    features = last_features = book.features(picture)
    end = None
    if case["end_image"] and variant == "i2v":
        end = book.encode(crop(case["end_image"], size)) * case["end_strength"]
        last_features = book.features(crop(case["end_image"], size))
    texts = [book.text(case["prompt"])]
    if case["true_cfg_scale"] != 1:
        texts.append(book.text(case["negative_prompt"]))
    n = max(round(case["seconds"] * 30 / (4 * w)), 1)
    shape = (1, 16, w, *start.shape[3:])
    sigmas = sigmas_of(case, w * shape[3] * shape[4] / 4)
    draw = torch.Generator("cpu").manual_seed(case["seed"])
    blank = torch.zeros(1, 16, 19, *start.shape[3:])
    history = blank if variant == "i2v" else torch.cat([blank, start], dim=2)
    sampled, pixels, computed = int(variant == "f1"), None, []
    for number, padding in enumerate(plan_of(variant, n)):
        share = case["end_strength"] * (1 - number / (n - 1)) if end is not None else 0.0
        one, two, four = context_of(variant, history, sampled, references, end)
        shared = {
            **indices_of(variant, padding, w),
            "latents_clean": torch.cat([start, one], dim=2),
            "latents_history_2x": two,
            "latents_history_4x": four,
            "image_embeds": features * (1 - share) + last_features * share,
            "guidance": torch.tensor([1000.0 * case["guidance_scale"]]),
        }
        caches = [TeaCache(book.transformer, case["steps"], case["teacache"]) for _ in texts]
        call = velocity_to_x0(book, case, texts, shared, caches)
        made = sample(call, torch.randn(shape, generator=draw), sigmas)
        computed.append(caches[0].computed)
        pixels = extend(book, variant, w, history, made, start, sampled, pixels, number == n - 1)
        if variant == "i2v":
            made = torch.cat([start, made], dim=2) if number == n - 1 else made
            history = torch.cat([made, history], dim=2)
        else:
            history = torch.cat([history, made], dim=2)
        sampled += made.shape[2]
    whole = history[:, :, :sampled] if variant == "i2v" else history[:, :, -sampled:]
    assert pixels is not None
    frames = (pixels.clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8)[0].permute(1, 2, 3, 0)
    return {"latents": whole, "frames": frames.numpy(), "computed": computed}


def velocity_to_x0(
    book: Book,
    case: dict[str, Any],
    texts: list[dict[str, Tensor]],
    shared: dict[str, Tensor],
    caches: list[TeaCache],
) -> Call:
    def call(x: Tensor, sigma: float, step: int) -> Tensor:
        moving = {"hidden_states": x, "timestep": torch.tensor([1000.0 * sigma])}
        made = []
        for text, cache in zip(texts, caches, strict=True):
            arguments = {**moving, **text, **shared}
            if case["teacache"]:
                made.append(cache(step, arguments))
            else:
                made.append(book.transformer(**arguments).sample)
                cache.computed.append(step)
        v = made[0]
        if len(made) == 2:
            v = made[1] + case["true_cfg_scale"] * (made[0] - made[1])
            axes, phi_ = (1, 2, 3, 4), case["guidance_rescale"]
            v = (
                phi_ * v * made[0].std(axes, keepdim=True) / v.std(axes, keepdim=True)
                + (1 - phi_) * v
            )
        return x - sigma * v

    return call


def extend(
    book: Book,
    variant: str,
    w: int,
    history: Tensor,
    made: Tensor,
    start: Tensor,
    sampled: int,
    pixels: Tensor | None,
    is_last: bool,
) -> Tensor:
    """The reference's decoding after each section, appended softly at the end that grows."""
    if variant == "i2v":
        new = torch.cat([start, made], dim=2) if is_last else made
        if pixels is None:
            return book.decode(new)
        chunk = torch.cat([new, history], dim=2)[:, :, : 2 * w + int(is_last)]
        return blend(book.decode(chunk), pixels, 4 * w - 3)
    if pixels is None:
        return book.decode(torch.cat([start, made], dim=2))
    chunk = torch.cat([history, made], dim=2)[:, :, -2 * w :]
    return blend(pixels, book.decode(chunk), 4 * w - 3)
