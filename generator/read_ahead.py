"""While one part computes, the files of the next are read into the system's file cache.

Decides: which part comes after which, that only what fits is read, and that nobody waits for it.
Refuses to know: how a part is loaded. Nothing is held here: what was read is the system's to keep
or to drop, so this changes how long loading takes, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

log = logging.getLogger(__name__)

AFTER = {
    "text_encoder": "text_encoder_2",
    "text_encoder_2": "image_encoder",
    "image_encoder": "vae",
    "vae": "transformer",
}
"""The order of a job; before the VAE decodes nothing can be read, for then all RAM is in use."""
PIECE_BYTES = 2**22
SHARE_OF_RAM = 0.5


class ReadAhead:
    """At most one folder at a time is read, by a thread of its own. Close it."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, folder: Path, ram_free: int) -> bool:
        """Read the folder's weights if they fit into half of the free RAM; says whether."""
        self.close()
        files = sorted(folder.glob("*.safetensors"))
        if not files or sum(file.stat().st_size for file in files) > ram_free * SHARE_OF_RAM:
            return False
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=_read, args=(files, self._stop), name="read ahead", daemon=True
        )
        self._thread.start()
        return True

    def close(self) -> None:
        """Stop reading; returns when the thread has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _read(files: list[Path], stop: threading.Event) -> None:
    piece = bytearray(PIECE_BYTES)
    try:
        for file in files:
            with file.open("rb", buffering=0) as stream:
                while not stop.is_set() and stream.readinto(piece):
                    pass
    except OSError as error:  # whoever loads the part will say it better
        log.info("%s was not read ahead: %s", files[0].parent, error)
