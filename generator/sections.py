"""FramePack's sections: how many, in what order, and what each one sees of the video so far.

Decides: the section plan, the index layout, what the history holds. Both variants are one code
path over data: which end of the video grows (`Variant`), in which order the context lies on the
time axis and whether the start latent is the first piece of history (`LAYOUTS`). Refuses to know:
models, noise, pixels. Source: FramePack (arXiv:2504.12626) and its reference code, Apache-2.0.

A latent is a tensor (1, C, T, H, W) in float32 on the CPU, H and W in latent pixels (8 px each),
T in latent frames (4 video frames each, the first one 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from generator.protocol import MODEL_FPS, Variant

CONTEXT_SIZES = {"1x": 1, "2x": 2, "4x": 16}
"""Latent frames of history at each compression, from the window outward."""
CONTEXT_FRAMES = sum(CONTEXT_SIZES.values())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What tells the variants apart."""

    time_axis: tuple[str, ...]
    start_in_history: bool


LAYOUTS = {
    Variant.I2V: Layout(
        time_axis=("start", "blank", "window", "1x", "2x", "4x"),
        start_in_history=False,
    ),
    Variant.F1: Layout(
        time_axis=("start", "4x", "2x", "1x", "window"),
        start_in_history=True,
    ),
}


def section_count(seconds: float, window: int) -> int:
    """Sections of `window` latent frames that come closest to `seconds`; at least one."""
    return max(round(seconds * MODEL_FPS / (4 * window)), 1)


def frame_count(sections: int, window: int, *, from_start: bool = True) -> int:
    """Video frames that `sections` sections decode to, with or without the start latent."""
    return 4 * window * sections + (1 if from_start else -3)


def section_plan(variant: Variant, sections: int) -> tuple[int, ...]:
    """The padding of each section in sampling order: windows left blank between start and section.

    I2V counts down to 0; beyond four sections the middle ones all claim a distance of two, because
    the model was not trained on larger ones. F1 has no padding.
    """
    if variant.grows_backward:
        if sections > 4:
            return (3, *[2] * (sections - 3), 1, 0)
        return tuple(range(sections - 1, -1, -1))
    return (0,) * sections


def time_indices(variant: Variant, padding: int, window: int) -> dict[str, Tensor]:
    """Positions on the time axis, int64 (size,), of start, window and the three contexts."""
    sizes = {"start": 1, "blank": padding * window, "window": window, **CONTEXT_SIZES}
    axis = LAYOUTS[variant].time_axis
    positions = torch.arange(sum(sizes[part] for part in axis))
    return dict(zip(axis, positions.split([sizes[part] for part in axis]), strict=True))


@dataclass(frozen=True, kw_only=True)
class Context:
    """What one section sees, named as the transformer's arguments."""

    indices_latents: Tensor  # (w,)
    latents_clean: Tensor  # (1, C, 2, H, W): start, 1x
    indices_latents_clean: Tensor  # (2,)
    latents_history_2x: Tensor  # (1, C, 2, H, W)
    indices_latents_history_2x: Tensor  # (2,)
    latents_history_4x: Tensor  # (1, C, 16, H, W)
    indices_latents_history_4x: Tensor  # (16,)


class History:
    """The latents sampled so far, and the context they make for the next section.

    `references` are latents of additional images: they fill 4x slots that nothing sampled fills.
    `end` (I2V only) is the latent, already scaled by its strength, that takes the 1x slot of the
    first sampled section. All latents have one frame and the shape of `start`.
    """

    def __init__(
        self,
        variant: Variant,
        window: int,
        start: Tensor,
        *,
        references: tuple[Tensor, ...] = (),
        end: Tensor | None = None,
    ):
        self.variant, self.window = variant, window
        self._layout = LAYOUTS[variant]
        self._start, self._references, self._end = start, references, end
        self._pieces: list[Tensor] = [start] if self._layout.start_in_history else []

    def context(self, padding: int) -> Context:
        """What the next section sees. Shapes: see `Context`; float32 on the CPU."""
        near = self._outward()
        if not self.variant.grows_backward:
            near = near.flip(2)
        parts = [part for part in self._layout.time_axis if part in CONTEXT_SIZES]
        sizes = [CONTEXT_SIZES[part] for part in parts]
        latents = dict(zip(parts, near.split(sizes, dim=2), strict=True))
        indices = time_indices(self.variant, padding, self.window)
        return Context(
            indices_latents=indices["window"],
            latents_clean=torch.cat([self._start, latents["1x"]], dim=2),
            indices_latents_clean=torch.cat([indices["start"], indices["1x"]]),
            latents_history_2x=latents["2x"],
            indices_latents_history_2x=indices["2x"],
            latents_history_4x=latents["4x"],
            indices_latents_history_4x=indices["4x"],
        )

    def push(self, section: Tensor) -> None:
        """Add a sampled section (1, C, w, H, W) at the end that grows."""
        self._pieces.append(section)

    def chunks(self, *, from_start: bool = True) -> Iterator[Tensor]:
        """What the decoder is given, in time order: each section with its successor's overlap.

        `from_start` is False for the end of a video whose beginning was never sampled.

        Neighbouring chunks share one section, which decodes to 4w − 3 frames of both. The start
        latent opens the first chunk. The two variants cut differently because the reference decodes
        after each section, and I2V samples backward: FRAMEPACK's chunk lengths are I2V 2w + 1,
        2w …, w and F1 w + 1, 2w …
        """
        start, *sections = self._in_time_order()
        groups: list[tuple[Tensor, ...]] = [*pairwise(sections)]
        if self.variant.grows_backward:
            groups.append((sections[-1],))
            if from_start:
                groups[0] = (start, *groups[0])
        else:
            groups.insert(0, (start, sections[0]))
        for group in groups:
            yield torch.cat(group, dim=2)

    def latents(self) -> Tensor:
        """All latents in time order, the start latent first: (1, C, 1 + n·w, H, W)."""
        return torch.cat(self._in_time_order(), dim=2)

    def _in_time_order(self) -> list[Tensor]:
        pieces = self._pieces[::-1] if self.variant.grows_backward else self._pieces
        return pieces if self._layout.start_in_history else [self._start, *pieces]

    def _outward(self) -> Tensor:
        """The 19 context latents, the one beside the window first."""
        frames = self._sampled_outward()
        if not frames and self._end is not None:
            frames = [self._end]
        for position in range(len(frames), CONTEXT_FRAMES):
            frames.append(self._filler(position - 3))
        return torch.cat(frames, dim=2)

    def _sampled_outward(self) -> list[Tensor]:
        frames: list[Tensor] = []
        for piece in reversed(self._pieces):
            split = list(piece.split(1, dim=2))
            frames += split if self.variant.grows_backward else split[::-1]
            if len(frames) >= CONTEXT_FRAMES:
                break
        return frames[:CONTEXT_FRAMES]

    def _filler(self, slot: int) -> Tensor:
        """What a slot of the 4x context (0 is nearest) holds while nothing sampled reaches it."""
        count = len(self._references)
        if slot < 0 or count == 0:
            return torch.zeros_like(self._start)
        return self._references[(slot // 4 if count <= 4 else slot) % count]
