"""The fake generator with a film that really plays: `film_generator.py FILM PREVIEW WORD ...`.

FILM is an MP4, PREVIEW an animated WebP; both become what every job makes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fake_generator

if __name__ == "__main__":
    film, preview, *words = sys.argv[1:]
    fake_generator.MP4 = Path(film).read_bytes()
    fake_generator.WEBP = Path(preview).read_bytes()
    sys.argv[1:] = words
    fake_generator.main()
