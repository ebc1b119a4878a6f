"""What only a process can show: signals, exit codes, orphans, the command line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from live import COMMANDS, SLOW, Live

from bot.__main__ import main
from bot.playground import Playground
from storage.jobs import JobState

SCRIPT = Path(__file__).resolve().parent / "bot_with_fake.py"
ROOT = SCRIPT.parent.parent.parent


def environ(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("DISCORD_TOKEN")}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def write_config(live: Live) -> Path:
    path = live.folder / "config.toml"
    discord, folder = live.config.discord, live.folder.as_posix()
    path.write_text(
        f"[discord]\napi_url = '{discord.api_url}'\ngateway_url = '{discord.gateway_url}'\n"
        f"[storage]\ndata_dir = '{folder}'\n[generator]\ncancel_grace_s = 5\n",
        encoding="utf-8",
    )
    return path


@contextlib.asynccontextmanager
async def bot_process(
    live: Live, *words: str, wait: bool = True
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        str(write_config(live)),
        *words,
        env=environ(DISCORD_TOKEN=live.playground.token),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        if wait:
            await live.playground.bot_ready(*COMMANDS)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def family(process: asyncio.subprocess.Process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


async def all_gone(processes: list[psutil.Process], timeout_s: float) -> bool:
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, timeout_s)
    return not alive


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
@pytest.mark.parametrize("words", [SLOW, ("ignores_eof", *SLOW)], ids=["good", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_everything_within_15_s(
    playground: Playground, tmp_path: Path, words: tuple[str, ...], number: signal.Signals
) -> None:
    live = Live(playground, tmp_path)
    async with bot_process(live, *words) as process:
        await live.animate()
        await live.until(lambda: [job.state for job in live.jobs()] == [JobState.RUNNING])
        children = family(process)
        assert len(children) == 2
        began = time.monotonic()
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 15) == 0
        assert await all_gone(children, 15 - (time.monotonic() - began))
    assert live.jobs()[0].state is JobState.RUNNING


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
async def test_a_signal_while_the_generator_starts_ends_everything_too(
    playground: Playground, tmp_path: Path
) -> None:
    live = Live(playground, tmp_path)
    async with bot_process(live, "slow_start", wait=False) as process:
        await playground.until(playground.api.commands.usable)
        await live.until(lambda: len(family(process)) == 2)
        children = family(process)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
        assert await all_gone(children, 5)


async def test_a_killed_bot_leaves_no_orphans_and_its_job_goes_on(
    playground: Playground, tmp_path: Path
) -> None:
    live = Live(playground, tmp_path)
    async with bot_process(live, *SLOW) as process:
        await live.animate()
        await live.until(lambda: [job.state for job in live.jobs()] == [JobState.RUNNING])
        children = family(process)
        process.kill()
        assert await all_gone(children, 10)
    async with bot_process(live):
        await live.video()
        await live.status_says("Finished")
    assert len(live.videos()) == 1
    assert len(live.posts()) == 2
    assert live.jobs()[0].attempts == 1  # that the bot was killed is no attempt


async def test_the_queue_is_listed_while_the_bot_runs(
    playground: Playground, tmp_path: Path
) -> None:
    live = Live(playground, tmp_path)
    async with bot_process(live, *SLOW):
        await live.animate()
        await live.until(lambda: [job.state for job in live.jobs()] == [JobState.RUNNING])
        listing = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bot", "queue", "--config", str(tmp_path / "config.toml")),
            env=environ(),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await listing.communicate()
    assert listing.returncode == 0
    text = output.decode()
    assert live.jobs()[0].id in text
    assert "the boat rocks" in text
    assert "1 running" in text


def cli(*words: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bot", *words],
        cwd=cwd,
        env=environ(**changes),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_no_token_is_one_sentence(tmp_path: Path) -> None:
    found = cli("run", cwd=tmp_path)
    assert found.returncode == 1
    assert found.stderr.startswith("framepack-bot: there is no bot token: set DISCORD_TOKEN")
    assert found.stderr.count("\n") == 1


def test_a_typo_in_the_config_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[generator]\nmodle = 'x'\n", encoding="utf-8")
    found = cli("run", cwd=tmp_path, DISCORD_TOKEN="x")
    assert found.returncode == 1
    assert "generator.modle is no setting; did you mean generator.model?" in found.stderr
    assert found.stderr.count("\n") == 1


def test_an_api_that_is_down_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[discord]\napi_url = 'http://127.0.0.1:9/api/v10'\n", encoding="utf-8"
    )
    found = cli("run", cwd=tmp_path, DISCORD_TOKEN="secret-token")
    assert found.returncode == 1
    assert "http://127.0.0.1:9/api/v10 can not be reached" in found.stderr
    assert found.stderr.count("\n") == 1
    assert "secret-token" not in found.stderr


def test_the_queue_without_a_database_is_one_sentence(tmp_path: Path) -> None:
    found = cli("queue", cwd=tmp_path)
    assert found.returncode == 1
    assert "there is no database at" in found.stderr


def test_help_and_queue_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, diffusers=None, transformers=None)\n"
        "import bot, bot.app\n"
        "from bot.__main__ import main\n"
        "sys.exit(main(['queue']))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ(), capture_output=True, text=True
    )
    assert found.returncode == 1
    assert found.stderr.startswith("framepack-bot: there is no database")


@pytest.mark.parametrize("verb", ["generate", "models"])
def test_the_generators_verbs_are_relayed_with_their_exit_code(tmp_path: Path, verb: str) -> None:
    found = cli(verb, "--no-such-option", cwd=tmp_path)
    assert found.returncode == 2
    assert f"{verb}: error" in found.stderr


def test_an_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dance"])
    assert caught.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_every_verb_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for verb in ("run", "demo", "generate", "models", "plan", "queue", "backup", "doctor"):
        assert f"\n    {verb} " in text
