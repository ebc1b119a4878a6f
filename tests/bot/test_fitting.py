"""A video that is too large is encoded once more: real ffmpeg, real files."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from bot import fitting
from bot.fitting import FittingError, NoRoomError, Shape, fit, shape_of, ways


def noisy_video(path: Path, size: str = "320x240", seconds: int = 2) -> Path:
    """A video that does not compress: noise on moving bars."""
    source = f"testsrc2=size={size}:rate=30:duration={seconds},noise=alls=60:allf=t"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-y", "-f", "lavfi", "-i", source, "-crf", "5"]
    command += ["-preset", "ultrafast", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def report(path: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("limit_bytes", [400_000, 60_000])
async def test_the_result_is_within_the_limit_and_of_the_same_length(
    tmp_path: Path, limit_bytes: int
) -> None:
    source = await asyncio.to_thread(noisy_video, tmp_path / "big.mp4")
    before = source.read_bytes()
    assert len(before) > 1_000_000
    fitted = tmp_path / "fitted" / "big.mp4"
    assert await fit(source, fitted, limit_bytes)
    assert 0.5 * limit_bytes < fitted.stat().st_size <= limit_bytes
    shape = shape_of(await asyncio.to_thread(report, fitted))
    assert shape.duration_s == pytest.approx(2, abs=0.1)
    assert source.read_bytes() == before
    assert [path.name for path in fitted.parent.iterdir()] == ["big.mp4"]


async def test_rate_control_that_misses_is_allowed_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two seconds of noise come out 6 % too large at first; that is no reason to lose pixels."""
    source = await asyncio.to_thread(noisy_video, tmp_path / "big.mp4")
    limit_bytes = int(source.stat().st_size * 0.48)
    with caplog.at_level(logging.INFO, logger="bot.fitting"):
        assert await fit(source, tmp_path / "fitted" / "big.mp4", limit_bytes)
    sizes = [int(record.getMessage().split()[-2]) for record in caplog.records]
    assert sizes[0] > limit_bytes  # else this shows nothing
    assert 0.85 * limit_bytes < sizes[-1] <= limit_bytes
    assert all(" at 320x240: " in record.getMessage() for record in caplog.records)


async def test_below_the_floor_there_is_nothing(tmp_path: Path) -> None:
    source = await asyncio.to_thread(noisy_video, tmp_path / "big.mp4")
    assert not await fit(source, tmp_path / "fitted" / "big.mp4", 3_000)
    assert list((tmp_path / "fitted").iterdir()) == []


async def test_what_a_scanner_holds_of_the_scratch_folder_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a file that another program has open can not be removed."""
    source = await asyncio.to_thread(noisy_video, tmp_path / "big.mp4")

    def held(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "held by another program")

    monkeypatch.setattr(os, "rmdir", held)
    assert await fit(source, tmp_path / "fitted" / "big.mp4", 400_000)
    assert (tmp_path / "fitted" / "big.mp4").is_file()


async def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(1000))
    with pytest.raises(FittingError, match="finds no video"):
        await fit(tmp_path / "a.mp4", tmp_path / "b.mp4", 500)


@pytest.mark.parametrize("fills", ["before", "meanwhile"])
async def test_a_full_disk_is_told_from_a_video_that_can_not_be_made_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fills: str
) -> None:
    source = await asyncio.to_thread(noisy_video, tmp_path / "big.mp4")
    real, free = shutil.disk_usage(tmp_path), [700_000]
    if fills == "meanwhile":
        free.insert(0, 900_000)
        monkeypatch.setattr(fitting, "THREADS", "as many as ffmpeg can not have")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=free.pop(0)))
    with pytest.raises(NoRoomError, match=r"0\.7 MiB free, and .* needs 0\.8 MiB"):
        await fit(source, tmp_path / "fitted" / "big.mp4", 400_000)
    assert not any(path.is_file() for path in (tmp_path / "fitted").rglob("*"))


def test_the_size_shrinks_before_the_picture_turns_to_blocks() -> None:
    shape = Shape(duration_s=10, width=1280, height=720, fps=30)
    assert ways(shape, 10 << 20)[0].width == 1280
    few = ways(shape, 400_000)
    assert few[0].width < 1280
    assert min(min(way.width, way.height) for way in few) >= 160
    assert ways(shape, 20_000) == []
    assert ways(shape, 10 << 20)[0].bitrate == int((10 << 20) * 0.97 * 8 / 10)
