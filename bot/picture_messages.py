"""What the bot and its picture process say to each other.

Decides: the limits of a picture, the order and its verdict. Refuses to know: how pictures are read.
It is apart from `bot.picture` so that the bot never loads Pillow, and the picture process nothing
of the bot. One message is one line of JSON; an order is followed by `size_bytes` raw bytes.
"""

from __future__ import annotations

import msgspec


class PictureLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture may be, and what it becomes.

    `max_side`, `min_side` and `max_aspect` (long side to short side) are of what was sent. The
    clean picture's long side is at most `clean_long_side`, unless that would bring its short side
    below `clean_short_side`, which the largest video of a panorama needs.
    """

    max_bytes: int = 25 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 16384
    min_side: int = 32
    max_aspect: float = 20.0
    clean_long_side: int = 2560
    clean_short_side: int = 1280
    timeout_s: float = 30.0
    memory_mib: int = 1024


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Make a clean PNG of the bytes that follow, in a new file at `destination`.

    With `small` a small JPEG of it comes there too, for messages.
    """

    destination: str
    small: str = ""
    size_bytes: int


class Up(msgspec.Struct, frozen=True, kw_only=True, tag="up"):
    """The first line of a picture process. `no_memory_limit` says why there is none, or nothing."""

    no_memory_limit: str


class Clean(msgspec.Struct, frozen=True, kw_only=True, tag="clean"):
    """The PNG is written: its size in pixels, its SHA-256, and what the asker should know."""

    width: int
    height: int
    sha256: str
    note: str


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """No PNG, for the picture's sake: a text's key in `bot.words`, and its values.

    `what` is the key of what the file is instead of a picture, if it is none. `detail` is for the
    operator's log. `exhausted` means that memory ran out, and that the process ends after this.
    """

    text: str
    values: dict[str, int | float] = {}
    what: str = ""
    detail: str = ""
    exhausted: bool = False


class Trouble(msgspec.Struct, frozen=True, kw_only=True, tag="trouble"):
    """No PNG, and not for the picture's sake: it could not be written."""

    reason: str


Answer = Up | Clean | Refused | Trouble
