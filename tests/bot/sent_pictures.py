"""Pictures as people send them, and what the intake made of them."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from bot.intake import Accepted, Intake, RefusedPicture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


# Making pictures


def packed(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def halves(size: tuple[int, int] = (80, 60), left: object = RED, right: object = BLUE):
    """A picture whose left half differs from its right one."""
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width: int, height: int, rows: int | None = None) -> bytes:
    """A 1-bit PNG that claims this size and holds this many rows."""
    row = bytes(1 + (width + 7) // 8)
    pixels = zlib.compress(row * (height if rows is None else rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


# What became of them


def chunk_kinds(png: bytes) -> set[bytes]:
    """The kinds of a PNG's chunks; fails where anything follows the last."""
    kinds, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kinds.append(png[at + 4 : at + 8])
        at += length + 12
    assert kinds[-1] == b"IEND"
    assert at == len(png)
    return set(kinds)


async def accepted(intake: Intake, raw: bytes, folder: Path) -> tuple[Accepted, Image.Image]:
    """What became of the bytes; checks that it is a clean PNG and all that was left behind."""
    answer = await intake.accept(raw, folder / "job" / "input.png")
    assert names(folder / "job") == ["input.png"]
    png = (folder / "job" / "input.png").read_bytes()
    assert hashlib.sha256(png).hexdigest() == answer.sha256
    assert chunk_kinds(png) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert (image.format, image.mode, image.size) == (
            "PNG",
            "RGB",
            (answer.width, answer.height),
        )
        return answer, image.copy()


async def refused(intake: Intake, raw: bytes, folder: Path) -> str:
    """The sentence; checks that nothing was left behind."""
    with pytest.raises(RefusedPicture) as caught:
        await intake.accept(raw, folder / "job" / "input.png")
    assert not (folder / "job").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def near(found: object, wanted: tuple[int, ...], by: int = 12) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def has_halves(image: Image.Image, left: tuple[int, ...] = RED, right: tuple[int, ...] = BLUE):
    width, height = image.size
    return near(image.getpixel((width // 8, height // 2)), left) and near(
        image.getpixel((width - width // 8, height // 2)), right
    )
