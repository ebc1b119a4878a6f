"""The bot as a process of its own whose event loop is watched; `benchmarks/front_end.py` runs it.

    python benchmarks/front_end_bot.py CONFIG REPORT WORD ...

It is `framepack-bot run` with two differences: the generator is `busy_generator.py` with these
words, and each callback of the event loop is timed by its thread's CPU time. At the end the slowest
are in the JSON file REPORT.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from bot.app import run_until_signal
from bot.config import load_config, read_token

GENERATOR = Path(__file__).resolve().parent / "busy_generator.py"
KEPT = 12
WORTH_A_NAME_S = 0.005


class Watch:
    """What the callbacks of every loop of this process cost."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.collecting_s = 0.0
        self.worst: list[tuple[float, str]] = []

    def install(self) -> None:
        """Time each callback from now on. asyncio runs all of them through `Handle._run`."""
        run = asyncio.events.Handle._run
        began = [0.0]

        def collected(phase: str, info: dict[str, int]) -> None:
            if phase == "start":
                began[0] = time.thread_time()
            else:
                self.collecting_s += time.thread_time() - began[0]

        def timed(handle: asyncio.Handle) -> None:
            callback = handle._callback  # type: ignore[attr-defined]  # cleared when it is cancelled
            self.collecting_s, began_s = 0.0, time.thread_time()
            run(handle)  # type: ignore[arg-type]
            self.note(time.thread_time() - began_s, callback)

        gc.callbacks.append(collected)

        asyncio.events.Handle._run = timed  # type: ignore[method-assign, assignment]

    def note(self, spent_s: float, callback: Any) -> None:
        """Keep it if it is among the slowest."""
        self.count += 1
        self.total_s += spent_s
        if spent_s >= WORTH_A_NAME_S:
            what = f"{named(callback)} ({1000 * self.collecting_s:.0f} ms of it collecting garbage)"
            self.worst = sorted([*self.worst, (spent_s, what)], reverse=True)[:KEPT]

    def save(self, path: Path) -> None:
        """Write what was found."""
        worst = [{"ms": 1000 * spent_s, "what": what} for spent_s, what in self.worst]
        found = {"callbacks": self.count, "cpu_s": self.total_s, "worst": worst}
        path.write_text(json.dumps(found), encoding="utf-8")


def named(callback: Any) -> str:
    """What a callback was: of a task the coroutines that it waits in by now, outermost first."""
    owner = getattr(callback, "__self__", None)
    if not isinstance(owner, asyncio.Task):
        return str(getattr(callback, "__qualname__", callback))
    names, inner = [], owner.get_coro()
    while inner is not None and len(names) < 12:
        names.append(getattr(inner, "__qualname__", type(inner).__name__))
        inner = getattr(inner, "cr_await", None)
    return " > ".join(names)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for name in ("discord", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    watch = Watch()
    watch.install()
    config_file, report, *words = sys.argv[1:]
    config = load_config(Path(config_file), os.environ)
    command = [sys.executable, str(GENERATOR), *words]
    run_until_signal(config, read_token(os.environ), command=command)
    watch.save(Path(report))
