"""FramePack on one page: a picture and a sentence become a video, section by section.

The story: encode prompt and pictures once; sample section after section, each one seeing a context
of constant size however long the video is; decode once, forward in time, into the encoder. Refuses
to know: who asked, where weights lie, what a section's context is made of. Source: FramePack
(arXiv:2504.12626); the model calls are those of its reference code (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from generator import encoders, video
from generator.conditions import ConditionEncoder, Conditions
from generator.denoiser import Denoiser
from generator.errors import ModelError
from generator.placement import Placement
from generator.preview import Previews
from generator.progress import Pace, Tracker
from generator.protocol import Finished, JobRequest, Progress, Stage
from generator.record import describe_result, write_record
from generator.sampler import UniPC, flow_shift, make_sigmas
from generator.sections import History, frame_count, section_count, section_plan
from generator.step_cache import step_cache
from generator.workshop import Workshop

VAE_STRIDE = 8


@dataclass(kw_only=True)
class Sampled:
    """The latents of a whole video, and which steps ran the transformer's blocks."""

    history: History
    computed_steps: list[list[int]]  # of each section, in sampling order


def generate(
    job_id: str,
    request: JobRequest,
    folder: Path,
    workshop: Workshop,
    *,
    latents_out: Path | None = None,
) -> Generator[Progress | Finished, None, None]:
    """Make `framepack-<job_id>.mp4` in `folder`; yields after every step, and Finished at last.

    Stop by closing the iterator: nothing half-made stays. `latents_out` receives all latents in
    time order, float32 (1, C, 1 + n·w, H/8, W/8), under `latents`. Raises GeneratorError.
    """
    placement = workshop.placement
    resolution = request.resolution or placement.model.resolution()
    request = msgspec.structs.replace(request, resolution=resolution)
    size = encoders.bucket_of(folder / request.image, resolution)
    track = _tracker(job_id, request, size, workshop.pace)
    path = folder / f"framepack-{job_id}.mp4"

    encoder = ConditionEncoder(placement, workshop.cache)
    conditions = yield from encoder.encode(request, folder, size, track)
    sampled = yield from _sample(request, conditions, placement, track, folder)
    if latents_out is not None:
        _save_latents(sampled, latents_out)
    record = describe_result(request, placement)
    writer = video.Mp4Writer(path, size, request.fps, request.crf, record)
    try:
        yield from _decode(request, sampled.history, writer, placement, track)
    finally:
        writer.abort()
    write_record(path.with_suffix(".json"), record, track.stage_s, sampled.computed_steps)
    yield Finished(
        job_id=job_id,
        video=path.name,
        frames=writer.frames,
        width=size[1],
        height=size[0],
        fps=request.fps,
        size_bytes=path.stat().st_size,
        elapsed_s=track.elapsed_s,
        stage_s=track.stage_s,
    )


def _sample(
    request: JobRequest, conditions: Conditions, placement: Placement, track: Tracker, folder: Path
) -> Generator[Progress, None, Sampled]:
    """The section loop: noise becomes latents, one section after another."""
    plan = section_plan(request.variant, section_count(request.seconds, request.latent_window_size))
    history = History(
        request.variant,
        request.latent_window_size,
        conditions.start,
        references=conditions.references,
        end=conditions.end,
    )
    shape = _window_shape(conditions.start, request.latent_window_size)
    shift = request.motion_bias or flow_shift(shape[2] * shape[3] * shape[4] // 4)
    sigmas = make_sigmas(request.steps, shift, request.consistency_boost)
    draw = torch.Generator("cpu").manual_seed(request.seed)
    previews = Previews(folder, video.preview_map(placement.model.read_json("preview.json")))
    mag_ratios = placement.model.read_json("mag_ratios.json")
    computed_steps = []

    yield track.enter(Stage.LOADING)
    with (
        placement.on_gpu("transformer", request.variant) as transformer,
        step_cache(transformer, request, mag_ratios) as cache,
    ):
        yield track.enter(Stage.SAMPLING)
        for number, padding in enumerate(plan, start=1):
            cache.new_section()
            image_embeds = conditions.image_embeds_of(number - 1, len(plan))
            context = history.context(padding)
            denoise = Denoiser(transformer, request, conditions, image_embeds, context, cache)
            noise = torch.randn(shape, generator=draw)
            solver, finite = UniPC(sigmas, noise.to(placement.device)), []
            for step in range(1, request.steps + 1):
                x0 = solver.advance(denoise)
                finite.append(x0.isfinite().all())
                is_last = step == request.steps
                yield track.stepped(number, step, previews.show(x0, at_once=is_last))
            _refuse_nonsense(finite, number, len(plan))
            history.push(x0.cpu())
            computed_steps.append(cache.computed_steps)
    previews.clear()
    return Sampled(history=history, computed_steps=computed_steps)


def _decode(
    request: JobRequest,
    history: History,
    writer: video.Mp4Writer,
    placement: Placement,
    track: Tracker,
) -> Iterator[Progress]:
    """Chunk after chunk becomes pixels, fades into its successor and goes to the encoder."""
    window = request.latent_window_size
    sections = section_count(request.seconds, window)
    yield track.enter(Stage.DECODING)
    with placement.on_gpu("vae") as vae:
        chunks = (encoders.decode_latents(vae, chunk) for chunk in history.chunks())
        frames = video.frames_of(video.cross_fade(chunks, 4 * window - 3))
        count = frame_count(sections, window)
        resampled = video.resample(frames, count, request.fps, request.resampling)
        for number, frame in enumerate(resampled, start=1):
            writer.write(frame)
            if number * sections // count > (number - 1) * sections // count:
                yield track.decoded()
    yield track.enter(Stage.ENCODING)
    writer.close()


def _tracker(job_id: str, request: JobRequest, size: encoders.Size, pace: Pace) -> Tracker:
    window = request.latent_window_size
    return Tracker(
        job_id,
        sections=section_count(request.seconds, window),
        steps=request.steps,
        chunk_pixels=2 * window * size[0] * size[1] // VAE_STRIDE**2,
        pace=pace,
    )


def _window_shape(start: Tensor, window: int) -> tuple[int, ...]:
    batch, channels, _, height, width = start.shape
    return batch, channels, window, height, width


def _refuse_nonsense(finite: list[Tensor], section: int, sections: int) -> None:
    """One wait for the GPU a section finds the first step whose result is NaN or Inf."""
    good = torch.stack(finite).tolist()
    if not all(good):
        raise ModelError(
            f"The model computed NaN or Inf in section {section} of {sections} at step "
            f"{good.index(False) + 1} of {len(good)}: its weights are damaged, or the dtype is too "
            "narrow for them (float16 overflows where bfloat16 and float32 do not)."
        )


def _save_latents(sampled: Sampled, path: Path) -> None:
    tensors: dict[str, Any] = {"latents": sampled.history.latents().contiguous()}
    for number, steps in enumerate(sampled.computed_steps):
        tensors[f"computed_steps_{number:02d}"] = torch.tensor(steps)
    save_file(tensors, path)
