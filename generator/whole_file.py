"""Small files that must never be torn: the whole new one or the one before it, whatever happens.

Decides: how that is done. Refuses to know: what is written.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, payload: bytes) -> None:
    """Replace the file; when this returns it is on the disk. OSError as writing raises it."""
    partial = partial_of(file)
    with partial.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def partial_of(file: Path) -> Path:
    """What a kill in the middle leaves."""
    return file.with_suffix(".part")
