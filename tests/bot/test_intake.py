"""What people send: each hostile picture is a row, refused in one sentence or made a clean PNG."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pillow_heif
import pytest
import pytest_asyncio
from PIL import Image, ImageCms
from sent_pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    accepted,
    halves,
    has_halves,
    names,
    near,
    packed,
    png_of_zeros,
    refused,
)

from bot.intake import Intake, IntakeError, RefusedPicture
from bot.picture_messages import PictureLimits


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Intake]:
    async with Intake(PictureLimits()) as intake:
        yield intake


def in_shared_loop(function):
    return pytest.mark.asyncio(loop_scope="module")(function)


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
