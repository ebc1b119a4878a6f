"""The real child over its pipes: a turn ends at a step, and another child goes on from there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from generator import encoders, fallback, resume
from generator.denoiser import Denoiser
from generator.errors import OutOfMemoryError
from generator.fallback import Sacrifice
from generator.pipeline import generate
from generator.protocol import (
    ErrorKind,
    Failed,
    Finished,
    FromGenerator,
    Generate,
    JobRequest,
    Progress,
    Ready,
    Stage,
    StepCacheKind,
    Suspend,
    Suspended,
    ToGenerator,
    decode_from_generator,
    encode_line,
)
from generator.run import give_up
from generator.worker import _run, _Turn
from tests.generator.small_jobs import draw_picture, sha256, small_request, small_workshop


class Child:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def say(self, message: ToGenerator) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(message))
        self.process.stdin.flush()

    def hear(self) -> FromGenerator:
        assert self.process.stdout is not None
        return decode_from_generator(self.process.stdout.readline())

    def first_step(self) -> Progress:
        while not (isinstance(event := self.hear(), Progress) and event.step):
            pass
        return event

    def end_of_job(self) -> FromGenerator:
        while isinstance(event := self.hear(), Progress):
            pass
        return event


@contextmanager
def child(model: Path) -> Iterator[Child]:
    command = [sys.executable, "-m", "generator", "serve", "--model", str(model)]
    command += ["--device", "cpu", "--resume-every-s", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        found = Child(process)
        try:
            assert isinstance(found.hear(), Ready)
            yield found
        finally:
            process.kill()


def order(folder: Path, request: JobRequest) -> Generate:
    folder.mkdir(exist_ok=True)
    draw_picture(folder / "input.png")
    return Generate(job_id="job", folder=str(folder), request=request)


@pytest.mark.slow
def test_a_suspended_job_goes_on_in_another_child_to_the_same_bytes(
    tiny_model: Path, tmp_path: Path
) -> None:
    request = small_request(steps=12)
    turns, alone = order(tmp_path / "turns", request), order(tmp_path / "alone", request)
    with child(tiny_model) as first:
        first.say(turns)
        first.first_step()
        first.say(Suspend(job_id="job"))
        assert first.end_of_job() == Suspended(job_id="job")
        assert (tmp_path / "turns" / resume.POINT_FILE).exists()
        for _ in generate("job", request, tmp_path / "alone", small_workshop(tiny_model)):
            pass
    with child(tiny_model) as second:
        second.say(Suspend(job_id="job"))  # of a turn that is long over: means nothing
        second.say(turns)
        again = second.first_step()
        assert (again.section, again.step) > (1, 1)
        second.process.kill()  # the point of this step is on the disk
    with child(tiny_model) as third:
        third.say(turns)
        after = third.first_step()
        assert (after.section, after.step) > (again.section, again.step - 1)
        third.end_of_job()
    assert sha256(tmp_path / "turns" / "framepack-job.mp4") == sha256(
        tmp_path / "alone" / "framepack-job.mp4"
    )
    assert alone.request == turns.request


class Listener:
    """A parent that only listens."""

    def __init__(self) -> None:
        self.heard: list[FromGenerator] = []

    def send(self, message: FromGenerator) -> None:
        self.heard.append(message)

    def is_cancelled(self, job_id: str) -> bool:
        return False

    is_suspended = is_finishing = is_cancelled


@pytest.mark.parametrize("placements", [1, 0])
def test_out_of_memory_goes_on_one_placement_lower_or_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placements: int
) -> None:
    request, workshop = small_request(steps=4), small_workshop(tiny_model)
    wish, alone = order(tmp_path / "short", request), order(tmp_path / "alone", request)
    for _ in generate("job", request, Path(alone.folder), small_workshop(tiny_model)):
        pass
    whole, calls, lowered = Denoiser._velocity, [], []

    def short_of_memory(self: Denoiser, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 7:
            raise torch.OutOfMemoryError("no room")
        return whole(self, *arguments)

    def lower() -> str | None:
        lowered.append(1)
        return "stream" if len(lowered) <= placements else None

    monkeypatch.setattr(Denoiser, "_velocity", short_of_memory)
    monkeypatch.setattr(workshop.placement, "lower", lower)
    listener: Any = Listener()
    end = _run(wish, workshop, listener, listener)
    assert len(lowered) == 1
    if not placements:
        assert isinstance(end, Failed) and end.kind is ErrorKind.MEMORY
        return
    steps = [(e.section, e.step) for e in listener.heard if e.step]
    assert len(steps) == len(set(steps)) == 8  # no step was made twice
    assert sha256(tmp_path / "short" / "framepack-job.mp4") == sha256(
        tmp_path / "alone" / "framepack-job.mp4"
    )


def progress(section: int, step: int, stage: Stage = Stage.SAMPLING) -> Progress:
    return Progress(job_id="job", stage=stage, section=section, step=step)


@pytest.mark.parametrize(
    ("cache", "may_end"),
    [
        (StepCacheKind.NONE, [(1, 3), (1, 4), (2, 1), (2, 2)]),
        (StepCacheKind.TEACACHE, [(1, 3), (1, 4), (2, 1), (2, 2)]),
        (StepCacheKind.MAGCACHE, [(2, 1)]),
        (StepCacheKind.FIRST_BLOCK, [(2, 1)]),
    ],
)
def test_a_turn_ends_only_where_the_work_is_kept(
    cache: StepCacheKind, may_end: list[tuple[int, int]], tmp_path: Path
) -> None:
    turn = _Turn(order(tmp_path, small_request(step_cache=cache)))
    events = [progress(0, 0, Stage.LOADING), progress(0, 0)]
    events += [progress(*place) for place in [(1, 3), (1, 4), (2, 1), (2, 2)]]
    events += [progress(0, 0, Stage.DECODING)]
    found = [(e.section, e.step) for e in events if turn.may_end_after(e)]
    assert found == may_end


# What is given up when nothing else is left


TILED = 160
"""A resolution at which a picture has more than one small tile."""


def make_it(folder: Path, request: JobRequest, workshop: Any) -> tuple[Any, Any]:
    """How the job ended, and who listened."""
    listener: Any = Listener()
    return _run(order(folder, request), workshop, listener, listener), listener


def short_in(monkeypatch: pytest.MonkeyPatch, part: str, times: int, after: int = 0) -> list[int]:
    """Let a part find no room so often, once it has been used `after` times."""
    met = []

    def runs_out(*_: Any) -> None:
        met.append(1)
        if after < len(met) <= after + times:
            raise torch.OutOfMemoryError("no room")

    owner, name = (Denoiser, "_velocity") if part == "transformer" else (encoders, "decode_latents")
    whole = getattr(owner, name)

    def short(*arguments: Any) -> Any:
        runs_out()
        return whole(*arguments)

    monkeypatch.setattr(owner, name, short)
    return met


GIVEN_UP = [("transformer", "8-bit weights", 6), ("vae", "smaller VAE tiles", 0)]


@pytest.mark.parametrize(("part", "words", "after"), GIVEN_UP)
def test_what_changes_values_is_given_up_when_it_is_allowed_and_said(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    words: str,
    after: int,
) -> None:
    request = small_request(steps=4, resolution=TILED)
    whole, _ = make_it(tmp_path / "whole", request, small_workshop(tiny_model))
    assert isinstance(whole, Finished) and whole.given_up == ()
    short_in(monkeypatch, part, 1, after)
    workshop = small_workshop(tiny_model)
    workshop.allow_lossy_fallback = True
    end, listener = make_it(tmp_path / "short", request, workshop)
    assert isinstance(end, Finished) and end.given_up == (words,)
    steps = [(e.section, e.step) for e in listener.heard if e.step]
    assert len(steps) == len(set(steps)) == 8  # no step was made twice
    record = json.loads((tmp_path / "short" / "framepack-job.json").read_text("utf-8"))
    assert record["given_up"] == [words]
    names = {path.name for path in (tmp_path / "short").iterdir()}
    assert names == {"input.png", "framepack-job.mp4", "framepack-job.json"}
    assert sha256(tmp_path / "short" / end.video) != sha256(tmp_path / "whole" / whole.video)
    # The next job gives nothing up again.
    again, _ = make_it(tmp_path / "again", request, workshop)
    assert isinstance(again, Finished) and again.given_up == ()
    assert sha256(tmp_path / "again" / again.video) == sha256(tmp_path / "whole" / whole.video)


def test_a_job_that_gave_up_goes_on_so_in_another_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = small_request(steps=4)
    workshop = small_workshop(tiny_model)
    workshop.allow_lossy_fallback = True
    short_in(monkeypatch, "transformer", 1, after=6)
    folder = Path(order(tmp_path / "job", request).folder)
    with pytest.raises(OutOfMemoryError):
        list(generate("job", request, folder, workshop))
    give_up(Sacrifice.FP8, request, folder, workshop)
    made = list(generate("job", request, folder, small_workshop(tiny_model)))
    assert made[-1].given_up == ("8-bit weights",)
    assert len([event for event in made[:-1] if event.step]) == 2


@pytest.mark.parametrize(("allowed", "times"), [(False, 1), (True, 9)])
def test_at_last_the_owner_is_told_what_would_fit(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool, times: int
) -> None:
    workshop = small_workshop(tiny_model)
    workshop.allow_lossy_fallback = allowed
    met = short_in(monkeypatch, "transformer", times)
    end, _ = make_it(tmp_path / "job", small_request(resolution=128), workshop)
    assert isinstance(end, Failed) and end.kind is ErrorKind.MEMORY
    assert len(met) == (2 if allowed else 1)
    assert "ran out of memory at transformer" in end.message
    assert end.message.endswith("A resolution of 96 instead of 128 would probably fit.")


def test_work_that_gave_something_up_is_not_taken_for_whole(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request, workshop = small_request(steps=4), small_workshop(tiny_model)
    folder = Path(order(tmp_path / "job", request).folder)
    with closing(generate("job", request, folder, workshop)) as events:
        while not (isinstance(event := next(events), Progress) and event.section == 2):
            pass
    give_up(Sacrifice.FP8, request, folder, workshop)
    (folder / fallback.FILE).unlink()  # as if somebody had mixed two folders
    made = list(generate("job", request, folder, small_workshop(tiny_model)))
    assert len([event for event in made[:-1] if event.step]) == 8
    assert "of another request, model or version: starting anew" in caplog.text
