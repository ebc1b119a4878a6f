"""The picture process: bytes that a stranger sent become a clean PNG, or a sentence why not.

Decides: which formats are read, what a picture must be, how each kind of it becomes plain RGB.
Refuses to know: Discord, jobs, where the bytes come from. Run by `bot.intake` as
`python -m bot.picture LIMITS`, because decoders are where hostile input bites: this process has a
limit of memory and a watchdog, and may be killed at any time. Nothing of the original is kept; what
is written has pixels and no metadata.
"""

from __future__ import annotations

import faulthandler
import hashlib
import io
import os
import signal
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import pillow_heif
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, features

from bot.picture_messages import Answer, Clean, Order, PictureLimits, Refused, Trouble, Up
from bot.words import Word

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "HEIF", "AVIF")
"""A fixed list: Pillow knows others that start programs (EPS) or that nobody posts."""
ANIMATED_FORMATS = {"PNG", "WEBP", "GIF", "AVIF"}
SMALL_SIDE = 256
"""Discord shows it at 80 points, on phones three pixels each."""
ANIMATION_NOTE = Word.ANIMATION.value
BACKGROUND = (255, 255, 255)
WATCHDOG_GRACE_S = 5.0
"""How long after its time limit the process ends itself, should nobody be left to kill it."""

ALREADY_KNOWN = (
    (b"%PDF", Word.FILE_PDF),
    (b"%!PS", Word.FILE_POSTSCRIPT),
    (b"\xc5\xd0\xd3\xc6", Word.FILE_POSTSCRIPT),
    (b"<svg", Word.FILE_SVG),
    (b"<!doctype html", Word.FILE_PAGE),
    (b"<html", Word.FILE_PAGE),
    (b"PK\x03\x04", Word.FILE_ZIP),
    (b"8BPS", Word.FILE_PHOTOSHOP),
    (b"II*\x00", Word.FILE_TIFF),
    (b"MM\x00*", Word.FILE_TIFF),
    (b"\x1aE\xdf\xa3", Word.FILE_VIDEO),
    (b"ftypisom", Word.FILE_VIDEO),
    (b"ftypmp4", Word.FILE_VIDEO),
    (b"ftypqt", Word.FILE_VIDEO),
)

TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of this EXIF orientation upright."""

BROKEN_EXIF = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


class Unfit(Exception):
    """A picture that is refused; the text is for the asker, `what` names what it is instead."""

    def __init__(self, text: Word, what: Word | None = None, **values: int | float) -> None:
        super().__init__(text.name)
        self.text, self.values = text, values
        self.what = what.name if what else ""


def main() -> int:
    """Serve orders until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the bot's to act on
    warnings.simplefilter("ignore")
    answers = _own_stdout()
    limits = msgspec.json.decode(sys.argv[1].encode(), type=PictureLimits)
    Image.MAX_IMAGE_PIXELS = None  # our own cap is lower, and can tell the numbers
    pillow_heif.options.DECODE_THREADS = 2  # its default of 4 starves the generator
    pillow_heif.register_heif_opener(thumbnails=False)
    _say(answers, Up(no_memory_limit=_limit_memory(limits.memory_mib)))
    for order, raw in _orders(sys.stdin.buffer):
        faulthandler.dump_traceback_later(limits.timeout_s + WATCHDOG_GRACE_S, exit=True)
        answer = _answer(order, raw, limits)
        faulthandler.cancel_dump_traceback_later()
        _say(answers, answer)
        if isinstance(answer, Refused) and answer.exhausted:
            return 0
    return 0


def _own_stdout() -> BinaryIO:
    """The pipe to the bot; what a library prints goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _say(answers: BinaryIO, answer: Answer) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")
    answers.flush()


def _orders(source: BinaryIO) -> Iterator[tuple[Order, bytes]]:
    while line := source.readline():
        order = msgspec.json.decode(line, type=Order)
        yield order, source.read(order.size_bytes)


def _answer(order: Order, raw: bytes, limits: PictureLimits) -> Answer:
    try:
        clean, note = clean_picture(raw, limits)
    except Unfit as refusal:
        return Refused(text=refusal.text.name, values=refusal.values, what=refusal.what)
    except MemoryError:
        most: dict[str, int | float] = {"limit": limits.memory_mib}
        return Refused(text=Word.PICTURE_MEMORY.name, values=most, exhausted=True)
    except Exception as error:  # the worker loop: a decoder may raise anything on hostile bytes
        return Refused(text=Word.PICTURE_DAMAGED.name, detail=repr(error)[:200])
    try:
        digest = _write(clean, Path(order.destination))
        if order.small:
            _write_small(clean, Path(order.small))
    except OSError as error:
        return Trouble(reason=error.strerror or str(error))
    return Clean(width=clean.width, height=clean.height, sha256=digest, note=note)


def clean_picture(raw: bytes, limits: PictureLimits) -> tuple[Image.Image, str]:
    """An upright RGB picture without metadata, and what to tell about it ("" for nothing).

    Raises Unfit for what is no picture or breaks a limit, and whatever a decoder raises.
    """
    with _opened(raw) as image:
        _check_size(image.size, limits)
        size = _clean_size(image.size, limits)
        image.draft(None, size)  # a JPEG is decoded at 1/2, 1/4 or 1/8 where that is enough
        image.load()
        animated = image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False)
        orientation = _orientation(image)
        profile = image.info.get("icc_profile")
        plain = _resized(_simple_mode(image), size)
    plain = _in_srgb(_on_background(plain), profile)
    if orientation in TURNED:
        plain = plain.transpose(TURNED[orientation])
    plain.info = {}
    return plain, ANIMATION_NOTE if animated else ""


def _opened(raw: bytes) -> Image.Image:
    if not raw:
        raise Unfit(Word.PICTURE_EMPTY)
    formats = [name for name in FORMATS if name != "AVIF" or features.check("avif")]
    try:
        return Image.open(io.BytesIO(raw), formats=formats)
    except UnidentifiedImageError:
        raise Unfit(Word.PICTURE_KIND, what=_guess(raw)) from None


def _guess(raw: bytes) -> Word:
    """What a file is that is no picture, by its first bytes."""
    start = raw[:1024].lower()
    for mark, name in ALREADY_KNOWN:
        if mark.lower() in (start if mark.startswith(b"<") else start[:16]):
            return name
    return Word.FILE_UNKNOWN


def _check_size(size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    short, long = sorted(size)
    if short < limits.min_side:
        raise Unfit(Word.PICTURE_SMALL, width=width, height=height, limit=limits.min_side)
    if long > limits.max_side:
        raise Unfit(Word.PICTURE_LARGE, width=width, height=height, limit=limits.max_side)
    if short * long > limits.max_pixels:
        pixels, most = short * long / 1e6, limits.max_pixels / 1e6
        raise Unfit(Word.PICTURE_PIXELS, width=width, height=height, megapixels=pixels, limit=most)
    if long > limits.max_aspect * short:
        times, most = long / short, limits.max_aspect
        raise Unfit(Word.PICTURE_LONG, width=width, height=height, times=times, limit=most)


def _clean_size(size: tuple[int, int], limits: PictureLimits) -> tuple[int, int]:
    short, long = sorted(size)
    scale = min(1.0, max(limits.clean_long_side / long, limits.clean_short_side / short))
    return round(size[0] * scale), round(size[1] * scale)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except BROKEN_EXIF:
        return 1


def _simple_mode(image: Image.Image) -> Image.Image:
    """RGBA where anything is transparent, else L, RGB or CMYK as the picture has it."""
    if image.mode.startswith("I"):  # 16 bits; convert() would clip what is above 255
        return image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    wanted = ("RGBA",) if image.has_transparency_data else ("RGB", "L", "CMYK")
    return image if image.mode in wanted else image.convert(wanted[0])


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image.copy()
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _on_background(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGB", image.size, BACKGROUND)
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The colours as they were meant: phones take pictures in wider spaces than sRGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            turned = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if turned is not None:
                return turned
        except (ImageCms.PyCMSError, OSError, ValueError):  # a broken profile, or of another mode
            pass
    return image.convert("RGB")


def _write(image: Image.Image, path: Path) -> str:
    """Write a PNG that survives a power cut; its SHA-256."""
    packed = io.BytesIO()
    image.save(packed, format="PNG", compress_level=1)  # it is read once; speed beats size
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(packed.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(packed.getbuffer()).hexdigest()


def _write_small(image: Image.Image, path: Path) -> None:
    """Write a JPEG for the corner of a message. It can be made again, so it need not survive."""
    small = image.convert("RGB")
    small.thumbnail((SMALL_SIDE, SMALL_SIDE), Image.Resampling.LANCZOS)
    small.save(path, format="JPEG", quality=85)


def _limit_memory(memory_mib: int) -> str:
    """Bound this process's memory. "" if that worked, else why not.

    On Linux by the address space, on Windows by a job object of our own. macOS admits no such limit
    on a process by itself; there the caps on pixels, bytes and seconds are what is left.
    """
    if sys.platform == "win32":
        from bot.windows_memory import limit_own_memory

        return limit_own_memory(memory_mib)
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20, memory_mib * 2**20))
    except (OSError, ValueError) as error:
        return f"the system refuses it ({error})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
