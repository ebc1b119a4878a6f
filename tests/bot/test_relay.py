"""The generator's verbs run in a child: who asks it something, and Ctrl-C, reach it once."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from test_process import environ

WITHIN_S = 60.0
"""Long, for a machine whose processors others have taken."""

needs_a_terminal = pytest.mark.skipif(
    importlib.util.find_spec("termios") is None, reason="no terminals to make on this system"
)
IN_ITS_TERMINAL = (
    "import fcntl, os, signal, sys, termios\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may have been ignored
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'bot', 'models', 'download'])\n"
)


def write_generator(folder: Path, code: str) -> None:
    """A generator that only does this, where `python -m generator` finds it first."""
    (folder / "generator").mkdir()
    (folder / "generator" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "generator" / "__main__.py").write_text(code, encoding="utf-8")


class Terminal:
    """A verb of the command line in the foreground of a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self._main, inner = os.openpty()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", IN_ITS_TERMINAL],
                cwd=folder,
                env=environ(),
                stdin=inner,
                stdout=inner,
                stderr=inner,
                start_new_session=True,
            )
        finally:
            os.close(inner)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def shows(self, words: str) -> bool:
        """Whether the words come within the time, or the terminal is left before."""
        end = time.monotonic() + WITHIN_S
        while words not in self.shown and time.monotonic() < end:
            if not select.select([self._main], [], [], 0.2)[0]:
                continue
            try:
                self.shown += os.read(self._main, 4096).decode()
            except OSError:  # nobody has it open any more
                break
        return words in self.shown

    def waits(self) -> None:
        """Return when both processes wait: who has only just asked could miss a Ctrl-C."""
        verb = psutil.Process(self.process.pid)
        end = time.monotonic() + WITHIN_S
        while any(p.status() != psutil.STATUS_SLEEPING for p in (verb, *verb.children())):
            assert time.monotonic() < end
            time.sleep(0.05)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        os.close(self._main)  # hangs up whoever is left
        self.process.wait(WITHIN_S)


@contextlib.contextmanager
def terminal(folder: Path) -> Iterator[Terminal]:
    found = Terminal(folder)
    try:
        yield found
    finally:
        found.close()


@needs_a_terminal
def test_a_question_of_the_generator_is_answered_at_the_terminal(tmp_path: Path) -> None:
    write_generator(tmp_path, "import sys\nsys.exit(7 if input('agree? ') == 'yes' else 1)\n")
    with terminal(tmp_path) as found:
        assert found.shows("agree? ")
        found.type("yes\n")
        assert found.process.wait(WITHIN_S) == 7


@needs_a_terminal
def test_ctrl_c_ends_a_question_and_comes_once(tmp_path: Path) -> None:
    write_generator(
        tmp_path,
        "import sys, time\n"
        "try:\n    input('agree? ')\n"
        "except KeyboardInterrupt:\n    time.sleep(1)\n    print('tidied')\n    sys.exit(130)\n",
    )
    with terminal(tmp_path) as found:
        assert found.shows("agree? ")
        found.waits()
        found.type("\x03")
        assert found.shows("tidied")
        assert found.process.wait(WITHIN_S) == 130


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to one process there")
def test_ctrl_c_reaches_a_generator_without_a_terminal(tmp_path: Path) -> None:
    write_generator(
        tmp_path,
        "import sys, time\n"
        "try:\n    print('up', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n",
    )
    # Where the tests run in a shell's background SIGINT is ignored, which a child would inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "bot", "generate"],
            cwd=tmp_path,
            env=environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 130
