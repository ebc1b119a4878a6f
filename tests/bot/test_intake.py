"""What people send, the process that opens it, and the way it comes: each hostile row is a test."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pillow_heif
import psutil
import pytest
import pytest_asyncio
from aiohttp import web
from PIL import Image, ImageCms

from bot.config import Limits
from bot.intake import (
    Accepted,
    Intake,
    IntakeError,
    RefusedPicture,
    attachment_origins,
    download,
    picture_limits,
)
from bot.picture import WATCHDOG_GRACE_S
from bot.picture_messages import Order, PictureLimits

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


# Sending them


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Intake]:
    async with Intake(PictureLimits()) as intake:
        yield intake


def in_shared_loop(function):
    return pytest.mark.asyncio(loop_scope="module")(function)


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


# The rows: too large, too small, too long


@in_shared_loop
async def test_a_little_jpeg_without_metadata_comes_too(shared: Intake, tmp_path: Path) -> None:
    raw = packed(halves((1000, 500)), "JPEG", quality=90)
    folder = tmp_path / "job"
    await shared.accept(raw, folder / "input.png", folder / "input-small.jpg")
    assert sorted(names(folder)) == ["input-small.jpg", "input.png"]
    with Image.open(folder / "input-small.jpg") as image:
        assert (image.format, image.size, dict(image.getexif())) == ("JPEG", (256, 128), {})
    with pytest.raises(RefusedPicture):
        await shared.accept(b"no picture", tmp_path / "a" / "input.png", tmp_path / "a" / "s.jpg")
    assert not (tmp_path / "a").exists()


@in_shared_loop
async def test_a_png_of_a_few_bytes_that_claims_60000_squared(
    shared: Intake, tmp_path: Path
) -> None:
    raw = png_of_zeros(60000, 60000, rows=0)
    assert len(raw) < 100
    sentence = await refused(shared, raw, tmp_path)
    assert sentence == (
        "the picture has 60,000 × 60,000 pixels; a side may have 16,384: make it smaller"
    )


@in_shared_loop
async def test_a_small_file_of_13000_squared_is_refused_by_its_header(
    shared: Intake, tmp_path: Path
) -> None:
    sentence = await refused(shared, png_of_zeros(13000, 13000), tmp_path)
    assert "13,000 × 13,000 pixels, 169.0 megapixels; at most 50 are accepted" in sentence


@in_shared_loop
async def test_a_webp_that_claims_a_huge_canvas(shared: Intake, tmp_path: Path) -> None:
    small = packed(halves(), "WEBP", lossless=True)
    canvas = (16383).to_bytes(3, "little") * 2
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + small[12:]
    raw = b"RIFF" + struct.pack("<I", len(body)) + body
    assert await refused(shared, raw, tmp_path)
    assert (await accepted(shared, small, tmp_path))[0].width == 80


@in_shared_loop
@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((1, 1), "the picture has 1 × 1 pixels; each side must have at least 32"),
        ((16000, 4), "the picture has 16,000 × 4 pixels; each side must have at least 32"),
        ((40, 1000), "40 × 1,000 pixels, one side is 25.0 times the other; at most 20 times"),
    ],
)
async def test_shapes_that_make_no_video(
    shared: Intake, tmp_path: Path, size: tuple[int, int], sentence: str
) -> None:
    assert sentence in await refused(shared, packed(Image.new("L", size), "PNG"), tmp_path)


@in_shared_loop
async def test_a_panorama_of_ten_to_one_keeps_its_shape(shared: Intake, tmp_path: Path) -> None:
    answer, image = await accepted(shared, packed(halves((640, 64)), "PNG"), tmp_path)
    assert image.size == (640, 64)
    assert answer.note == ""


@in_shared_loop
@pytest.mark.parametrize(
    ("sent", "kept"),
    [((3840, 2560), (2560, 1707)), ((6400, 640), (6400, 640)), ((1400, 5600), (1280, 5120))],
)
async def test_what_is_larger_than_any_video_needs_is_made_smaller(
    shared: Intake, tmp_path: Path, sent: tuple[int, int], kept: tuple[int, int]
) -> None:
    _, image = await accepted(shared, packed(halves(sent), "JPEG", quality=60), tmp_path)
    assert image.size == kept
    assert has_halves(image)


@in_shared_loop
async def test_a_file_of_too_many_bytes_is_refused_unopened(shared: Intake, tmp_path: Path) -> None:
    raw = bytes(26 * 2**20)
    assert "26.0 MiB; at most 25 MiB are accepted" in await refused(shared, raw, tmp_path)
    file = tmp_path / "large.bin"
    file.write_bytes(raw)
    with pytest.raises(RefusedPicture, match="at most 25 MiB"):
        await shared.accept(file, tmp_path / "input.png")


# The rows: what is no picture


@in_shared_loop
@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "this is an SVG drawing, not a picture"),
        (b"<!DOCTYPE html><title>x</title>", "this is a web page, not a picture"),
        (b"%PDF-1.7\n%\xe2\xe3", "this is a PDF document, not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this is a PostScript drawing"),
        (b"PK\x03\x04" + bytes(60), "this is a ZIP archive"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(60), "this is a video"),
        (b"II*\x00\x08\x00\x00\x00" + bytes(60), "this is a TIFF or raw photo"),
        (random.Random(1).randbytes(500), "this is not a picture that can be read"),
        (b"\x89PNG\r\n\x1a\n", "this is not a picture that can be read, or a damaged one"),
    ],
)
async def test_what_is_no_picture_is_told_so(
    shared: Intake, tmp_path: Path, raw: bytes, sentence: str
) -> None:
    found = await refused(shared, raw, tmp_path)
    assert sentence in found
    if raw:
        assert found.endswith("send a picture as PNG, JPEG, WebP, GIF, AVIF, HEIC or BMP") or (
            "empty" in found
        )


@in_shared_loop
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF"])
async def test_a_truncated_picture_is_never_accepted(
    shared: Intake, tmp_path: Path, kind: str
) -> None:
    pillow_heif.register_heif_opener()
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    raw = packed(noise, kind)
    sentence = await refused(shared, raw[: len(raw) * 6 // 10], tmp_path)
    assert "damaged" in sentence


# The rows: pictures that need care


@in_shared_loop
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF"])
async def test_every_format_that_people_send(shared: Intake, tmp_path: Path, kind: str) -> None:
    pillow_heif.register_heif_opener()
    raw = packed(halves(), kind)
    answer, image = await accepted(shared, raw, tmp_path)
    assert (image.size, answer.note) == ((80, 60), "")
    assert has_halves(image)


@in_shared_loop
async def test_a_16_bit_grey_picture_is_scaled_not_clipped(shared: Intake, tmp_path: Path) -> None:
    grey = Image.new("I;16", (64, 64), 40000)
    _, image = await accepted(shared, packed(grey, "PNG"), tmp_path)
    assert image.getpixel((5, 5)) == (156, 156, 156)
    for value, wanted in ((0, 0), (128, 0), (129, 1), (65535, 255)):
        raw = packed(Image.new("I;16", (64, 64), value), "PNG")
        assert (await accepted(shared, raw, tmp_path))[1].getpixel((5, 5)) == (wanted,) * 3


@in_shared_loop
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
async def test_a_turned_photo_is_set_upright_and_tells_no_place(
    shared: Intake, tmp_path: Path, orientation: int, kind: str
) -> None:
    upright = halves((80, 48), RED, BLUE)
    upright.paste(GREEN, (0, 0, 80, 12))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    turned = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    raw = packed(turned, kind, exif=exif)
    assert b"SecretCamera" in raw
    _, image = await accepted(shared, raw, tmp_path)
    assert image.size == (80, 48)
    assert has_halves(image)
    assert near(image.getpixel((40, 3)), GREEN, by=40)
    assert b"SecretCamera" not in (tmp_path / "job" / "input.png").read_bytes()


@in_shared_loop
async def test_broken_exif_is_no_reason_to_refuse(shared: Intake, tmp_path: Path) -> None:
    raw = packed(halves(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + bytes(20))
    _, image = await accepted(shared, raw, tmp_path)
    assert has_halves(image)


@in_shared_loop
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
async def test_what_is_transparent_is_white_not_what_hides_there(
    shared: Intake, tmp_path: Path, mode: str
) -> None:
    picture = halves((80, 60), BLUE, (40, 40, 40))
    picture.putalpha(Image.new("L", (80, 60), 255))
    picture.paste((10, 200, 30, 0), (0, 0, 40, 60))
    _, image = await accepted(shared, packed(picture.convert(mode), "PNG"), tmp_path)
    assert has_halves(image, WHITE, (40, 40, 40))


@in_shared_loop
async def test_one_transparent_colour_and_half_transparency(shared: Intake, tmp_path: Path) -> None:
    keyed = packed(halves(), "PNG", transparency=RED)
    assert has_halves((await accepted(shared, keyed, tmp_path))[1], WHITE, BLUE)
    grey = Image.new("L", (80, 60), 9)
    grey.paste(200, (40, 0, 80, 60))
    keyed = packed(grey, "PNG", transparency=9)
    assert has_halves((await accepted(shared, keyed, tmp_path))[1], WHITE, (200,) * 3)
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    _, image = await accepted(shared, packed(half, "PNG"), tmp_path)
    assert near(image.getpixel((9, 9)), (127, 127, 127), by=1)


@in_shared_loop
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF"])
async def test_of_an_animation_the_first_frame_and_a_note(
    shared: Intake, tmp_path: Path, kind: str
) -> None:
    frames = [halves(), halves((80, 60), GREEN, WHITE), halves((80, 60), BLUE, RED)]
    raw = packed(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    answer, image = await accepted(shared, raw, tmp_path)
    assert answer.note == "first frame of an animation"
    assert has_halves(image)


@in_shared_loop
async def test_a_phones_second_view_is_no_animation(shared: Intake, tmp_path: Path) -> None:
    raw = packed(halves(), "MPO", save_all=True, append_images=[halves((80, 60), GREEN)])
    answer, image = await accepted(shared, raw, tmp_path)
    assert answer.note == ""
    assert has_halves(image)


@in_shared_loop
async def test_a_zip_behind_a_png_does_not_come_along(shared: Intake, tmp_path: Path) -> None:
    raw = packed(halves(), "PNG") + b"PK\x03\x04 payload"
    _, image = await accepted(shared, raw, tmp_path)
    assert has_halves(image)
    assert b"payload" not in (tmp_path / "job" / "input.png").read_bytes()


@in_shared_loop
async def test_cmyk_palette_and_one_bit(shared: Intake, tmp_path: Path) -> None:
    cmyk = packed(halves().convert("CMYK"), "JPEG", quality=95)
    assert has_halves((await accepted(shared, cmyk, tmp_path))[1])
    palette = packed(halves().quantize(4), "PNG")
    assert has_halves((await accepted(shared, palette, tmp_path))[1])
    bits = packed(halves((80, 60), WHITE, (0, 0, 0)).convert("1"), "PNG")
    assert has_halves((await accepted(shared, bits, tmp_path))[1], WHITE, (0, 0, 0))


@in_shared_loop
async def test_a_colour_profile_is_applied_and_a_broken_one_ignored(
    shared: Intake, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    raw = packed(halves(), "PNG", icc_profile=swapped)
    assert has_halves((await accepted(shared, raw, tmp_path))[1], GREEN, BLUE)
    raw = packed(halves(), "PNG", icc_profile=profile[:200])
    assert has_halves((await accepted(shared, raw, tmp_path))[1])


@in_shared_loop
async def test_what_was_there_is_kept_on_refusal_and_replaced_on_success(
    shared: Intake, tmp_path: Path
) -> None:
    there = tmp_path / "input.png"
    there.write_bytes(b"before")
    with pytest.raises(RefusedPicture):
        await shared.accept(b"no picture", there)
    assert names(tmp_path) == ["input.png"]
    assert there.read_bytes() == b"before"
    source = tmp_path / "photo.jpg"
    source.write_bytes(packed(halves(), "JPEG"))
    await shared.accept(source, there)
    assert there.read_bytes().startswith(b"\x89PNG")


@in_shared_loop
async def test_many_at_once_take_turns(shared: Intake, tmp_path: Path) -> None:
    sizes = [(40 + n, 50) for n in range(12)]
    answers = await asyncio.gather(
        *(
            shared.accept(packed(halves(size), "PNG"), tmp_path / str(size[0]) / "input.png")
            for size in sizes
        )
    )
    assert [(answer.width, answer.height) for answer in answers] == sizes


@in_shared_loop
async def test_a_destination_that_can_not_be_written_is_no_fault_of_the_picture(
    shared: Intake, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IntakeError, match="could not be stored") as caught:
        await shared.accept(packed(halves(), "PNG"), tmp_path / "file" / "input.png")
    assert not isinstance(caught.value, RefusedPicture)
    with pytest.raises(IntakeError, match=r"none\.jpg can not be read"):
        await shared.accept(tmp_path / "none.jpg", tmp_path / "input.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IntakeError, match="could not be stored"):
        await shared.accept(packed(halves(), "PNG"), tmp_path / "folder.png")
    assert sorted(names(tmp_path)) == ["file", "folder.png"]


@in_shared_loop
async def test_mutated_pictures_are_accepted_or_refused_never_worse(
    shared: Intake, tmp_path: Path
) -> None:
    pillow_heif.register_heif_opener()
    dice = random.Random(20)
    noise = Image.effect_noise((48, 48), 90).convert("RGB")
    seeds = [packed(noise, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF")]
    verdicts = {"accepted": 0, "refused": 0}
    for n in range(140):
        raw = bytearray(seeds[n % len(seeds)])
        for _ in range(dice.randint(1, 8)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        try:
            await shared.accept(bytes(raw), tmp_path / "input.png")
            verdicts["accepted"] += 1
        except RefusedPicture:
            verdicts["refused"] += 1
    assert min(verdicts.values()) > 10
    assert names(tmp_path) == ["input.png"]


# The process


def picture_processes() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if "bot.picture" in " ".join(child.cmdline())
    ]


@asynccontextmanager
async def one_process(
    limits: PictureLimits,
) -> AsyncIterator[tuple[Intake, psutil.Process]]:
    """An intake, its process told apart from those of other tests, and no orphan afterwards."""
    others = set(picture_processes())
    async with Intake(limits) as intake:
        (process,) = set(picture_processes()) - others
        yield intake, process
    assert set(picture_processes()) <= others


async def test_one_process_opens_picture_after_picture(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        for _ in range(3):
            await accepted(intake, packed(halves(), "PNG"), tmp_path)
            await refused(intake, b"no", tmp_path / "other")
        assert process.is_running()


async def test_a_process_that_hangs_is_killed_and_the_next_picture_works(tmp_path: Path) -> None:
    async with one_process(PictureLimits(timeout_s=2)) as (intake, process):
        process.suspend()
        sentence = await refused(intake, packed(halves(), "PNG"), tmp_path)
        assert sentence.startswith("opening the picture took more than 2 s")
        assert not process.is_running()
        await accepted(intake, packed(halves(), "PNG"), tmp_path)


async def test_a_process_killed_between_two_pictures_is_replaced_unnoticed(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.kill()
        await accepted(intake, packed(halves(), "PNG"), tmp_path)


async def test_a_process_killed_over_an_innocent_picture_is_replaced(tmp_path: Path) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.suspend()
        asked = asyncio.create_task(accepted(intake, packed(halves(), "PNG"), tmp_path))
        await asyncio.sleep(0.05)
        process.kill()
        assert (await asked)[0].width == 80


async def test_a_cancelled_acceptance_leaves_nothing_and_the_next_one_is_not_mixed_up(
    tmp_path: Path,
) -> None:
    async with one_process(PictureLimits()) as (intake, process):
        process.suspend()
        asked = asyncio.create_task(intake.accept(packed(halves(), "PNG"), tmp_path / "a.png"))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert names(tmp_path) == []
        answer, _ = await accepted(intake, packed(halves((90, 70)), "PNG"), tmp_path)
        assert answer.width == 90


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS bounds no process's memory")
async def test_a_picture_that_needs_too_much_memory_is_refused_and_the_next_works(
    tmp_path: Path,
) -> None:
    big = packed(Image.new("RGBA", (5000, 5000)), "PNG", compress_level=1)
    async with one_process(PictureLimits(memory_mib=150)) as (intake, process):
        sentence = await refused(intake, big, tmp_path)
        assert sentence.startswith("opening the picture takes more than 150 MiB of memory")
        await accepted(intake, packed(halves(), "PNG"), tmp_path)
        assert not process.is_running()
    async with Intake(PictureLimits()) as intake:
        await accepted(intake, big, tmp_path)


async def test_a_picture_that_ends_the_process_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = 'import sys; print(\'{"type":"up","no_memory_limit":""}\', flush=True); input()'
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", (sys.executable, "-c", fragile))
    async with Intake(PictureLimits()) as intake:
        sentence = await refused(intake, packed(halves(), "PNG"), tmp_path)
        assert sentence.startswith("opening the picture ended the process")


async def test_a_process_that_can_not_start_says_its_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no Pillow here')")
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", command)
    with pytest.raises(IntakeError, match="ended at its start: no Pillow here"):
        await Intake(PictureLimits()).__aenter__()
    monkeypatch.setattr("bot.intake.PICTURE_PROCESS", (str(Path("/no/such/python")),))
    with pytest.raises(IntakeError, match="can not be started: "):
        await Intake(PictureLimits()).__aenter__()


HOLD = """
import asyncio, sys, time
from bot.intake import Intake
from bot.picture import WATCHDOG_GRACE_S
from bot.picture_messages import Order, PictureLimits
async def main():
    async with Intake(PictureLimits()) as intake:
        print(intake._child._process.pid, flush=True)
        time.sleep(600)
asyncio.run(main())
"""


def test_the_process_ends_when_the_bot_is_killed() -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout is not None
        process = psutil.Process(int(bot.stdout.readline()))
        assert "bot.picture" in " ".join(process.cmdline())
        bot.kill()
        process.wait(timeout=20)


def test_a_process_that_nobody_is_left_to_kill_ends_itself(tmp_path: Path) -> None:
    limits = PictureLimits(timeout_s=0.02 - WATCHDOG_GRACE_S)
    command = [sys.executable, "-m", "bot.picture", msgspec.json.encode(limits).decode()]
    raw = packed(Image.effect_noise((3000, 3000), 90), "PNG", compress_level=1)
    order = Order(destination=str(tmp_path / "never.png"), size_bytes=len(raw))
    ended = subprocess.run(
        command, input=msgspec.json.encode(order) + b"\n" + raw, capture_output=True, timeout=60
    )
    assert ended.returncode != 0
    assert ended.stdout.count(b"\n") == 1  # it came up, and answered nothing
    assert names(tmp_path) == []


async def test_the_process_never_sees_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCORD_TOKEN", "secret")
    async with one_process(PictureLimits()) as (_, process):
        assert "DISCORD_TOKEN" not in process.environ()


async def test_the_work_is_not_done_on_the_event_loop(tmp_path: Path) -> None:
    raw = packed(Image.effect_noise((2000, 2000), 90), "PNG", compress_level=1)
    async with one_process(PictureLimits()) as (intake, process):
        before = time.thread_time()
        await intake.accept(raw, tmp_path / "input.png")
        ours_s = time.thread_time() - before
        times = process.cpu_times()
        assert ours_s < (times.user + times.system) / 2


def test_the_configured_limits_reach_the_process() -> None:
    configured = Limits(max_attachment_mib=2, max_picture_megapixels=3.5, picture_memory_mib=600)
    limits = picture_limits(configured)
    assert (limits.max_bytes, limits.max_pixels, limits.memory_mib) == (2 * 2**20, 3_500_000, 600)
    assert picture_limits(Limits()) == PictureLimits()


@pytest.mark.skipif(sys.maxsize < 2**32, reason="sizes are of 64-bit Windows")
def test_the_windows_structures_have_windows_sizes() -> None:
    import ctypes

    from bot.windows_memory import _BasicLimits, _ExtendedLimits, limit_own_memory

    assert (ctypes.sizeof(_BasicLimits), ctypes.sizeof(_ExtendedLimits)) == (64, 144)
    if sys.platform != "win32":
        assert limit_own_memory(1024) == "this is not Windows"


# The way


class Server:
    """Something like Discord's CDN on a port of its own."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stumbles: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        if self.stumbles:
            status = self.stumbles.pop(0)
            if status == 0:
                assert request.transport is not None
                request.transport.close()
            return web.Response(status=status or 500)
        match request.path:
            case "/moved":
                raise web.HTTPFound("/picture")
            case "/gone":
                raise web.HTTPNotFound
            case "/endless":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(bytes(1000))
            case "/zipped":
                response = web.Response(body=bytes(100_000))
                response.enable_compression(web.ContentCoding.gzip)
                return response
            case _:
                return web.Response(body=b"x" * 5000)


@pytest.fixture
async def cdn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Server]]:
    monkeypatch.setattr("bot.intake.RETRY_PAUSES_S", (0.01, 0.01))
    server, app = Server(), web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    yield f"http://127.0.0.1:{port}", server
    await runner.cleanup()


async def fetched(url: str, origin: str, max_bytes: int = 10_000) -> bytes:
    async with aiohttp.ClientSession() as session:
        return await download(url, session, attachment_origins(f"{origin}/api/v10"), max_bytes)


async def test_an_attachment_is_downloaded_with_its_signature_untouched(
    cdn: tuple[str, Server],
) -> None:
    origin, server = cdn
    path = "/attachments/1/2/a%20b%2Fc.png?ex=6%2B1&is=a+b&hm=%c3%A4&"
    assert await fetched(origin + path, origin) == b"x" * 5000
    assert server.asked == [path]


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.discordapp.com/a.png",
        "https://cdn.discordapp.com:8443/a.png",
        "https://cdn.discordapp.com.evil.example/a.png",
        "https://cdn.discordapp.com@evil.example/a.png",
        "https://user:pw@cdn.discordapp.com/a.png",
        "https://evil.example/https://cdn.discordapp.com/a.png",
        "https://evilcdn.discordapp.com/a.png",
        "http://127.0.0.1:1/a.png",
        "http://localhost/a.png",
        "//cdn.discordapp.com/a.png",
        "file:///etc/passwd",
        "https://[::1/a.png",
        "",
    ],
)
async def test_nothing_is_fetched_from_elsewhere(cdn: tuple[str, Server], url: str) -> None:
    with pytest.raises(RefusedPicture, match="not on Discord's servers; attach the file itself"):
        await fetched(url, cdn[0])
    assert cdn[1].asked == []


def test_discords_own_servers_are_always_known() -> None:
    own = {"https://cdn.discordapp.com", "https://media.discordapp.net"}
    own |= {f"https://images-ext-{n}.discordapp.net" for n in (1, 2)}
    assert attachment_origins("") == own
    assert attachment_origins("https://proxy.example:443/api") == own | {"https://proxy.example"}


@pytest.mark.parametrize("path", ["/picture", "/endless", "/zipped"])
async def test_no_more_than_the_cap_is_read(cdn: tuple[str, Server], path: str) -> None:
    with pytest.raises(RefusedPicture, match="MiB are accepted"):
        await fetched(cdn[0] + path, cdn[0], max_bytes=4999)


async def test_redirects_are_not_followed(cdn: tuple[str, Server]) -> None:
    with pytest.raises(IntakeError, match="it answered 302"):
        await fetched(f"{cdn[0]}/moved", cdn[0])
    assert cdn[1].asked == ["/moved"]


async def test_an_expired_attachment_is_one_sentence(cdn: tuple[str, Server]) -> None:
    with pytest.raises(IntakeError, match=r"it answered 404\); attach it again"):
        await fetched(f"{cdn[0]}/gone", cdn[0])
    assert len(cdn[1].asked) == 1


async def test_a_server_that_stumbles_is_asked_again(cdn: tuple[str, Server]) -> None:
    cdn[1].stumbles = [503, 0]
    assert await fetched(f"{cdn[0]}/picture", cdn[0]) == b"x" * 5000
    cdn[1].stumbles = [500] * 9
    with pytest.raises(IntakeError, match="try again in a minute"):
        await fetched(f"{cdn[0]}/picture", cdn[0])
    assert len(cdn[1].asked) == 6


async def test_a_server_that_says_nothing_is_given_up(
    cdn: tuple[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.intake.DOWNLOAD_TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    with pytest.raises(IntakeError, match="try again in a minute"):
        await fetched(f"{cdn[0]}/endless", cdn[0], max_bytes=10**12)
