"""The real bot as a child process, pointed at a playground.

Decides: its configuration file, its environment, and how it is started and ended. Refuses to know:
what it does meanwhile. SIGTERM ends it on POSIX, Ctrl-Break on Windows; both let it clean up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

STOP_WITHIN_S = 20.0
LOG_TAIL_LINES = 25
TOKEN, TOKEN_FILE = "DISCORD_TOKEN", "DISCORD_TOKEN_FILE"

Setting = str | int | float | bool | list[int]


def write_config(path: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Write tables of settings as TOML, whose plain values are spelled as in JSON."""
    lines = []
    for table, values in settings.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class BotProcess:
    """`python -m bot run --config …` from `async with` on to its end; `log` is what it wrote."""

    def __init__(self, config: Path, token: str, log: Path) -> None:
        self._config = config
        self._token = token
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if key != TOKEN_FILE}
        environment |= {TOKEN: self._token, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
        arguments = ["-m", "bot", "run", "--config", str(self._config)]
        with self._log.open("ab") as sink:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=environment,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int:
        """The bot's process id."""
        assert self._process is not None
        return self._process.pid

    async def ended(self) -> int:
        """Wait for the bot to end by itself; its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> int:
        """End the bot and wait for it; killed after 20 s. Its exit status."""
        process = self._process
        assert process is not None
        if process.returncode is None:
            gentle = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
            process.send_signal(gentle)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
        return await process.wait()

    def kill(self) -> None:
        """End the bot as a power cut does."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines of the bot's log."""
        if not self._log.is_file():
            return ""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])
