"""A video that is too large for a channel is encoded once more, to fit.

Decides: the bitrate, the size in pixels, and where it stops being worth looking at. Refuses to
know: Discord, jobs. The work is ffmpeg's, in a process of its own; the original is never touched.
Source: two-pass rate control as in ffmpeg's H.264 guide.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bot.backend import SECRET_VARIABLES

log = logging.getLogger(__name__)

MIB = 1 << 20
FILLED = 0.97
"""How much of a limit is used: the container needs some, and rate control is not exact."""
ENCODED_AT_A_SIZE = 3
"""Of a short video rate control misses by some percent; then that is allowed for."""
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
LEAST_BITS_PER_PIXEL = 0.02
"""Below it H.264 shows blocks instead of a picture; a smaller size looks better."""
LEAST_SHORT_SIDE = 160
"""Pixels; below it there is nothing to see."""
THREADS = 2
"""The processor is the generator's too."""

_DURATION = re.compile(r"Duration: (\d+):(\d+):([\d.]+)")
_STREAM = re.compile(r"Video:.*? (\d{2,5})x(\d{2,5}).*?([\d.]+) fps")


class FittingError(Exception):
    """The video could not be made smaller; the text is for the log."""


class NoRoomError(FittingError):
    """The disk is too full to try; it is worth another try when there is room."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be known of a video to encode it anew."""

    duration_s: float
    width: int
    height: int
    fps: float


class Pass(msgspec.Struct, frozen=True, kw_only=True):
    """One way of encoding: size in pixels, and bits per second."""

    width: int
    height: int
    bitrate: int


async def fit(source: Path, destination: Path, limit_bytes: int) -> bool:
    """Make `destination` a version of `source` of at most `limit_bytes`; False if none is any good.

    The folder is made where it is missing, on the source's disk. Raises NoRoomError when that is
    too full, FittingError when ffmpeg does not work.
    """
    ffmpeg = await asyncio.to_thread(_find_ffmpeg)
    shape = shape_of(await _run([ffmpeg, "-hide_banner", "-i", str(source)]))
    await asyncio.to_thread(_need_room, source, limit_bytes)
    try:
        await asyncio.to_thread(_make, destination.parent)
        return await _fit(ffmpeg, source, destination, shape, limit_bytes)
    except (FittingError, OSError):
        # A full disk has many words, in ffmpeg and in its libraries; the disk itself has one.
        await asyncio.to_thread(_need_room, source, limit_bytes)
        raise


async def _fit(
    ffmpeg: str, source: Path, destination: Path, shape: Shape, limit_bytes: int
) -> bool:
    # What another program holds of it (on Windows a virus scanner) stays, and goes with the job.
    with tempfile.TemporaryDirectory(dir=destination.parent, ignore_cleanup_errors=True) as scratch:
        part = Path(scratch) / "part.mp4"
        for way in ways(shape, limit_bytes):
            for _ in range(ENCODED_AT_A_SIZE):
                await _encode(ffmpeg, source, part, way)
                size_bytes = part.stat().st_size
                log.info("%s at %dx%d: %d bytes", source.name, way.width, way.height, size_bytes)
                if size_bytes <= limit_bytes:
                    part.replace(destination)
                    return True
                less = int(way.bitrate * FILLED * limit_bytes / size_bytes)
                way = msgspec.structs.replace(way, bitrate=less)
    return False


def ways(shape: Shape, limit_bytes: int) -> list[Pass]:
    """The encodings that are worth trying, best first: whole size, then smaller ones."""
    bitrate = int(limit_bytes * FILLED * 8 / max(shape.duration_s, 0.1))
    found = []
    for scale in SCALES:
        width, height = (
            max(2, round(side * scale / 2) * 2) for side in (shape.width, shape.height)
        )
        if scale < 1 and min(width, height) < LEAST_SHORT_SIDE:
            break
        if bitrate / (width * height * shape.fps) >= LEAST_BITS_PER_PIXEL:
            found.append(Pass(width=width, height=height, bitrate=bitrate))
    return found


def shape_of(report: str) -> Shape:
    """The shape of a video from what ffmpeg says about it. FittingError if there is none."""
    duration, stream = _DURATION.search(report), _STREAM.search(report)
    if duration is None or stream is None:
        raise FittingError(f"ffmpeg finds no video: {report.strip()[-200:]}")
    hours, minutes, seconds = (float(part) for part in duration.groups())
    return Shape(
        duration_s=hours * 3600 + minutes * 60 + seconds,
        width=int(stream[1]),
        height=int(stream[2]),
        fps=float(stream[3]),
    )


async def _encode(ffmpeg: str, source: Path, part: Path, way: Pass) -> None:
    common = [ffmpeg, "-hide_banner", "-loglevel", "error", "-y", "-i", str(source)]
    common += ["-vf", f"scale={way.width}:{way.height}:flags=lanczos", "-threads", str(THREADS)]
    common += ["-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p"]
    common += ["-b:v", str(way.bitrate), "-passlogfile", str(part.with_name("passes"))]
    null = "NUL" if sys.platform == "win32" else "/dev/null"
    await _run([*common, "-pass", "1", "-an", "-f", "null", null], must=True)
    await _run([*common, "-pass", "2", "-movflags", "+faststart", str(part)], must=True)


async def _run(command: Sequence[str], *, must: bool = False) -> str:
    """What the program wrote on stderr. FittingError if it can not be run, or `must` work."""
    devnull, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=devnull, stdout=devnull, stderr=pipe, env=_environ()
        )
    except OSError as error:
        raise FittingError(f"ffmpeg can not be started: {error}") from error
    try:
        _, stderr = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    words = stderr.decode("utf-8", "replace")
    if must and process.returncode:
        raise FittingError(f"ffmpeg ended with {process.returncode}: {words.strip()[-200:]}")
    return words


def _environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in SECRET_VARIABLES}


def _find_ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        if found := shutil.which("ffmpeg"):
            return found
        raise FittingError(f"there is no ffmpeg: {error}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FittingError(f"{folder} can not be made: {error.strerror}") from error


def _need_room(source: Path, limit_bytes: int) -> None:
    """NoRoomError where a file of so many bytes, and what ffmpeg notes beside it, has no room."""
    free, needed = shutil.disk_usage(source.parent).free / MIB, 2 * limit_bytes / MIB
    if free < needed:
        raise NoRoomError(
            f"the disk has {free:.1f} MiB free, and making {source.name} smaller needs "
            f"{needed:.1f} MiB; make room, it is tried again"
        )
