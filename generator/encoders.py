"""Between what people see and what the transformer sees: text, pictures, latents, pixels.

Decides: the prompt template, the buckets, crop and scaling. Refuses to know: where a module lies,
how latents are sampled. Sources: HunyuanVideo's prompt template as diffusers ships it; buckets and
crop as FramePack's reference code (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from generator.errors import InputError
from generator.protocol import Shape

Size = tuple[int, int]  # (height, width) in pixels

_HALF_BUCKETS = ((416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640))
BUCKETS_640: tuple[Size, ...] = _HALF_BUCKETS + tuple((w, h) for h, w in reversed(_HALF_BUCKETS))
BUCKET_RESOLUTION = 640
SIDES = {Shape.PORTRAIT: (16, 9), Shape.LANDSCAPE: (9, 16)}
"""Height and width of the shapes that are not the picture's own."""
PROMPT_TOKENS = 256
HIDDEN_STATE = -3  # HunyuanVideo takes Llama's features two layers before the last
CLIP_TOKENS = 77
MAX_CUT_AWAY = 16  # times what is kept


def bucket_size(height: int, width: int, resolution: int) -> Size:
    """The (height, width) at `resolution` whose shape is nearest; both are multiples of 16."""

    scale = resolution / BUCKET_RESOLUTION
    scaled = [(_multiple_of_16(h * scale), _multiple_of_16(w * scale)) for h, w in BUCKETS_640]
    # On a tie the later entry wins, as in the reference.
    return min(reversed(scaled), key=lambda hw: abs(height * hw[1] - width * hw[0]))


def video_size(picture: Path, shape: Shape, resolution: int) -> Size:
    """The size of the video of this picture on disk. InputError when it can not be read."""
    width, height = open_picture(picture).size
    if shape is Shape.SQUARE:  # the buckets have none
        return _multiple_of_16(resolution), _multiple_of_16(resolution)
    height, width = SIDES.get(shape, (height, width))
    return bucket_size(height, width, resolution)


def _multiple_of_16(side: float) -> int:
    return max(16, round(side / 16) * 16)


def open_picture(path: Path) -> Image.Image:
    """The picture as RGB. InputError when it is missing or not a picture."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"There is no picture {path.name}.") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path.name} could not be read as a picture: {error}.") from None


def cover_crop(image: Image.Image, size: Size) -> np.ndarray:
    """Scale to cover `size` and cut the centre: uint8 (H, W, 3)."""
    height, width = size
    scale = max(width / image.width, height / image.height)
    covered = (round(image.width * scale), round(image.height * scale))
    left, top = (covered[0] - width) / 2, (covered[1] - height) / 2
    if covered[0] * covered[1] > MAX_CUT_AWAY * width * height:
        # 1 × 1000 pixels to cover 416 × 960 would be half a gigabyte first. The same cut made in
        # the source differs by rounding, up to one level.
        x, y = image.width / covered[0], image.height / covered[1]
        source = (left * x, top * y, (left + width) * x, (top + height) * y)
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=source))
    image = image.resize(covered, Image.Resampling.LANCZOS)
    return np.asarray(image.crop((left, top, left + width, top + height)))


@torch.inference_mode()
def encode_prompt(tokenizer: Any, llama: nn.Module, prompt: str) -> Tensor:
    """Llama's features (1, tokens, D) of the prompt, cut from the template; at most 256 tokens."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
        DEFAULT_PROMPT_TEMPLATE,
    )

    crop_start = DEFAULT_PROMPT_TEMPLATE["crop_start"]
    ids = tokenizer(
        DEFAULT_PROMPT_TEMPLATE["template"].format(prompt),
        max_length=crop_start + PROMPT_TOKENS,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(_device(llama))
    hidden = llama(ids, output_hidden_states=True, use_cache=False).hidden_states
    features: Tensor = hidden[HIDDEN_STATE][:, crop_start:]
    return features


@torch.inference_mode()
def summarise_prompt(tokenizer: Any, clip: nn.Module, prompt: str) -> Tensor:
    """CLIP's pooled features of the bare prompt: (1, P)."""
    ids = tokenizer(
        prompt, max_length=CLIP_TOKENS, truncation=True, padding="max_length", return_tensors="pt"
    ).input_ids.to(_device(clip))
    pooled: Tensor = clip(ids).pooler_output
    return pooled


@torch.inference_mode()
def encode_image(feature_extractor: Any, siglip: nn.Module, pixels: np.ndarray) -> Tensor:
    """SigLIP's features of a uint8 (H, W, 3) picture: (1, patches, D)."""
    parameter = next(siglip.parameters())
    values = feature_extractor(images=[pixels], return_tensors="pt").pixel_values
    hidden: Tensor = siglip(values.to(parameter.device, parameter.dtype)).last_hidden_state
    return hidden


@torch.inference_mode()
def encode_latent(vae: Any, pixels: np.ndarray) -> Tensor:
    """The scaled latent (1, C, 1, H/8, W/8) in float32 on the CPU of a uint8 (H, W, 3) picture.

    The posterior's mode, not a sample, so that a seed alone decides what is drawn.
    """
    parameter = next(vae.parameters())
    scaled = torch.from_numpy(pixels.copy()).float() / 127.5 - 1
    video = scaled.permute(2, 0, 1)[None, :, None].to(parameter.device, parameter.dtype)
    latent: Tensor = vae.encode(video).latent_dist.mode() * vae.config.scaling_factor
    return latent.float().cpu()


@torch.inference_mode()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Scaled latents (1, C, T, H/8, W/8) become pixels (4T − 3, 3, H, W), float32 in about −1…1."""
    parameter = next(vae.parameters())
    scaled = latents.to(parameter.device, parameter.dtype) / vae.config.scaling_factor
    video: Tensor = vae.decode(scaled).sample
    return video[0].transpose(0, 1).float().cpu()


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
