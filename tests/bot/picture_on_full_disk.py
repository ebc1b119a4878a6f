"""The picture process on a disk that is full while a file exists: `... MARKER LIMITS`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from PIL import Image

from bot import picture

MARKER = Path(sys.argv.pop(1))
_really_write = picture._write


def _write(image: Image.Image, path: Path) -> str:
    """What goes to the file goes to a device that is full."""
    if MARKER.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/full")
    return _really_write(image, path)


if __name__ == "__main__":
    picture._write = _write
    sys.exit(picture.main())
