"""Two bots never share a data folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bot.instance import InstanceError, sole_instance

HOLD = """
import sys
from pathlib import Path
from bot.instance import sole_instance
with sole_instance(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_bot_is_told_the_folder_until_the_first_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    command = [sys.executable, "-c", HOLD, str(data)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(InstanceError, match="already uses the data folder") as caught,
            sole_instance(data),
        ):
            pytest.fail("two bots in one folder")
        assert str(data) in str(caught.value)
        first.kill()  # as a power cut or kill -9 would
    with sole_instance(data):
        pass


def test_a_folder_that_can_not_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(InstanceError, match=r"file.data can not be used: .*storage\.data_dir"),
        sole_instance(tmp_path / "file" / "data"),
    ):
        pytest.fail("no folder, and yet held")
