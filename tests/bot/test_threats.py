"""Lines of docs/threats.md that no other file tests; and that every line there has its test."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import psutil
from dispatcher_scene import scene
from live import SLOW, Live
from test_process import bot_process, family

from bot.playground import Playground
from storage.jobs import JobState

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "threats.md"


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_the_token_is_in_no_log_file_database_or_process_list(
    playground: Playground, tmp_path: Path
) -> None:
    live, token = Live(playground, tmp_path), playground.token
    async with bot_process(live, *SLOW) as process:
        await live.animate()
        await live.until(lambda: [job.state for job in live.jobs()] == [JobState.RUNNING])
        children = family(process)
        for found in [psutil.Process(process.pid), *children]:
            assert token not in " ".join(found.cmdline())
        for child in children:
            assert token not in child.environ().values()
            assert not any("DISCORD_TOKEN" in name for name in child.environ())
        process.terminate()
        assert process.stderr is not None
        log = await asyncio.wait_for(process.stderr.read(), 20)
    assert b"job" in log
    assert token.encode() not in log
    contents = contents_of(tmp_path)
    assert len(contents) >= 3
    assert not [path for path, content in contents.items() if token.encode() in content]


async def test_a_video_outside_the_jobs_folder_is_not_posted(tmp_path: Path) -> None:
    async with scene(tmp_path, "elsewhere") as found:
        job = await found.ends(await found.ask())
    assert job.state is JobState.FAILED
    assert list(found.jobs_dir.glob("*.mp4"))
    assert not found.posts.files


def test_every_threat_has_its_tests() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if "`tests/" in line]
    assert len(rows) >= 8
    for row in rows:
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row):
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)
