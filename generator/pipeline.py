"""FramePack on one page: a picture and a sentence become a video, section by section.

The story: encode prompt and pictures once; sample section after section, each one seeing a context
of constant size however long the video is; decode once, forward in time, into the encoder. Refuses
to know: who asked, where weights lie, what a section's context is made of. Source: FramePack
(arXiv:2504.12626); the model calls are those of its reference code (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator import encoders, video
from generator.conditions import ConditionEncoder, Conditions
from generator.denoiser import Denoiser
from generator.errors import GeneratorError, ModelError
from generator.preview import Previews
from generator.protocol import Finished, JobRequest, Progress, Stage
from generator.record import write_record
from generator.run import Run, refuse_nonsense, save_latents, start_run
from generator.sampler import UniPC, flow_shift, make_sigmas
from generator.sections import History, frame_count, section_plan
from generator.step_cache import step_cache
from generator.workshop import Workshop


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
    run = start_run(job_id, request, folder, workshop, only_finished=only_finished)
    encoder = ConditionEncoder(run.placement, workshop.cache)
    conditions = yield from encoder.encode(run.request, folder, run.size, run.track)
    sample = _finished_sections if only_finished else _sample
    history = yield from sample(run, conditions)
    if latents_out is not None:
        save_latents(history, run.saved.computed_steps, latents_out)
    frames = yield from _write_video(run, history)
    run.saved.discard(after=run.path)
    yield run.finished(frames)


def _history(run: Run, conditions: Conditions) -> History:
    request, start = run.request, conditions.start
    references, end = conditions.references, conditions.end
    window = request.latent_window_size
    return History(request.variant, window, start, references=references, end=end)


def _finished_sections(run: Run, conditions: Conditions) -> Generator[Progress, None, History]:
    """The sections that are there; no transformer is loaded for them."""
    history = _history(run, conditions)
    run.track.go_on(run.sections * run.request.steps)
    yield run.track.enter(Stage.SAMPLING)
    for number in range(1, run.sections + 1):
        latents = run.saved.section(number)
        assert latents is not None
        history.push(latents)
    return history


def _sample(run: Run, conditions: Conditions) -> Generator[Progress, None, History]:
    """The section loop: noise becomes latents, one section after another."""
    request, placement, saved, track = run.request, run.placement, run.saved, run.track
    start, window = conditions.start, request.latent_window_size
    history = _history(run, conditions)
    draw = torch.Generator("cpu").manual_seed(request.seed)
    colours = video.preview_map(placement.model.read_json("preview.json"))
    previews = Previews(run.path.parent, colours)
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
    run: Run, number: int, noise: Tensor, denoise: Denoiser, previews: Previews
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
    refuse_nonsense(finite, number, run)
    return solver.predictions[0].cpu()


def _write_video(run: Run, history: History) -> Generator[Progress, None, int]:
    """Everything sampled becomes the MP4 and its record, or neither; returns how many frames."""
    writer = video.Mp4Writer(run.path, run.size, run.request.fps, run.request.crf, run.record)
    try:
        yield from _decode(run, history, writer)
        steps = run.saved.computed_steps
        write_record(run.path.with_suffix(".json"), run.record, run.track.stage_s, steps)
    except GeneratorError:
        run.path.unlink(missing_ok=True)
        raise
    finally:
        writer.abort()
    return writer.frames


def _decode(run: Run, history: History, writer: video.Mp4Writer) -> Iterator[Progress]:
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


def _chunks(run: Run, history: History, vae: Any) -> Iterator[Tensor]:
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
        del pixels  # while the next are decoded


def _window_shape(start: Tensor, window: int) -> tuple[int, ...]:
    batch, channels, _, height, width = start.shape
    return batch, channels, window, height, width
