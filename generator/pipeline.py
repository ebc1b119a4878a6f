"""FramePack on one page: a picture and a sentence become a video, section by section.

The story: encode prompt and pictures once; sample section after section, each one seeing a context
of constant size however long the video is; decode once, forward in time, into the encoder. Refuses
to know: who asked, where weights lie, what a section's context is made of. Source: FramePack
(arXiv:2504.12626); the model calls are those of its reference code (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from generator import encoders, fallback, video
from generator.conditions import ConditionEncoder, Conditions, pictures_of
from generator.denoiser import Denoiser
from generator.errors import DiskError, GeneratorError, InputError, ModelError
from generator.fallback import Sacrifice
from generator.placement import Placement
from generator.preview import Previews
from generator.progress import Tracker
from generator.protocol import Finished, JobRequest, Progress, Stage
from generator.record import describe_result, write_record
from generator.resume import SavedWork, rewrite_digest, work_digest
from generator.sampler import UniPC, flow_shift, make_sigmas
from generator.sections import History, frame_count, section_count, section_plan
from generator.step_cache import step_cache
from generator.workshop import Workshop

VAE_STRIDE = 8


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One job at work: what is wanted, what is kept of it, who follows it."""

    request: JobRequest
    folder: Path
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


def generate(
    job_id: str,
    request: JobRequest,
    folder: Path,
    workshop: Workshop,
    *,
    latents_out: Path | None = None,
    only_finished: bool = False,
) -> Generator[Progress | Finished, None, None]:
    """Make `framepack-<job_id>.mp4` in `folder`; yields after every step, and Finished at last.

    Stop by closing the iterator: the steps made so far stay in `folder` (see `resume`), and the
    same call goes on from there to the same bytes. `latents_out` receives all latents in time
    order, float32 (1, C, 1 + n·w, H/8, W/8), under `latents`. With `only_finished` the video is of
    the sections that `folder` holds, and says so in its record. Raises GeneratorError.
    """
    video.find_ffmpeg()  # not only after an hour of sampling
    workshop.placement.give_up(fallback.given_up_by(folder))
    request, record = _described(request, folder, workshop.placement)
    run = _start(job_id, request, folder, workshop, record, only_finished)
    if run.sections < run.planned:
        part = "beginning" if run.from_start else "end"
        record["made"] = {"sections": run.sections, "of": run.planned, "part": part}
    path = folder / f"framepack-{job_id}.mp4"

    encoder = ConditionEncoder(run.placement, workshop.cache)
    conditions = yield from encoder.encode(request, folder, run.size, run.track)
    sample = _finished_sections if only_finished else _sample
    history = yield from sample(run, conditions)
    if latents_out is not None:
        _save_latents(history, run.saved.computed_steps, latents_out)
    writer = video.Mp4Writer(path, run.size, request.fps, request.crf, record)
    try:
        yield from _decode(run, history, writer)
        steps = run.saved.computed_steps
        write_record(path.with_suffix(".json"), record, run.track.stage_s, steps)
    except GeneratorError:
        path.unlink(missing_ok=True)
        raise
    finally:
        writer.abort()
    run.saved.discard(after=path)
    yield Finished(
        job_id=job_id,
        video=path.name,
        frames=writer.frames,
        width=run.size[1],
        height=run.size[0],
        fps=request.fps,
        size_bytes=path.stat().st_size,
        elapsed_s=run.track.elapsed_s,
        stage_s=run.track.stage_s,
        sections_made=run.sections,
        sections=run.planned,
        given_up=tuple(map(str, workshop.placement.given_up)),
    )


def give_up(sacrifice: Sacrifice, request: JobRequest, folder: Path, workshop: Workshop) -> None:
    """Let the job of this folder go on with less; its finished steps are kept, under the digest
    that the rest will have. OSError when that can not be written."""
    placement = workshop.placement
    before = work_digest(_described(request, folder, placement)[1])
    given_up = (*placement.given_up, sacrifice)
    placement.give_up(given_up)
    after = work_digest(_described(request, folder, placement)[1])
    fallback.note(folder, given_up)
    rewrite_digest(folder, before, after)


def _history(run: _Run, conditions: Conditions) -> History:
    request, start = run.request, conditions.start
    references, end = conditions.references, conditions.end
    window = request.latent_window_size
    return History(request.variant, window, start, references=references, end=end)


def _finished_sections(run: _Run, conditions: Conditions) -> Generator[Progress, None, History]:
    """The sections that are there; no transformer is loaded for them."""
    history = _history(run, conditions)
    run.track.go_on(run.sections * run.request.steps)
    yield run.track.enter(Stage.SAMPLING)
    for number in range(1, run.sections + 1):
        latents = run.saved.section(number)
        assert latents is not None
        history.push(latents)
    return history


def _sample(run: _Run, conditions: Conditions) -> Generator[Progress, None, History]:
    """The section loop: noise becomes latents, one section after another."""
    request, placement, saved, track = run.request, run.placement, run.saved, run.track
    start, window = conditions.start, request.latent_window_size
    history = _history(run, conditions)
    draw = torch.Generator("cpu").manual_seed(request.seed)
    previews = Previews(run.folder, video.preview_map(placement.model.read_json("preview.json")))
    mag_ratios = placement.model.read_json("mag_ratios.json")

    yield track.enter(Stage.LOADING)
    track.go_on(saved.steps_done(request.steps))
    with (
        closing(previews),
        placement.on_gpu("transformer", request.variant) as transformer,
        step_cache(transformer, request, mag_ratios) as cache,
    ):
        yield track.enter(Stage.SAMPLING)
        for number, padding in enumerate(section_plan(request.variant, run.sections), start=1):
            noise = torch.randn(_window_shape(start, window), generator=draw)
            latents = saved.section(number)
            if latents is None:
                cache.new_section()
                features = conditions.image_embeds_of(number - 1, run.sections)
                context = history.context(padding)
                denoise = Denoiser(transformer, request, conditions, features, context, cache)
                latents = yield from _section(run, number, noise, denoise, previews)
                saved.append(latents, cache.computed_steps)
            history.push(latents)
    return history


def _section(
    run: _Run, number: int, noise: Tensor, denoise: Denoiser, previews: Previews
) -> Generator[Progress, None, Tensor]:
    """The step loop: from noise to the latents of one section, or from where a crash left it."""
    request, saved, cache = run.request, run.saved, denoise.cache
    shift = request.motion_bias or flow_shift(noise[0, 0].numel() // 4)
    sigmas = make_sigmas(request.steps, shift, request.consistency_boost)
    solver = UniPC(sigmas, noise.to(run.placement.device))
    remembered = saved.restore(number, solver)
    if remembered is not None:
        denoise.go_on(remembered, solver.sigmas, solver.step)
    finite = []
    with saved.at_work(number, solver, cache):
        while solver.step < solver.steps:
            x0 = solver.advance(denoise)
            finite.append(x0.isfinite().all())
            saved.keep_if_due(number, solver, cache)
            preview = previews.show(x0, at_once=solver.step == solver.steps)
            yield run.track.stepped(number, solver.step, preview)
    _refuse_nonsense(finite, number, run)
    return solver.predictions[0].cpu()


def _decode(run: _Run, history: History, writer: video.Mp4Writer) -> Iterator[Progress]:
    """Chunk after chunk becomes pixels, fades into its successor and goes to the encoder."""
    request, sections = run.request, run.sections
    count = frame_count(sections, request.latent_window_size, from_start=run.from_start)
    yield run.track.enter(Stage.DECODING)
    with run.placement.on_gpu("vae") as vae:
        pieces = video.cross_fade(_chunks(run, history, vae), 4 * request.latent_window_size - 3)
        frames = video.resample(video.frames_of(pieces), count, request.fps, request.resampling)
        total = video.frame_total(count, request.fps)
        for number, frame in enumerate(frames, start=1):
            writer.write(frame)
            if number * sections // total > (number - 1) * sections // total:
                yield run.track.decoded(number * sections // total)
    yield run.track.enter(Stage.ENCODING)
    writer.close()


def _chunks(run: _Run, history: History, vae: Any) -> Iterator[Tensor]:
    """The pixels of one chunk after another, in time order."""
    for number, latents in enumerate(history.chunks(from_start=run.from_start), start=1):
        pixels = encoders.decode_latents(vae, latents)
        if not pixels.isfinite().all():
            run.saved.discard()
            raise ModelError(
                f"The VAE decoded part {number} of {run.sections} to NaN or Inf: its weights are "
                "damaged, or the dtype is too narrow for them (try dtype = float32)."
            )
        yield pixels


def _described(
    request: JobRequest, folder: Path, placement: Placement
) -> tuple[JobRequest, dict[str, Any]]:
    """The request with the model's own resolution where it names none, and the result's record."""
    resolution = request.resolution or placement.model.resolution()
    request = msgspec.structs.replace(request, resolution=resolution)
    pictures = {name: folder / name for name in pictures_of(request)}
    return request, describe_result(request, pictures, placement)


def _start(
    job_id: str,
    request: JobRequest,
    folder: Path,
    workshop: Workshop,
    record: dict[str, Any],
    only_finished: bool,
) -> _Run:
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
    return _Run(
        request=request,
        folder=folder,
        placement=workshop.placement,
        size=size,
        saved=saved,
        track=track,
        planned=planned,
        sections=sections,
    )


def _window_shape(start: Tensor, window: int) -> tuple[int, ...]:
    batch, channels, _, height, width = start.shape
    return batch, channels, window, height, width


def _refuse_nonsense(finite: list[Tensor], section: int, run: _Run) -> None:
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


def _save_latents(history: History, computed_steps: list[list[int]], path: Path) -> None:
    tensors: dict[str, Any] = {"latents": history.latents().contiguous()}
    for number, steps in enumerate(computed_steps):
        tensors[f"computed_steps_{number:02d}"] = torch.tensor(steps)
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise DiskError(f"The latents could not be written to {path}: {error}.") from None
