"""One bot per data folder.

Decides: who holds a data folder. Refuses to know: what lies in it but the file `lock`. The system
lets go of the lock when its process ends, however it ends, so a file left behind locks nobody out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_NAME = "lock"


class InstanceError(Exception):
    """The data folder can not be had; the text is one sentence that names it."""


@contextmanager
def sole_instance(data_dir: Path) -> Iterator[None]:
    """Hold the data folder, made where it is missing, until the block ends. Never waits.

    Raises InstanceError if another bot holds it, or if it can not be written.
    """
    lock = FileLock(data_dir / LOCK_NAME)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
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
