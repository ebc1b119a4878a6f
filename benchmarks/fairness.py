"""A day of a busy server in a minute: turns and fair shares beside first come, first served.

    python benchmarks/fairness.py [--hours H] [--seed N]

Runs the product's own dispatcher and store on a clock that jumps; only the GPU, Discord and the
people are made up. Eight people always have jobs of 60 to 120 s waiting; 192 others come now and
then, some in bursts, with 2 to 20 s and sometimes more. The GPU's speed and what a change of jobs
and of models costs are inputs. Below the table each promise stands beside what came of it; if one
is broken, the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bot")]

import virtual_time  # noqa: E402

from bot.dispatcher import Dispatcher  # noqa: E402
from bot.turns import TurnsConfig  # noqa: E402
from generator.protocol import (  # noqa: E402
    Event,
    Finished,
    Generate,
    Progress,
    Stage,
    Suspended,
    Variant,
    job_request,
)
from storage.jobs import Job, JobState, NewJob, new_job_id  # noqa: E402

GREEDY, CASUAL = 8, 192
SHORT_S = 5.0
"""A video of at most this length counts as short."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of the GPU, by default those of a fast card; FramePack's weights are 24 GiB."""

    second_of_video_s: float = 10.0
    decoding_s: float = 0.5
    section_s: float = 1.2
    steps: int = 5
    change_of_job_s: float = 2.0
    change_of_variant_s: float = 24 / 3.0


class Gpu:
    """A backend in virtual time: `lost_s` went into changes, `worked_s` by user into work."""

    def __init__(self, costs: Costs, users: dict[str, int]) -> None:
        self._costs, self._users = costs, users
        self._made: dict[str, int] = {}
        self._suspended: set[str] = set()
        self._last: tuple[str, Variant] | None = None
        self.lost_s = 0.0
        self.worked_s: dict[int, float] = {}

    async def run(self, order: Generate) -> AsyncGenerator[Event, None]:
        """Sections of steps, from where the job was; then the frames, which nothing interrupts."""
        costs, name = self._costs, order.job_id
        await self._change(order)
        per_section = costs.steps
        total = max(1, round(order.request.seconds / costs.section_s)) * per_section
        step_s = costs.second_of_video_s * order.request.seconds / total
        for made in range(self._made.get(name, 0), total):
            await self._work(name, step_s)
            self._made[name] = made + 1
            yield Progress(
                job_id=name,
                stage=Stage.SAMPLING,
                section=1 + made // per_section,
                step=1 + made % per_section,
                fraction=(made + 1) / total,
            )
            if name in self._suspended:
                self._suspended.discard(name)
                yield Suspended(job_id=name)
                return
        await self._work(name, costs.decoding_s * order.request.seconds)
        yield Finished(
            job_id=name,
            video="input.png",
            frames=1,
            width=1,
            height=1,
            fps=30,
            size_bytes=1,
            elapsed_s=1,
            stage_s={},
            sections_made=1,
            sections=1,
        )

    async def finish(self, job_id: str) -> None:
        raise AssertionError("nobody asks for it here")

    async def suspend(self, job_id: str) -> None:
        self._suspended.add(job_id)

    async def cancel(self, job_id: str) -> None:
        raise AssertionError("nobody cancels")

    async def _change(self, order: Generate) -> None:
        now = (order.job_id, order.request.variant)
        lost_s = 0.0
        if self._last is not None and self._last != now:
            lost_s += self._costs.change_of_job_s
            if self._last[1] is not now[1]:
                lost_s += self._costs.change_of_variant_s
        self._last = now
        self.lost_s += lost_s
        await asyncio.sleep(lost_s)

    async def _work(self, job_id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        user = self._users[job_id]
        self.worked_s[user] = self.worked_s.get(user, 0.0) + seconds


class FirstCome(virtual_time.PatientStore):
    """The same store, in which nothing that was served counts: age alone decides."""

    async def charge(self, job_id: str, worked_s: float) -> None:
        pass


class Nobody:
    """Instead of publisher, delivery and notices: nobody reads."""

    def show(self, job: Job, **news: object) -> None: ...

    def wake(self) -> None: ...


@dataclass
class Day:
    """What came of a day."""

    jain: float = 0.0
    lost: float = 0.0
    jobs: int = 0
    busy: float = 0.0
    broken: int = 0
    """Short jobs that were promised to wait no longer than a turn and their own length, and did."""
    waits: list[tuple[float, bool, bool]] = field(default_factory=list)
    """Of each short job: seconds, whether within a turn and its own length, whether promised."""


class Server:
    """The people, and what they met."""

    def __init__(self, store: virtual_time.PatientStore, folder: Path, turns: TurnsConfig) -> None:
        self.store, self.folder = store, folder
        self.users: dict[str, int] = {}
        self.costs = Costs()
        self.gpu = Gpu(self.costs, self.users)
        nobody: Any = Nobody()
        gpu: Any = self.gpu
        self.dispatcher = Dispatcher(store, gpu, nobody, nobody, nobody, folder, turns=turns)
        self._interactions = 0

    async def ask(self, user: int, seconds: float, variant: Variant) -> str:
        """One job of this user."""
        self._interactions += 1
        new = NewJob(
            id=new_job_id(),
            interaction_id=self._interactions,
            guild_id=1,
            channel_id=1,
            user_id=user,
            request=job_request(prompt="x", seed=1, seconds=round(seconds, 1), variant=variant),
        )
        (self.folder / new.id).mkdir()
        (self.folder / new.id / "input.png").touch()
        self.users[new.id] = user
        await self.store.enqueue(new)
        self.dispatcher.wake()
        return new.id


async def greedy(server: Server, user: int, seed: int) -> None:
    """Always has two jobs waiting or running."""
    draw = random.Random(seed)
    while True:
        while len(await server.store.unfinished_of(user)) < 2:
            await server.ask(user, draw.uniform(60, 120), draw.choice(list(Variant)))
        await asyncio.sleep(60)


async def casual(server: Server, plan: list[tuple[float, int, float, Variant]]) -> None:
    """The others' jobs, each at its time."""
    for at_s, user, seconds, variant in plan:
        await asyncio.sleep(max(0.0, at_s - virtual_time.now_s()))
        await server.ask(user, seconds, variant)


def plan_of(hours: float, seed: int) -> list[tuple[float, int, float, Variant]]:
    """Who asks when for what: single jobs over the day, and every two hours a burst of eight."""
    draw, end_s = random.Random(seed), hours * 3600
    times = [draw.uniform(0, end_s) for _ in range(int(CASUAL * hours / 24))]
    for burst in range(int(hours / 2)):
        at_s = (burst + draw.random()) * 7200
        times += [at_s + draw.uniform(0, 60) for _ in range(8)]
    plan = []
    for at_s in sorted(times):
        long = draw.random() < 0.1
        seconds = draw.uniform(20, 120) if long else draw.choice([2, 3, 5, 5, 8, 10, 20])
        user = GREEDY + draw.randrange(CASUAL)
        plan.append((at_s, user, float(seconds), draw.choice(list(Variant))))
    return plan


async def simulate(
    kind: type[virtual_time.PatientStore], turns: TurnsConfig, hours: float, seed: int, day: Day
) -> None:
    """One day; its figures go into `day`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with virtual_time.real_time():
            store = await kind.open(folder / "bot.sqlite3", clock=virtual_time.now)
            no_power_cut = "PRAGMA synchronous = OFF"
            await store._connections.promises.execute(no_power_cut)
        server = Server(store, folder, turns)
        work: list[Any] = [server.dispatcher.run(), casual(server, plan_of(hours, seed))]
        work += [greedy(server, user, user) for user in range(GREEDY)]
        tasks = [asyncio.ensure_future(each) for each in work]
        await asyncio.sleep(hours * 3600)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [e for e in results if isinstance(e, Exception)]
        if errors:
            raise errors[0]
        note(server, await store.recent(100_000), hours, day)
        with virtual_time.real_time():
            await store.close()


def note(server: Server, jobs: list[Job], hours: float, day: Day) -> None:
    """The figures of a day."""
    gpu = server.gpu
    served = [gpu.worked_s.get(user, 0.0) for user in range(GREEDY)]
    day.jain = sum(served) ** 2 / (GREEDY * sum(x * x for x in served))
    day.lost = gpu.lost_s / (hours * 3600)
    day.busy = sum(gpu.worked_s.values()) / (hours * 3600)
    finished = [job for job in jobs if job.state is JobState.FINISHED]
    day.jobs = len(finished)
    begun = [job for job in jobs if job.started_at is not None and _work_s(server, job) <= TURN_S]
    for job in finished:
        if job.request.seconds > SHORT_S:
            continue
        assert job.ended_at is not None and job.started_at is not None
        wait_s = (job.ended_at - job.created_at).total_seconds() - _work_s(server, job)
        met = [o for o in begun if job.created_at - TURN < o.started_at <= job.started_at]
        is_promised = sum(_work_s(server, other) for other in met) <= TURN_S
        within = wait_s <= TURN_S + _work_s(server, job)
        day.waits.append((wait_s, within, is_promised))
        day.broken += is_promised and not within


TURN_S = 60 * TurnsConfig().minutes
TURN = timedelta(seconds=TURN_S)


def _work_s(server: Server, job: Job) -> float:
    costs = server.costs
    return (costs.second_of_video_s + costs.decoding_s) * job.request.seconds


def row(name: str, day: Day) -> str:
    """One line of the table."""
    waits = sorted(wait_s for wait_s, _, _ in day.waits)
    within = sum(is_within for _, is_within, _ in day.waits) / len(waits)
    promised_s = max((wait_s for wait_s, _, promised in day.waits if promised), default=0.0)
    return (
        f"| {name} | {day.jobs} | {day.jain:.3f} | {waits[len(waits) // 2]:,.0f} s "
        f"| {waits[-1]:,.0f} s | {within:.1%} | {promised_s:,.0f} s | {day.broken} "
        f"| {day.lost:.1%} |"
    )


def promises(day: Day) -> list[tuple[str, str, bool]]:
    """What docs/fairness.md promises of such a day: in words, what came of it, whether it held."""
    alone = [wait_s for wait_s, _, promised in day.waits if promised]
    most_s = f"{max(alone, default=0.0):,.0f} s at the most, {day.broken} of {len(alone)} broken"
    return [
        (
            "people who always had work were served alike: Jain ≥ 0.95",
            f"{day.jain:.3f}",
            day.jain >= 0.95,
        ),
        (
            "a short job that met no more than a turn of other short work waited"
            " no longer than a turn and its own length",
            most_s,
            bool(alone) and day.broken == 0,
        ),
        ("changes of jobs and models cost ≤ 3 % of the time", f"{day.lost:.1%}", day.lost <= 0.03),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    never = TurnsConfig(sections=1000, minutes=1440)
    promised: list[tuple[str, str, bool]] = []
    print("| | finished | Jain | median wait | longest | within | promised | broken | changes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, kind, turns in (
        ("first come, first served", FirstCome, never),
        ("turns of 2 sections, 5 min", virtual_time.PatientStore, TurnsConfig()),
        ("turns of 2 sections", virtual_time.PatientStore, TurnsConfig(minutes=0)),
    ):
        day = Day()
        virtual_time.run(simulate(kind, turns, arguments.hours, arguments.seed, day))
        print(row(name, day), flush=True)
        if turns == TurnsConfig():
            promised = promises(day)
    print(msgspec.json.encode(msgspec.to_builtins(Costs())).decode())
    print("\n| promise, of turns as they are set | what came of it | kept |\n|---|---|---|")
    for words, figure, kept in promised:
        print(f"| {words} | {figure} | {'yes' if kept else '**no**'} |")
    return 0 if all(kept for _, _, kept in promised) else 1


if __name__ == "__main__":
    sys.exit(main())
