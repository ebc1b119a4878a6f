"""`make torture` in a few seconds; the long form is benchmarks/torture.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="the harness ends the bot with SIGTERM"
)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """benchmarks/ can be imported while a test runs."""
    paths = [str(ROOT / name) for name in ("benchmarks", "tests/bot", "tests")]
    monkeypatch.setattr(sys, "path", [*paths, *sys.path])
    yield


@pytest.fixture
def kills(scripts: None) -> ModuleType:
    import torture_kills

    return torture_kills


@pytest.fixture
def faults(scripts: None) -> ModuleType:
    import torture_faults

    return torture_faults


async def test_killed_again_and_again_nothing_is_lost_and_nothing_comes_twice(
    kills: ModuleType,
) -> None:
    row = await kills.fake_kills(4)
    assert row.good, row.line() + "\n".join(row.notes)


@pytest.mark.slow
async def test_the_real_generator_killed_makes_the_same_latents_and_videos(
    kills: ModuleType,
) -> None:
    row = await kills.real_kills(1)
    assert row.good, row.line() + "\n".join(row.notes)


async def test_many_people_at_once_each_get_their_video_once(kills: ModuleType) -> None:
    row = await kills.crowd(20)
    assert row.good, row.line() + "\n".join(row.notes)
    assert row.jobs == 20


@pytest.mark.parametrize("part", ["full_disk", "clock"])
async def test_jobs_survive_what_is_wrong_with_the_machine(faults: ModuleType, part: str) -> None:
    row = await getattr(faults, part)(2)
    assert row.good, row.line() + "\n".join(row.notes)


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="only Linux has a device that is always full"
)
async def test_jobs_survive_folders_in_which_nothing_finds_space(faults: ModuleType) -> None:
    row = await faults.full_folders(4)
    assert row.good, row.line() + "\n".join(row.notes)
    assert row.remarks["turns ended by it"] > 0


async def test_jobs_survive_a_generator_of_bad_manners(faults: ModuleType) -> None:
    row = await faults.manners("grows", 1)
    assert row.good, row.line() + "\n".join(row.notes)


async def test_hostile_pictures_get_their_verdicts(faults: ModuleType) -> None:
    for row in (await faults.hostile(1), await faults.pictures(60)):
        assert row.good, row.line() + "\n".join(row.notes)


def test_results_are_kept_and_summed(scripts: None, tmp_path: Path) -> None:
    from torture_table import Row, keep, kept, summed

    log = tmp_path / "log"
    for batch in range(2):
        keep(Row(name="a", batch=batch, tried=3, jobs=2, remarks={"x": 1}), log)
    keep(Row(name="b", jobs=1, lost=1), log)
    a, b = summed(kept(log))
    assert (a.tried, a.jobs, a.remarks, a.good) == (6, 4, {"x": 2}, True)
    assert not b.good
    assert not Row(name="nothing was tried").good
