"""What one job is conditioned on, and the memory of what was encoded before.

Decides: what is encoded, once, and kept by content hash. Refuses to know: sections, sampling. A
second job with the same picture and prompt reads everything from disk and loads no encoder.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator import encoders
from generator.placement import Placement
from generator.progress import Tracker
from generator.protocol import JobRequest, Progress, Stage, Variant

log = logging.getLogger(__name__)

KEEP_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class TextEmbeds:
    """A prompt for the transformer: Llama features (1, tokens, D) and CLIP's summary (1, P)."""

    prompt_embeds: Tensor
    pooled_projections: Tensor


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Everything a section's model calls need that is the same for all sections; on the CPU."""

    positive: TextEmbeds
    negative: TextEmbeds | None  # None: no second pass
    image_embeds: Tensor  # (1, patches, D)
    start: Tensor  # (1, C, 1, H/8, W/8)
    references: tuple[Tensor, ...] = ()
    end: Tensor | None = None
    end_image_embeds: Tensor | None = None
    end_strength: float = 0.0

    def image_embeds_of(self, section: int, sections: int) -> Tensor:
        """SigLIP features of the section sampled as number `section` (from 0).

        With an end frame they go from the end picture to the start picture over the sections, by
        the end's strength; a single section stands between the two.
        """
        if self.end_image_embeds is None:
            return self.image_embeds
        toward_end = 1 - section / (sections - 1) if sections > 1 else 0.5
        share = toward_end * self.end_strength
        return self.image_embeds * (1 - share) + self.end_image_embeds * share


class EncodingCache:
    """Encoded prompts and pictures on disk, by content hash; the oldest go when it is too large.

    A damaged file counts as absent. Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, keep_bytes: int = KEEP_BYTES):
        self.folder, self.keep_bytes = folder, keep_bytes

    def get(self, key: tuple[str | bytes, ...], encode: Callable[[], Tensor]) -> Tensor:
        """The tensor kept under `key`, else what `encode` returns, kept from now on."""
        if self.folder is None:
            return encode()
        file = self.folder / f"{_hash(key)}.safetensors"
        with contextlib.suppress(OSError, SafetensorError, KeyError):
            tensor = load_file(file)["x"]
            os.utime(file)  # the time of last use decides what goes
            return tensor
        tensor = encode().cpu().contiguous()
        self._keep(file, tensor)
        return tensor

    def _keep(self, file: Path, tensor: Tensor) -> None:
        partial = file.with_suffix(f".{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"x": tensor}, partial)
            partial.replace(file)
            self._make_room()
        except (OSError, SafetensorError) as error:
            log.warning("Encodings are not kept: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _make_room(self) -> None:
        assert self.folder is not None
        files = [(file.stat(), file) for file in self.folder.glob("*.safetensors")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, file in sorted(files, key=lambda entry: entry[0].st_mtime):
            if total <= self.keep_bytes:
                return
            file.unlink(missing_ok=True)
            total -= stat.st_size


class ConditionEncoder:
    """Encodes a job's prompt and pictures, part by part."""

    def __init__(self, placement: Placement, cache: EncodingCache):
        self._placement, self._cache = placement, cache
        self._model = placement.model

    def encode(
        self, request: JobRequest, folder: Path, size: encoders.Size, track: Tracker
    ) -> Generator[Progress, None, Conditions]:
        """Yields as each stage begins and returns the conditions. InputError: a bad picture."""
        pictures = {
            name: encoders.cover_crop(encoders.open_picture(folder / name), size)
            for name in pictures_of(request)
        }
        yield track.enter(Stage.TEXT)
        positive = self._text(request.prompt)
        negative = self._text(request.negative_prompt) if request.true_cfg_scale != 1 else None
        yield track.enter(Stage.IMAGE)
        end = pictures.get(_end_name(request))
        return Conditions(
            positive=positive,
            negative=negative,
            image_embeds=self._embeds(pictures[request.image]),
            end_image_embeds=None if end is None else self._embeds(end),
            start=self._latent(pictures[request.image]),
            references=tuple(self._latent(pictures[name]) for name in request.references),
            end=None if end is None else self._latent(end) * request.end_strength,
            end_strength=request.end_strength,
        )

    def _text(self, prompt: str) -> TextEmbeds:
        def features() -> Tensor:
            tokenizer = self._model.load_tokenizer("tokenizer")
            with self._placement.on_gpu("text_encoder") as llama:
                return encoders.encode_prompt(tokenizer, llama, prompt).cpu()

        def summary() -> Tensor:
            tokenizer = self._model.load_tokenizer("tokenizer_2")
            with self._placement.on_gpu("text_encoder_2") as clip:
                return encoders.summarise_prompt(tokenizer, clip, prompt).cpu()

        key = self._key("tokenizer", "text_encoder")
        key_2 = self._key("tokenizer_2", "text_encoder_2")
        return TextEmbeds(
            prompt_embeds=self._cache.get((*key, prompt), features),
            pooled_projections=self._cache.get((*key_2, prompt), summary),
        )

    def _embeds(self, pixels: np.ndarray) -> Tensor:
        def encode() -> Tensor:
            extractor = self._model.load_feature_extractor()
            with self._placement.on_gpu("image_encoder") as siglip:
                return encoders.encode_image(extractor, siglip, pixels).cpu()

        key = self._key("feature_extractor", "image_encoder")
        return self._cache.get((*key, str(pixels.shape), pixels.tobytes()), encode)

    def _latent(self, pixels: np.ndarray) -> Tensor:
        def encode() -> Tensor:
            with self._placement.on_gpu("vae") as vae:
                return encoders.encode_latent(vae, pixels)

        key = (*self._key("vae"), f"tiles {self._placement.vae_tile}")
        return self._cache.get((*key, str(pixels.shape), pixels.tobytes()), encode)

    def _key(self, *parts: str) -> tuple[str | bytes, ...]:
        """What besides the input decides an encoding: weights, dtype, device kind."""
        placement = self._placement
        digests = (self._model.digest(part) for part in parts)
        return (*parts, *digests, str(placement.dtype_of(parts[-1])), placement.device.type)


def _end_name(request: JobRequest) -> str:
    """The end picture's file; F1 goes forward and has no use for one."""
    return request.end_image or "" if request.variant is Variant.I2V else ""


def pictures_of(request: JobRequest) -> list[str]:
    """The names of the files that a job looks at."""
    return [name for name in (request.image, *request.references, _end_name(request)) if name]


def _hash(key: tuple[str | bytes, ...]) -> str:
    digest = hashlib.sha256()
    for piece in key:
        raw = piece.encode() if isinstance(piece, str) else piece
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
