"""`framepack-bot demo`: the real bot, database and generator, and what the person is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bot.playground import demo
from bot.playground.demo import EXAMPLES, run_demo


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.rstrip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_ends_in_the_path_of_a_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(psutil.Process().children(recursive=True))  # other tests' resource trackers
    status = run_demo(model="tiny", out_dir=tmp_path, seconds=0.5, steps=1)
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert status == 0, "\n".join(lines)
    video = Path(lines[-1])
    assert video.parent == tmp_path
    assert video.read_bytes()[4:8] == b"ftyp"
    assert lines[0].startswith("Model: tiny (random weights")
    text = "\n".join(lines)
    assert "ben types /animate" in text
    assert "FramePack (only ben sees this)" in text
    assert f"[{video.name}, " in text
    assert "FramePack edits: " in lines[-4], "the last state of the status message"
    assert not set(psutil.Process().children(recursive=True)) - before


def test_a_missing_picture_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo(image=tmp_path / "none.png", out_dir=tmp_path) == 1
    assert "there is no picture" in last_line(capsys)
    assert "none.png" not in [path.name for path in tmp_path.iterdir()]


def test_a_bot_that_cannot_start_is_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo(model=str(tmp_path / "no-model"), out_dir=tmp_path / "out") == 1
    told = capsys.readouterr().out
    assert "The end of the bot's log:" in told
    assert "no-model" in told
    assert not (tmp_path / "out").exists()


def test_a_refused_picture_is_said_in_the_bots_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "REFUSED_AFTER_S", 3.0)
    page = tmp_path / "page.png"
    page.write_text("<html>")
    assert run_demo(image=page, model="tiny", out_dir=tmp_path / "out") == 1
    assert "the bot took no job. It said: " in last_line(capsys)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_a_stopped_demo_leaves_no_bot_behind() -> None:
    code = "import sys; from bot.playground.demo import run_demo; sys.exit(run_demo(model='tiny'))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert any("the bot starts" in line for line in child.stdout)
        started = psutil.Process(child.pid)
        while not (bots := started.children(recursive=True)):
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 130
        assert "Stopped." in child.stdout.read()
    assert psutil.wait_procs(bots, timeout=15)[1] == []


def test_the_example_pictures_are_small_enough_to_ship() -> None:
    pictures = list(EXAMPLES.glob("*.jpg"))
    assert len(pictures) == 2
    assert all(picture.stat().st_size < 300_000 for picture in pictures)
