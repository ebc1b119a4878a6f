"""How long a job waits before its first step, and what is loaded when: the CPU, a small model.

    python benchmarks/second_job.py            a table; some seconds

The first job of a process loads every part. A second one of the same kind finds the transformer in
its place and its picture and prompt encoded: what is left is overhead. Counted is the time from the
order to the transformer's first call, without what encoders compute. The list below the table
says at which stage each part was loaded: nothing is, before it is needed.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from middling import about_this_machine, arguments, draw_picture, table

from generator.__main__ import _parser
from generator.models import open_model
from generator.pipeline import generate
from generator.protocol import Stage, job_request
from generator.workshop import open_workshop

KINDS = ("first in the process", "same prompt and picture", "another prompt")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    print(about_this_machine())
    with tempfile.TemporaryDirectory() as scratch:
        rows, loaded = measure(Path(scratch), options.model, options.repeats)
    print(table(["job", "jobs", "ms to the first step, median", "CPU ms", "longest ms"], rows))
    print("\nLoaded in the first job: " + ", ".join(f"{part} at {at}" for part, at in loaded))


def measure(scratch: Path, model: str, repeats: int) -> tuple[list[list[object]], list[Any]]:
    """The table's rows, and (part, stage) in the order of loading in the first job."""
    words = ["serve", "--model", str(open_model(model).path), "--device", "cpu"]
    workshop = open_workshop(_parser().parse_args([*words, "--cache-dir", str(scratch / "cache")]))
    listener = Loads()
    logging.getLogger("generator.placement").setLevel(logging.INFO)
    logging.getLogger("generator.placement").addHandler(listener)
    rows: list[list[object]] = []
    for kind in KINDS:
        taken = []
        for number in range(1 if kind == KINDS[0] else repeats):
            prompt = f"a cat walks {number}" if kind == KINDS[2] else "a cat walks"
            listener.is_on = kind == KINDS[0]
            folder = scratch / f"{len(rows)}-{number}"
            folder.mkdir()
            taken.append(until_first_step(workshop, folder, prompt, listener))
        walls, cpus = zip(*taken, strict=True)
        shown = [statistics.median(walls), statistics.median(cpus), max(walls)]
        rows.append([kind, len(taken), *(f"{1000 * seconds:.0f}" for seconds in shown)])
    return rows, listener.loads


def until_first_step(
    workshop: Any, folder: Path, prompt: str, listener: Loads
) -> tuple[float, float]:
    """Seconds, and CPU seconds of this thread, from the order until sampling begins."""
    draw_picture(folder / "input.png", 64)
    request = job_request(
        prompt=prompt,
        seed=1,
        seconds=0.1,
        steps=1,
        resolution=64,
        latent_window_size=1,
    )
    began, cpu = time.perf_counter(), time.thread_time()
    with closing(generate("job", request, folder, workshop)) as events:
        for event in events:
            listener.stage = str(event.stage)  # type: ignore[union-attr]
            if event.stage is Stage.SAMPLING:  # type: ignore[union-attr]
                return time.perf_counter() - began, time.thread_time() - cpu
    raise AssertionError("no step was made")


class Loads(logging.Handler):
    """Notes which part is loaded in which stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.is_on = "start", False
        self.loads: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_on and record.msg.startswith("Loading"):
            self.loads.append((str(record.args[0]), self.stage))  # type: ignore[index]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
