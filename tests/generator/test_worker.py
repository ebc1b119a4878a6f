"""The real child process, spoken to over its pipes.

Two children serve all tests, because each takes seconds to start: one as the bot starts it, and one
in which everything prints.
"""

from __future__ import annotations

import io
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from safetensors import SafetensorError
from small_jobs import draw_picture, names_in, serve_settings, sha256, small_request

from generator import worker
from generator.errors import ModelError
from generator.protocol import (
    PROTOCOL_VERSION,
    TERMINAL,
    Broken,
    Cancel,
    Cancelled,
    ErrorKind,
    Failed,
    Finished,
    FromGenerator,
    Generate,
    Progress,
    Ready,
    Stage,
    ToGenerator,
    Unload,
    decode_from_generator,
    encode_line,
)

START_S, EVENT_S, END_S = 90.0, 60.0, 10.0


class Child:
    """A generator that serves; `events` are read by a thread of their own."""

    def __init__(self, command: list[str], log: Path):
        self._log = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.heard: queue.Queue[bytes] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.heard.put(line)

    def say(self, message: ToGenerator | bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(message if isinstance(message, bytes) else encode_line(message))
        self.process.stdin.flush()

    def hear(self, timeout_s: float = EVENT_S) -> FromGenerator:
        return decode_from_generator(self.heard.get(timeout=timeout_s))

    def until_end(self, job_id: str) -> list[Any]:
        """The rest of a job's events, the terminal one last."""
        events: list[Any] = []
        while not events or not isinstance(events[-1], TERMINAL):
            events.append(self.hear())
            assert events[-1].job_id == job_id
        return events

    def start(self, folder: Path, job_id: str = "job", **changes: Any) -> None:
        folder.mkdir(exist_ok=True)
        draw_picture(folder / "input.png")
        request = small_request(**changes)
        self.say(Generate(job_id=job_id, folder=str(folder), request=request))

    def end(self) -> float:
        """Close stdin as a dying parent would; returns the seconds until the process is gone."""
        assert self.process.stdin is not None and self.process.stdout is not None
        began = time.monotonic()
        self.process.stdin.close()
        try:
            self.process.wait(timeout=END_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self._log.close()
        return time.monotonic() - began


SERVE = ["serve", "--device", "cpu", "--model"]


@pytest.fixture(scope="module")
def child(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    log = tmp_path_factory.mktemp("child") / "stderr"
    child = Child(["-m", "generator", *SERVE, str(tiny_model)], log)
    ready = child.hear(START_S)
    assert isinstance(ready, Ready), ready
    yield child
    assert child.end() < END_S
    assert child.process.returncode == 0


def test_it_does_a_job(child: Child, tmp_path: Path) -> None:
    child.start(tmp_path / "job", latent_window_size=3, seconds=0.6, steps=10)
    previews, events = [], []
    while not events or not isinstance(events[-1], TERMINAL):
        events.append(child.hear())
        if isinstance(events[-1], Progress) and events[-1].preview:
            previews.append((tmp_path / "job" / events[-1].preview).read_bytes())
    *progress, finished = events
    assert isinstance(finished, Finished), finished
    assert list(dict.fromkeys(event.stage for event in progress)) == [
        *(Stage.TEXT, Stage.IMAGE, Stage.LOADING, Stage.SAMPLING, Stage.DECODING, Stage.ENCODING)
    ]
    steps = [(event.section, event.step) for event in progress if event.step]
    assert steps == [(section, step) for section in (1, 2) for step in range(1, 11)]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions)
    assert names_in(tmp_path / "job") == {"input.png", "framepack-job.mp4", "framepack-job.json"}
    assert previews
    for preview in previews:
        with Image.open(io.BytesIO(preview)) as image:
            assert (image.format, image.n_frames) == ("WEBP", 3)


def test_cancel_takes_less_than_a_step_and_leaves_nothing(child: Child, tmp_path: Path) -> None:
    child.start(tmp_path / "job", steps=100)
    while child.hear().step == 0:  # type: ignore[union-attr]
        pass
    child.say(Cancel(job_id="job"))
    *progress, end = child.until_end("job")
    assert end == Cancelled(job_id="job")
    assert len(progress) < 20  # steps of 20 ms; what was on its way before the cancel was read
    assert names_in(tmp_path / "job") == {"input.png"}


def test_a_job_after_a_cancelled_one_gives_the_same_bytes(child: Child, tmp_path: Path) -> None:
    child.start(tmp_path / "before")
    assert isinstance(child.until_end("job")[-1], Finished)
    child.start(tmp_path / "cancelled", steps=100, step_cache="teacache", seed=5)
    while child.hear().step < 3:  # type: ignore[union-attr]
        pass
    child.say(Cancel(job_id="job"))
    assert isinstance(child.until_end("job")[-1], Cancelled)
    child.start(tmp_path / "after")
    assert isinstance(child.until_end("job")[-1], Finished)
    videos = [tmp_path / name / "framepack-job.mp4" for name in ("before", "after")]
    assert sha256(videos[0]) == sha256(videos[1])


def test_jobs_are_done_in_order_and_a_waiting_one_can_be_cancelled(
    child: Child, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        child.start(tmp_path / name, job_id=name)
    child.say(Cancel(job_id="b"))
    assert isinstance(child.until_end("a")[-1], Finished)
    *progress, end = child.until_end("b")
    assert end == Cancelled(job_id="b")
    assert all(event.step == 0 for event in progress)
    assert isinstance(child.until_end("c")[-1], Finished)
    assert names_in(tmp_path / "b") == {"input.png"}


def test_cancelling_what_is_not_there_is_harmless(child: Child, tmp_path: Path) -> None:
    child.say(Cancel(job_id="job"))  # before there is such a job: it means an earlier one
    child.start(tmp_path / "job")
    assert isinstance(child.until_end("job")[-1], Finished)


@pytest.mark.parametrize(
    "garbage", [b"\n", b"{]\n", b'{"type":"dance"}\n', b"\xff\xfe\x00\n", b"x" * 300_000 + b"\n"]
)
def test_garbage_is_survived(child: Child, tmp_path: Path, garbage: bytes) -> None:
    child.say(garbage)
    child.start(tmp_path / "job", steps=1, seconds=0.1)
    assert isinstance(child.until_end("job")[-1], Finished)


def test_a_failed_job_is_told_and_the_next_one_done(child: Child, tmp_path: Path) -> None:
    child.start(tmp_path / "job", image="no such picture.png")
    (failed,) = child.until_end("job")
    assert isinstance(failed, Failed)
    assert failed.kind is ErrorKind.INPUT
    assert "There is no picture no such picture.png" in failed.message
    request = small_request()
    child.say(Generate(job_id="job", folder=str(tmp_path / "nowhere"), request=request))
    assert isinstance(child.until_end("job")[-1], Failed)
    child.start(tmp_path / "job", steps=1, seconds=0.1)
    assert isinstance(child.until_end("job")[-1], Finished)


NOISY = """
import os, subprocess, sys
import generator.video
from generator.__main__ import main

quantise = generator.video.quantise
reading = [sys.executable, "-c", "import sys; print('a child read', sys.stdin.buffer.read())"]

def noisy(pixels):
    if reading:
        subprocess.run(reading, stdout=sys.stderr, check=True, timeout=20)
        reading.clear()
    print("a library prints", flush=True)
    os.write(1, b"and writes to file descriptor 1\\n")
    return quantise(pixels)

generator.video.quantise = noisy
sys.exit(main(sys.argv[1:]))
"""


def test_the_pipes_are_its_own_and_a_closed_stdin_ends_it_in_the_middle(
    tiny_model: Path, tmp_path: Path
) -> None:
    child = Child(["-c", NOISY, *SERVE, str(tiny_model)], tmp_path / "stderr")
    try:
        ready = child.hear(START_S)
        assert isinstance(ready, Ready)
        assert (ready.protocol_version, ready.device, ready.dtype) == (
            *(PROTOCOL_VERSION, "cpu", "float32"),
        )
        assert ready.versions["torch"]
        child.start(tmp_path / "first", steps=1)
        assert isinstance(child.until_end("job")[-1], Finished)  # each line was a message
        child.start(tmp_path / "second", steps=1, seconds=4)
        while child.hear().stage is not Stage.DECODING:  # type: ignore[union-attr]
            pass
        own = psutil.Process(child.process.pid)
        while not (children := own.children()):
            time.sleep(0.01)
    finally:
        took_s = child.end()
    assert took_s < 5
    psutil.wait_procs(children, timeout=5)
    assert not [process for process in children if process.is_running()]
    text = (tmp_path / "stderr").read_text("utf-8")
    assert "a child read b''" in text  # at once: the pipe with the jobs was open all the time
    assert "a library prints" in text
    assert "and writes to file descriptor 1" in text


# ---- what can not start


def serve_in_this_process(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Broken:
    """The first and only line of a child that can not take jobs."""
    pipe = io.BytesIO()
    monkeypatch.setattr(worker.Line, "guarding_stdout", lambda: worker.Line(pipe))
    monkeypatch.setattr(worker, "guarding_stdin", io.BytesIO)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert worker.serve(serve_settings(**settings)) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    (line,) = pipe.getvalue().splitlines()
    broken = decode_from_generator(line)
    assert isinstance(broken, Broken)
    return broken


def test_a_missing_part_is_named(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    shutil.rmtree(folder / "image_encoder")
    broken = serve_in_this_process(monkeypatch, model=str(folder))
    assert broken.kind is ErrorKind.MODEL
    assert "the sub-folder image_encoder/ is missing" in broken.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "warp"}, "device is 'warp'; it must be auto, cpu, cuda or cuda:N"),
        ({"dtype": "float8"}, "dtype is 'float8'; it must be auto or one of"),
        ({"model": "no-such-model"}, "no model of that name"),
    ],
)
def test_a_setting_that_can_not_be_is_said(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], words: str
) -> None:
    broken = serve_in_this_process(monkeypatch, **{"model": str(tiny_model), **settings})
    assert words in broken.message


def test_a_gpu_that_is_not_there_is_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    broken = serve_in_this_process(monkeypatch, model=str(tiny_model), device="cuda")
    assert "sees no NVIDIA GPU" in broken.message


def test_missing_packages_are_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "generator.workshop", raising=False)
    monkeypatch.setitem(sys.modules, "generator.conditions", None)
    broken = serve_in_this_process(monkeypatch, model=str(tiny_model))
    assert 'pip install "framepack-bot[generator]"' in broken.message


# ---- how an exception is told


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ModelError("The model is broken."), ErrorKind.MODEL, "The model is broken."),
        (OSError(28, "No space left on device"), ErrorKind.DISK, "disk of the bot's machine"),
        (MemoryError(), ErrorKind.MEMORY, "ran out of memory"),
        (RuntimeError("CUDA error: out of memory"), ErrorKind.MEMORY, "ran out of memory"),
        (ZeroDivisionError("x"), ErrorKind.INTERNAL, "ZeroDivisionError); the log says why"),
        (SafetensorError("x"), ErrorKind.INTERNAL, "SafetensorError"),
    ],
)
def test_an_exception_becomes_one_sentence(error: Exception, kind: ErrorKind, words: str) -> None:
    failed = worker.failure("j1", error)
    assert (failed.job_id, failed.kind) == ("j1", kind)
    assert words in failed.message
    assert "\n" not in json.loads(encode_line(failed))["message"]


# ---- memory that is given back


def wait_for(log: Path, words: str, count: int = 1) -> None:
    deadline = time.monotonic() + EVENT_S
    while log.read_text("utf-8").count(words) < count:
        assert time.monotonic() < deadline, log.read_text("utf-8")
        time.sleep(0.02)


@pytest.mark.slow
def test_memory_is_given_back_when_asked_and_after_a_while_without_work(
    tiny_model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "stderr"
    child = Child(["-m", "generator", *SERVE, str(tiny_model), "--idle-unload-s", "2"], log)
    try:
        assert isinstance(child.hear(START_S), Ready)
        child.say(Unload())  # there is nothing yet
        child.start(tmp_path / "a")
        child.say(Unload())  # it waits until the job is done
        assert isinstance(child.until_end("job")[-1], Finished)
        wait_for(log, "Given back: 0.00 GiB VRAM, 0.00 GiB RAM", 1)
        child.start(tmp_path / "b")
        assert isinstance(child.until_end("job")[-1], Finished)
        wait_for(log, "Given back", 2)  # nobody asked
        child.start(tmp_path / "c")
        assert isinstance(child.until_end("job")[-1], Finished)
    finally:
        child.end()
    videos = {sha256(tmp_path / name / "framepack-job.mp4") for name in "abc"}
    assert len(videos) == 1
