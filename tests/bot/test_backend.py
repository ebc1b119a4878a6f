"""LocalBackend against a real child that misbehaves in every way listed in tests/fake_generator."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from fake_generator import video_bytes

from bot.backend import BackendError, LocalBackend, Lost
from bot.child_memory import limit_bytes, taken_bytes
from generator.protocol import (
    PROTOCOL_VERSION,
    Cancelled,
    ErrorKind,
    Failed,
    Finished,
    Generate,
    Progress,
    Suspended,
    Variant,
    job_request,
)

FAKE = Path(__file__).resolve().parent.parent / "fake_generator.py"


def fake(*words: str) -> list[str]:
    return [sys.executable, str(FAKE), *words]


@contextlib.asynccontextmanager
async def backend(*words: str, start_timeout_s: float = 10, **options: float) -> AsyncIterator:
    async with LocalBackend(fake(*words), start_timeout_s=start_timeout_s, **options) as found:
        yield found
    assert found.pid is None


def order(folder: Path, job_id: str = "job1") -> Generate:
    (folder / "input.png").write_bytes(b"png")
    request = job_request(prompt="a cat", seed=1)
    return Generate(job_id=job_id, folder=str(folder), request=request)


async def collect(backend: LocalBackend, order: Generate) -> list:
    return [event async for event in backend.run(order)]


async def test_a_good_child_ends_with_exactly_one_terminal_event(tmp_path: Path) -> None:
    async with backend() as found:
        ready = await found.start()
        events = await collect(found, order(tmp_path))
    assert ready.model == "fake"
    assert [type(event) for event in events] == [Progress] * 4 + [Finished]
    assert (tmp_path / events[-1].video).is_file()


async def test_one_child_serves_many_jobs(tmp_path: Path) -> None:
    async with backend() as found:
        await found.start()
        pid = found.pid
        for number in range(3):
            events = await collect(found, order(tmp_path, f"job{number}"))
            assert events[-1].job_id == f"job{number}"
        assert found.pid == pid


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("dies_at_start", r"ended at its start: exit code 3; its last words: the GPU is on fire"),
        ("broken", r"the model folder has no vae; download it again"),
        ("wrong_version", rf"protocol 99, the bot {PROTOCOL_VERSION};"),
        ("slow_start", r"within 0.7 s; raise generator.start_timeout_s"),
    ],
)
async def test_a_start_that_fails_says_why(behaviour: str, sentence: str) -> None:
    timeout_s = 0.7 if behaviour == "slow_start" else 10
    async with backend(behaviour, start_timeout_s=timeout_s) as found:
        with pytest.raises(BackendError, match=sentence):
            await found.start()
        assert found.pid is None


async def test_who_asks_while_a_child_starts_waits_for_that_one() -> None:
    async with backend() as found:
        first, second = asyncio.create_task(found.start()), asyncio.create_task(found.start())
        await asyncio.sleep(0)
        assert found.starting
        assert await first == await second
        assert not found.starting
        own = psutil.Process().children()
        assert [child.pid for child in own if child.cmdline()[1:2] == [str(FAKE)]] == [found.pid]


async def test_broken_keeps_its_kind() -> None:
    async with backend("broken") as found:
        with pytest.raises(BackendError) as caught:
            await found.start()
    assert caught.value.kind is ErrorKind.MODEL


async def test_a_command_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    async with LocalBackend([str(tmp_path / "nothing")]) as found:
        with pytest.raises(BackendError, match="could not be started: No such file"):
            await found.start()


@pytest.mark.parametrize("behaviour", ["garbage", "long_lines", "flood", "other_job"])
async def test_noise_does_not_disturb_a_job(tmp_path: Path, behaviour: str) -> None:
    async with backend(behaviour) as found:
        events = await collect(found, order(tmp_path))
    assert isinstance(events[-1], Finished)
    assert len(events) == 5


async def test_noise_before_ready_is_ignored() -> None:
    async with backend("garbage_start") as found:
        assert (await found.start()).model == "fake"


async def test_a_child_that_only_talks_rubbish_loses_the_job(tmp_path: Path) -> None:
    async with backend("only_garbage") as found:
        events = await collect(found, order(tmp_path))
    assert isinstance(events[-1], Lost)


async def test_a_flood_on_stderr_is_rationed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="generator"):
        async with backend("flood") as found:
            await collect(found, order(tmp_path))
    lines = [record.message for record in caplog.records if record.name == "generator"]
    assert 1 <= len(lines) < 3000
    assert any("lines left out" in line for line in lines)


async def test_a_death_is_lost_and_the_next_job_gets_a_new_child(tmp_path: Path) -> None:
    async with backend("dies_once") as found:
        first = await collect(found, order(tmp_path))
        second = await collect(found, order(tmp_path))
    assert isinstance(first[-1], Lost)
    assert "exit code 9; its last words: Traceback: something terrible" in first[-1].message
    assert isinstance(second[-1], Finished)


async def test_a_child_killed_in_the_middle_is_lost_at_once(tmp_path: Path) -> None:
    async with backend("hangs") as found:
        events = found.run(order(tmp_path))
        assert isinstance(await anext(events), Progress)
        psutil.Process(found.pid).kill()
        began = time.monotonic()
        assert isinstance(await anext(events), Lost)
    assert time.monotonic() - began < 2


async def test_a_child_that_died_between_jobs_is_replaced(tmp_path: Path) -> None:
    async with backend("dies_idle") as found:
        for _ in range(2):
            assert isinstance((await collect(found, order(tmp_path)))[-1], Finished)
            async with asyncio.timeout(5):
                while found.pid is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_cancel_stops_the_job_and_keeps_the_child(tmp_path: Path) -> None:
    async with backend("--steps", "1000") as found:
        events = []
        async for event in found.run(order(tmp_path)):
            events.append(event)
            await found.cancel("job1")
        pid = found.pid
        assert isinstance(events[-1], Cancelled)
        assert len(events) < 50
        assert pid is not None


async def test_cancel_of_another_job_is_ignored(tmp_path: Path) -> None:
    async with backend() as found:
        await found.cancel("job1")
        run = found.run(order(tmp_path))
        await anext(run)
        await found.cancel("job2")
        assert isinstance([event async for event in run][-1], Finished)
        await found.cancel("job1")
        assert isinstance((await collect(found, order(tmp_path)))[-1], Finished)


@pytest.mark.parametrize("behaviour", ["ignores_cancel", "hangs"])
async def test_who_ignores_cancel_is_killed_after_the_grace_time(
    tmp_path: Path, behaviour: str
) -> None:
    async with backend(behaviour, "--step-s", "5", cancel_grace_s=0.5) as found:
        run = found.run(order(tmp_path))
        await anext(run)
        began = time.monotonic()
        await found.cancel("job1")
        rest = [event async for event in run]
        assert 0.4 < time.monotonic() - began < 3
        assert [type(event) for event in rest] == [Cancelled]
        assert found.pid is None


async def test_cancel_while_the_child_starts(tmp_path: Path) -> None:
    async with backend("good") as found:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(collect(found, order(tmp_path)))
            await asyncio.sleep(0)
            await found.cancel("job1")
        assert [type(event) for event in running.result()] == [Cancelled]


@pytest.mark.parametrize("behaviour", ["good", "hangs", "ignores_eof"])
async def test_close_ends_the_child_in_time(tmp_path: Path, behaviour: str) -> None:
    async with backend(behaviour, "--step-s", "30", close_timeout_s=2) as found:
        run = found.run(order(tmp_path))
        await anext(run)
        process = psutil.Process(found.pid)
        await run.aclose()
        began = time.monotonic()
        await found.close()
        assert time.monotonic() - began < 3
        assert not process.is_running()


async def test_an_abandoned_job_does_not_leak_into_the_next(tmp_path: Path) -> None:
    async with backend("hangs") as found:
        run = found.run(order(tmp_path))
        await anext(run)
        first = found.pid
        await run.aclose()
        second = found.run(order(tmp_path, "job2"))
        assert (await anext(second)).job_id == "job2"
        assert found.pid != first
        await second.aclose()


async def test_failures_pass_through(tmp_path: Path) -> None:
    async with backend("fails_memory") as found:
        events = await collect(found, order(tmp_path))
    assert isinstance(events[-1], Failed)
    assert events[-1].kind is ErrorKind.MEMORY


async def test_the_child_never_sees_the_token(tmp_path: Path) -> None:
    environ = {"DISCORD_TOKEN": "secret", "DISCORD_TOKEN_FILE": "f", "PATH": "/usr/bin"}
    found = LocalBackend(fake(), environ=environ)
    assert found._environ == {"PATH": "/usr/bin"}


PARENT = """
import asyncio, sys
from bot.backend import LocalBackend
async def main():
    async with LocalBackend(sys.argv[1:]) as backend:
        await backend.start()
        print(backend.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_the_child_ends_when_the_bot_is_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *fake()], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        child.wait(timeout=5)


async def test_suspended_work_goes_on_where_it_was(tmp_path: Path) -> None:
    async with backend("--steps", "50", "--step-s", "0.02") as found:
        wish, steps, events = order(tmp_path), [], []
        while not events or isinstance(events[-1], Suspended):
            await found.suspend("somebody else")
            async for event in found.run(wish):
                events.append(event)
                if isinstance(event, Progress):
                    steps.append(event.step)
                    if event.step in (5, 20):
                        await found.suspend("job1")
                        await found.suspend("job1")
    assert isinstance(events[-1], Finished)
    assert len([event for event in events if isinstance(event, Suspended)]) == 2
    assert steps == list(range(1, 51))
    assert (tmp_path / events[-1].video).read_bytes() == video_bytes(50)


async def test_a_child_that_hangs_is_killed_and_its_job_lost(tmp_path: Path) -> None:
    async with backend("hangs", silence_limit_s=0.5) as found:
        events = await collect(found, order(tmp_path))
    assert [type(event) for event in events] == [Progress, Lost]


async def test_unloading_reaches_the_child_and_disturbs_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend() as found:
        await found.unload()  # nothing was started: nothing is
        assert found.pid is None
        await found.start()
        with caplog.at_level(logging.INFO, logger="generator"):
            await found.unload()
            events = await collect(found, order(tmp_path))
    assert isinstance(events[-1], Finished)
    assert "unloaded" in caplog.text


async def test_a_child_that_grows_is_killed_before_it_takes_the_machine_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend("grows", memory_limit_gib=0.1) as found:
        events = await collect(found, order(tmp_path))
        assert isinstance(events[-1], Lost)
        assert "GiB of memory, 0.1 are allowed" in events[-1].message
    assert "generator.memory_limit_gib" in caplog.text


async def test_a_child_may_take_what_it_needs(tmp_path: Path) -> None:
    async with backend("--steps", "40", "--step-s", "0.05", memory_limit_gib=0.2) as found:
        events = await collect(found, order(tmp_path))
        assert isinstance(events[-1], Finished)
        assert 1 << 20 < taken_bytes(found.pid) < 0.2 * 2**30
    assert taken_bytes(2**22 - 1) == 0
    assert limit_bytes(0) < psutil.virtual_memory().total < limit_bytes(4096)


async def test_memory_is_told_at_rest_and_during_a_job_and_disturbs_none(tmp_path: Path) -> None:
    async with backend("--steps", "30", "--step-s", "0.05") as found:
        assert await found.measure() is None  # nothing runs yet
        await found.start()
        at_rest = await asyncio.gather(found.measure(), found.measure())
        assert [measured.variant for measured in at_rest] == [None, None]
        running = asyncio.create_task(collect(found, order(tmp_path)))
        await asyncio.sleep(0.5)
        during = await found.measure()
        assert during.variant is Variant.I2V
        assert during.vram_total == 8 << 30
        events = await running
        assert [type(event) for event in events] == [Progress] * 30 + [Finished]
        await found.unload()
        assert (await found.measure()).variant is None


async def test_a_child_that_does_not_say_what_it_holds_costs_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.backend.MEASURED_WITHIN_S", 1.0)
    async with backend("never_measures") as found:
        await found.start()
        asked = asyncio.create_task(found.measure())
        await asyncio.sleep(0.1)  # it listens now, and hears what is the job's
        events = await collect(found, order(tmp_path))
        assert [type(event) for event in events] == [Progress] * 4 + [Finished]
        assert await asked is None


async def test_a_job_ends_early_with_what_it_has(tmp_path: Path) -> None:
    words = ("--steps", "400", "--step-s", "0.02", "--section-steps", "5")
    async with backend(*words) as found:
        await found.finish("job1")  # nobody has it: means nothing
        last = None
        async for event in found.run(order(tmp_path)):
            last = event
            if isinstance(event, Progress) and event.section == 3:
                await found.finish("another")
                await found.finish("job1")
        assert isinstance(last, Finished)
        assert last.sections_made in (2, 3)
    assert last.sections == 80
