"""How quickly and how lightly the bot answers while the machine is busy: a table of figures.

    python benchmarks/front_end.py [--burst 200] [--rate 20] [--jobs 1000] [--keep FOLDER]

The real bot runs as a process of its own (`front_end_bot.py`) against the playground's Discord over
sockets on 127.0.0.1; its generator is a stand-in that works at one endless job and keeps every core
busy from beginning to end (`busy_generator.py`). The playground and this script share the machine
with both, so Discord's own work is in the figures too. Rate limits of Discord are off: they concern
messages in a channel, never the answers that are timed here.

Every `/animate` is from another person and carries a JPEG of 960 × 640 that the bot downloads,
checks and re-encodes. Exit status 1 when a figure is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import psutil  # noqa: E402
from edit_log import read_edits  # noqa: E402

from bot.playground import Interaction, Playground, Upload  # noqa: E402
from bot.playground.child import write_config  # noqa: E402
from storage.jobs import Job, JobState, read_jobs  # noqa: E402

BOT = ROOT / "benchmarks" / "front_end_bot.py"
PICTURE = ROOT / "examples" / "lake.jpg"
MIB = 1 << 20

ANSWER_S, P99_S, CALLBACK_MS, RSS_MIB, READY_S = 1.5, 0.25, 50.0, 120.0, 2.0
SETTLE_WITHIN_S = 600.0
SLOW_DISCORD_S = 0.2
"""What each edit takes on the playground, so that two could be in flight at once."""
TORCH_S = 5.0
"""How long the stand-in takes until it is ready, as a generator does that imports torch."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    what: str
    wanted: str
    found: str
    good: bool

    @classmethod
    def at_most(cls, what: str, found: float, limit: float, unit: str, note: str = "") -> Figure:
        """A figure that must not be larger than `limit`."""
        shown = f"{found:.{0 if limit >= 50 else 2}f} {unit}{note}"
        return cls(what=what, wanted=f"≤ {limit:g} {unit}", found=shown, good=found <= limit)

    @classmethod
    def exactly(cls, what: str, found: int, wanted: int, note: str = "") -> Figure:
        """A count that must be this one."""
        good = found == wanted
        return cls(what=what, wanted=f"{wanted}", found=f"{found}{note}", good=good)


class Stage:
    """The playground, the data folder, and the bot that runs on them."""

    def __init__(self, playground: Playground, folder: Path, people: int) -> None:
        self.playground, self.folder = playground, folder
        self.picture = Upload(filename="lake.jpg", data=PICTURE.read_bytes())
        self.sent: list[Interaction] = []
        world = playground.world
        self.people = [world.add_user(f"person{n}") for n in range(people)]
        for person in self.people:
            world.join(person)

    @asynccontextmanager
    async def bot(self, report: str, **limits: Any) -> AsyncIterator[tuple[psutil.Process, float]]:
        """The bot, ready; also how many seconds that took from the start of its process."""
        discord, config = self.playground, self.folder / "config.toml"
        addresses = {"api_url": discord.api_url, "gateway_url": discord.gateway_url}
        data = {"data_dir": str(self.folder / "data")}
        write_config(config, {"discord": addresses, "storage": data, "limits": limits})
        words = ["--start-s", f"{TORCH_S:g}", "--steps", "100000", "--step-s", "0.5"]
        command = [sys.executable, str(BOT), str(config), str(self.folder / report), *words]
        environ = os.environ | {"DISCORD_TOKEN": discord.token, "PYTHONPATH": str(ROOT)}
        began_s = time.perf_counter()
        with (self.folder / "bot.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, env=environ, stdout=log, stderr=log
            )
        try:
            await discord.bot_ready("animate", timeout_s=60)
            yield psutil.Process(process.pid), time.perf_counter() - began_s
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
            await asyncio.wait_for(process.wait(), 30)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def animate(self, count: int, every_s: float = 0.0) -> list[Interaction]:
        """So many `/animate` of as many people, one in so many seconds; waits for the answers."""
        loop, sent = asyncio.get_running_loop(), []
        began_s = loop.time()
        for number in range(count):
            if every_s:
                await asyncio.sleep(began_s + number * every_s - loop.time())
            person = self.people[len(self.sent)]
            options = {"prompt": "the boat rocks on the waves"}
            asked = await self.playground.slash(
                person, self.playground.pictures, "animate", options, {"image": self.picture}
            )
            sent.append(asked)
            self.sent.append(asked)
        await until(lambda: all(asked.answer is not None or asked.has_failed for asked in sent))
        return sent

    def jobs(self) -> list[Job]:
        """The rows, read beside the bot."""
        return read_jobs(self.folder / "data" / "bot.sqlite3")

    def syncs(self, since: int) -> int:
        """How often commands were registered since this number of calls."""
        calls = self.playground.calls[since:]
        return sum(call.method == "PUT" and call.route.endswith("/commands") for call in calls)


async def until(look: Callable[[], object], timeout_s: float = SETTLE_WITHIN_S) -> None:
    """Ask again and again, rarely enough not to disturb."""
    async with asyncio.timeout(timeout_s):
        while not look():  # noqa: ASYNC110  # the other process can not tell
            await asyncio.sleep(0.25)


def answers(sent: Sequence[Interaction]) -> tuple[list[float], int]:
    """Seconds to the first answer, sorted, and how many got none in time."""
    times = sorted(asked.response_time_s for asked in sent if asked.response_time_s is not None)
    return times, len(sent) - len(times)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of them is not above."""
    return values[max(0, -int(-len(values) * part // 1) - 1)]


async def measure(stage: Stage, burst: int, rate: float, jobs: int) -> list[Figure]:
    """The whole story: an empty folder, a crowd, a queue, a restart with that queue."""
    discord = stage.playground
    pattern = "PATCH /channels/*/messages/*"
    discord.faults.inject(pattern, latency_s=SLOW_DISCORD_S, times=None)
    async with stage.bot("first.json") as (process, ready_s):
        figures = [Figure.at_most("ready, empty data folder", ready_s, READY_S, "s")]
        figures.append(Figure.exactly("commands synced at the first start", stage.syncs(0), 1))
        started = time.perf_counter()
        await until(lambda: "generator ready" in (stage.folder / "bot.log").read_text())
        await stage.animate(1)
        await until(lambda: [job.state for job in stage.jobs()] == [JobState.RUNNING])
        print(f"the stand-in works after {time.perf_counter() - started:.0f} s", flush=True)
        figures += crowd(await stage.animate(burst), burst)
        print(f"{burst} answered; the rest of {jobs} at {rate:g} a second", flush=True)
        calm = await stage.animate(jobs - burst, 1 / rate)
        figures += steady(calm, rate)
        began_s = time.perf_counter()
        await until(lambda: len(stage.jobs()) == jobs + 1)
        await until(lambda: all(job.status_message_id for job in stage.jobs()))
        settled = f" (all have a row and a status message {time.perf_counter() - began_s:.0f} s on)"
        figures.append(Figure.exactly("jobs lost", jobs + 1 - len(stage.jobs()), 0, settled))
        await asyncio.sleep(10)
        figures += memory(process, f"with {jobs:,} jobs waiting")
    figures += callbacks(stage.folder / "first.json", "")
    figures += edits(discord)
    figures += await restart(stage, jobs)
    return figures


async def restart(stage: Stage, jobs: int) -> list[Figure]:
    """The bot once more on the same folder, then with another command payload."""
    seen = len(stage.playground.calls)
    async with stage.bot("second.json") as (process, ready_s):
        figures = [Figure.at_most(f"ready, {jobs:,} jobs waiting", ready_s, READY_S, "s")]
        await asyncio.sleep(20)
        figures += memory(process, "after that start")
    figures += callbacks(stage.folder / "second.json", ", after that start")
    figures.append(Figure.exactly("commands synced at that start", stage.syncs(seen), 0))
    seen = len(stage.playground.calls)
    async with stage.bot("third.json", max_seconds=7.0):
        await asyncio.sleep(1)
    figures.append(Figure.exactly("commands synced after a limit changed", stage.syncs(seen), 1))
    return figures


def crowd(sent: Sequence[Interaction], burst: int) -> list[Figure]:
    """The figures of everybody at once."""
    times, unanswered = answers(sent)
    note = f" (median {times[len(times) // 2]:.2f} s)"
    return [
        Figure.at_most(
            f"{burst} /animate at once: the slowest answer", times[-1], ANSWER_S, "s", note
        ),
        Figure.exactly(f"{burst} /animate at once: not answered", unanswered, 0),
    ]


def steady(sent: Sequence[Interaction], rate: float) -> list[Figure]:
    """The figures of a long busy evening."""
    times, unanswered = answers(sent)
    p99 = percentile(times, 0.99)
    note = f" (median {1000 * times[len(times) // 2]:.0f} ms, slowest {1000 * times[-1]:.0f} ms)"
    name = f"{rate:g} /animate a second, {len(sent)} of them"
    return [
        Figure.at_most(f"{name}: p99", 1000 * p99, 1000 * P99_S, "ms", note),
        Figure.exactly(f"{name}: not answered", unanswered, 0),
    ]


def memory(process: psutil.Process, when: str) -> list[Figure]:
    """What the bot's own process holds, without the picture process and the generator."""
    rss = process.memory_info().rss / MIB
    children = ", ".join(
        f"{child.memory_info().rss / MIB:.0f}" for child in process.children(recursive=True)
    )
    note = f" (its children: {children} MiB)"
    return [Figure.at_most(f"RSS of the bot {when}", rss, RSS_MIB, "MiB", note)]


def callbacks(report: Path, when: str) -> list[Figure]:
    """The loop's slowest callback by its own thread's CPU time."""
    found = json.loads(report.read_text(encoding="utf-8"))
    for entry in found["worst"]:
        print(f"{entry['ms']:7.1f} ms  {entry['what']}")
    worst = found["worst"][0] if found["worst"] else {"ms": 0.0, "what": "none above 5 ms"}
    note = f" of {found['callbacks']:,}: `{worst['what']}`"
    return [Figure.at_most(f"slowest callback{when}", worst["ms"], CALLBACK_MS, "ms", note)]


def edits(discord: Playground) -> list[Figure]:
    """What the playground's log says about edits of messages."""
    found = read_edits(discord.calls)
    of = f" (of {found.count})"
    return [
        Figure.exactly(
            "edits while one of the same message was in flight", found.overlapping, 0, of
        ),
        Figure.exactly("edits that changed nothing", found.idle, 0, of),
    ]


def show(figures: Sequence[Figure]) -> None:
    """The table in Markdown."""
    cores = os.cpu_count()
    print(
        f"\n{platform.machine()}, {cores} cores, Python {platform.python_version()}, load ", end=""
    )
    print(", ".join(f"{load:.1f}" for load in psutil.getloadavg()))
    print("\n| what | wanted | measured | |\n| --- | --- | --- | --- |")
    for figure in figures:
        print(
            f"| {figure.what} | {figure.wanted} | {figure.found} | {'✓' if figure.good else '✗'} |"
        )


async def run(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Set the stage and measure."""
    async with Playground() as playground:
        stage = Stage(playground, folder, arguments.jobs + 1)
        return await measure(stage, arguments.burst, arguments.rate, arguments.jobs)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--burst", type=int, default=200, help="how many ask at once")
    parser.add_argument("--rate", type=float, default=20, help="how many a second ask after that")
    parser.add_argument("--jobs", type=int, default=1000, help="how many wait in the end")
    parser.add_argument("--keep", type=Path, help="a new folder for the log and the reports")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="framepack-front-end-") as name:
        figures = asyncio.run(run(arguments, Path(name)))
        if arguments.keep:
            shutil.copytree(name, arguments.keep)
    show(figures)
    return 0 if all(figure.good for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
