"""One bot per data folder.

Decides: who holds a data folder, and that only its owner may look into it: people's pictures and
prompts lie there (Windows' user folders are private anyway). Refuses to know: what lies in it but
the file `lock`. The system lets go of the lock when its process ends, however it ends, so a file
left behind locks nobody out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

LOCK_NAME = "lock"
PRIVATE = 0o700


class InstanceError(Exception):
    """The data folder can not be had; the text is one sentence that names it."""


@contextmanager
def sole_instance(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, made where it is missing, until the block ends. Never waits.

    Raises InstanceError if another bot holds it, or if it can not be written.
    """
    lock = FileLock(data_dir / LOCK_NAME)
    try:
        data_dir.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        _make_private(data_dir)
        lock.acquire(timeout=0)
    except Timeout:
        raise InstanceError(
            f"another framepack-bot already uses the data folder {data_dir}; stop it, or give this "
            "one another storage.data_dir"
        ) from None
    except OSError as error:
        raise InstanceError(
            f"the data folder {data_dir} can not be used: {error.strerror or error}; choose "
            "another storage.data_dir, or change the folder's permissions"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _make_private(folder: Path) -> None:
    mode = folder.stat().st_mode & 0o777
    if os.name == "posix" and mode & ~PRIVATE:
        log.warning("%s was open to others (%o); it is private now (%o)", folder, mode, PRIVATE)
        folder.chmod(PRIVATE)
