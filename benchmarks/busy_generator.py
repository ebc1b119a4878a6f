"""A stand-in for the generator that keeps every core busy: `benchmarks/front_end.py` uses it.

    python benchmarks/busy_generator.py [--start-s S] [--threads N] [WORD ...]

It is the tests' fake generator (its words are passed on) and beside that N threads, one a core
unless told otherwise, that hash 4 MiB blocks with SHA-256 without a pause and without Python's
lock. It says that it is ready after S seconds, as the real one does while it imports torch.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import fake_generator

BLOCK = bytes(4 << 20)


def burn() -> None:
    """Use one core for ever; hashlib lets go of Python's lock meanwhile."""
    while True:
        hashlib.sha256(BLOCK).digest()


def main() -> int:
    """Burn, then be the fake generator until stdin ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--start-s", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments, words = parser.parse_known_args()
    for _ in range(arguments.threads):
        threading.Thread(target=burn, daemon=True).start()
    time.sleep(arguments.start_s)
    sys.argv[1:] = words
    fake_generator.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
