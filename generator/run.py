"""One job at work: what is wanted, what is kept of it, where it must stop.

Decides: how an order becomes a run, what its record says, which results are nonsense. Refuses to
know: how latents and frames are made (`pipeline`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from generator import encoders, fallback
from generator.conditions import pictures_of
from generator.errors import DiskError, InputError, ModelError
from generator.fallback import Sacrifice
from generator.placement import Placement
from generator.progress import Tracker
from generator.protocol import Finished, JobRequest
from generator.record import describe_result
from generator.resume import SavedWork, rewrite_digest, work_digest
from generator.sections import History, section_count
from generator.workshop import Workshop

VAE_STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job at work: what is wanted, what is kept of it, who follows it."""

    job_id: str
    request: JobRequest
    record: dict[str, Any]
    """What is written beside the video."""
    path: Path
    """The video's."""
    placement: Placement
    size: encoders.Size
    saved: SavedWork
    track: Tracker
    planned: int
    """Sections of the whole video."""
    sections: int
    """Those that are made: fewer when only the finished ones are wanted."""

    @property
    def from_start(self) -> bool:
        """Whether the video begins at the picture. I2V samples that part last."""
        return self.sections == self.planned or not self.request.variant.grows_backward

    def finished(self, frames: int) -> Finished:
        """The job's last message."""
        return Finished(
            job_id=self.job_id,
            video=self.path.name,
            frames=frames,
            width=self.size[1],
            height=self.size[0],
            fps=self.request.fps,
            size_bytes=self.path.stat().st_size,
            elapsed_s=self.track.elapsed_s,
            stage_s=self.track.stage_s,
            sections_made=self.sections,
            sections=self.planned,
            given_up=tuple(map(str, self.placement.given_up)),
        )


def start_run(
    job_id: str, request: JobRequest, folder: Path, workshop: Workshop, *, only_finished: bool
) -> Run:
    """Take up a job where its folder left it. With `only_finished` the run is of the sections that
    lie there. InputError: a bad picture, or nothing is finished."""
    workshop.placement.give_up(fallback.given_up_by(folder))
    request, record = described(request, folder, workshop.placement)
    size = encoders.video_size(folder / request.image, request.shape, request.resolution or 0)
    window = request.latent_window_size
    saved = SavedWork(folder, work_digest(record), every_s=workshop.resume_every_s)
    sections = planned = section_count(request.seconds, window)
    if only_finished:
        sections = min(saved.finished, planned)
    if sections == 0:
        raise InputError(
            f"None of the {planned} sections of this video is finished, so there is nothing to "
            "send; start it again, and wait until it shows section 2."
        )
    track = Tracker(
        job_id,
        sections=sections,
        steps=request.steps,
        chunk_pixels=2 * window * size[0] * size[1] // VAE_STRIDE**2,
        pace=workshop.pace,
    )
    run = Run(
        job_id=job_id,
        request=request,
        record=record,
        path=folder / f"framepack-{job_id}.mp4",
        placement=workshop.placement,
        size=size,
        saved=saved,
        track=track,
        planned=planned,
        sections=sections,
    )
    if sections < planned:
        part = "beginning" if run.from_start else "end"
        record["made"] = {"sections": sections, "of": planned, "part": part}
    return run


def described(
    request: JobRequest, folder: Path, placement: Placement
) -> tuple[JobRequest, dict[str, Any]]:
    """The request with the model's own resolution where it names none, and the result's record."""
    resolution = request.resolution or placement.model.resolution()
    request = msgspec.structs.replace(request, resolution=resolution)
    pictures = {name: folder / name for name in pictures_of(request)}
    return request, describe_result(request, pictures, placement)


def give_up(sacrifice: Sacrifice, request: JobRequest, folder: Path, workshop: Workshop) -> None:
    """Let the job of this folder go on with less; its finished steps are kept, under the digest
    that the rest will have. OSError when that can not be written."""
    placement = workshop.placement
    before = work_digest(described(request, folder, placement)[1])
    given_up = (*placement.given_up, sacrifice)
    placement.give_up(given_up)
    after = work_digest(described(request, folder, placement)[1])
    fallback.note(folder, given_up)
    rewrite_digest(folder, before, after)


def refuse_nonsense(finite: list[Tensor], section: int, run: Run) -> None:
    """One wait for the GPU a section finds the first step whose result is NaN or Inf."""
    good = torch.stack(finite).tolist() if finite else []
    if not all(good):
        run.saved.discard()
        steps = run.request.steps
        step = steps - len(good) + good.index(False) + 1
        raise ModelError(
            f"The model computed NaN or Inf in section {section} of {run.sections} at step {step} "
            f"of {steps}: its weights are damaged, or the dtype is too narrow for them (float16 "
            "overflows where bfloat16 and float32 do not)."
        )


def save_latents(history: History, computed_steps: list[list[int]], path: Path) -> None:
    tensors: dict[str, Any] = {"latents": history.latents().contiguous()}
    for number, steps in enumerate(computed_steps):
        tensors[f"computed_steps_{number:02d}"] = torch.tensor(steps)
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise DiskError(f"The latents could not be written to {path}: {error}.") from None
