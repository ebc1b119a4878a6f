"""What a GPU says of itself, of one that is not there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from test_worker import EVENT_S, SERVE, START_S, Child

from generator import devices
from generator.devices import CudaDevice, still_answers
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


class Runtime:
    """CUDA's host functions: they pin `room` bytes, and an error stays until a kernel starts."""

    def __init__(self, room: int):
        self.room, self.asked = room, 0
        self.pinned: dict[int, int] = {}
        self.last_error = 0

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        self.asked += 1
        if sum(self.pinned.values()) + nbytes > self.room:
            self.last_error = 2
            return 2
        self.pinned[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.pinned[address]
        return 0

    def ones(self, *shape: int, **options: Any) -> torch.Tensor:
        """The next kernel raises what was left behind, whoever left it."""
        if self.last_error:
            self.last_error = 0
            raise RuntimeError("CUDA error: out of memory")
        return torch.zeros(*shape)


def test_memory_that_can_not_be_pinned_is_only_slower(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(room=5 << 20)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch, "ones", runtime.ones)
    device = CudaDevice(GPU)
    buffers = [torch.empty(2 << 20, dtype=torch.uint8) for _ in range(5)]
    unpin = [device.pin(buffer) for buffer in buffers]
    assert runtime.last_error == 0, "the job's next kernel would raise it"
    assert runtime.asked == 3, "what failed once is not tried again"
    assert len(caplog.records) == 1
    assert "4 MiB are pinned, and 2 MiB more could not be (CUDA 2)" in caplog.text
    for undo in unpin:
        undo()
    assert not runtime.pinned
    device.pin(buffers[0])
    assert runtime.asked == 3
    CudaDevice(GPU).pin(buffers[0])  # the next load tries again: others may have left
    assert runtime.asked == 4
