"""What a GPU says of itself, of one that is not there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from test_worker import EVENT_S, SERVE, START_S, Child

from generator import devices
from generator.devices import still_answers
from generator.protocol import Failed, Progress, Ready

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


def test_a_gpu_whose_context_is_lost_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand so on")

    monkeypatch.setattr(devices.torch.cuda, "synchronize", lost)
    assert still_answers(CPU)
    with caplog.at_level(logging.ERROR):
        assert not still_answers(GPU)
    assert "cuda:0 does not answer any more: CUDA error: an illegal memory access" in caplog.text
    monkeypatch.setattr(devices.torch.cuda, "synchronize", lambda _: None)
    assert still_answers(GPU)


LOST_GPU = """
import sys
import generator.devices, generator.video
from generator.__main__ import main

def quantise(pixels):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

generator.video.quantise = quantise
generator.devices.still_answers = lambda device: False
sys.exit(main(sys.argv[1:]))
"""


def test_a_gpu_that_answers_no_more_ends_the_process_instead_of_every_later_job(
    tiny_model: Path, tmp_path: Path
) -> None:
    child = Child(["-c", LOST_GPU, *SERVE, str(tiny_model)], tmp_path / "stderr")
    try:
        assert isinstance(child.hear(START_S), Ready)
        child.start(tmp_path / "wrong", image="no such picture.png")
        assert isinstance(child.until_end("job")[-1], Failed)  # nobody asks the GPU about that
        child.start(tmp_path / "job", steps=1)
        assert child.process.wait(timeout=EVENT_S) == 1
        child.reader.join()
        events = [child.hear() for _ in range(child.heard.qsize())]
        assert events and all(isinstance(event, Progress) for event in events)
    finally:
        child.end()
    assert "an illegal memory access" in (tmp_path / "stderr").read_text("utf-8")
