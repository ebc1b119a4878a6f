"""Pull the plug, fill the disk, lie about the time; count what is lost: `make torture`.

    python benchmarks/torture.py [--log FILE] [--only WORD] [--divide N]

Runs every part and prints one table: tried, survived, lost, duplicated, bytes equal. Each finished
batch is appended to the log, so that a run that is broken off has told what it did and goes on
there; remove the log to begin anew. `--divide` divides all the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests"), str(ROOT / "tests/bot")]

import torture_faults as faults  # noqa: E402
import torture_kills as kills  # noqa: E402
from torture_table import HEADER, Row, keep, kept, summed  # noqa: E402

Part = Callable[[int, int], Awaitable[Row]]
PARTS: dict[str, tuple[Part, int, int]] = {
    "fake": (kills.fake_kills, 140, 20),
    "real": (kills.real_kills, 60, 10),
    "crowd": (kills.crowd, 1000, 1000),
    "pictures": (faults.pictures, 10_000, 2000),
    "hostile": (faults.hostile, 10, 10),
    "disk": (faults.full_disk, 30, 30),
    "files": (faults.full_folders, 30, 30),
    "locked": (faults.locked, 12, 12),
    "clock": (faults.clock, 30, 30),
    **{word: (partial(faults.manners, word), 10, 10) for word in faults.MANNERS},
}
"""Of each part: what runs it, how often in all, how often in one batch."""


def main() -> int:
    """Run what the log does not hold yet; print the table. 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, default=Path("torture.jsonl"))
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    parser.add_argument("--divide", type=int, default=1, help="all numbers by this one")
    arguments = parser.parse_args()
    done = {(row.name, row.batch) for row in kept(arguments.log)}
    for word in arguments.only or PARTS:
        run, times, batch_size = PARTS[word]
        times, batch_size = (max(1, n // arguments.divide) for n in (times, batch_size))
        for batch in range(-(-times // batch_size)):
            if (NAMES[word], batch) in done:
                continue
            row = asyncio.run(run(min(batch_size, times - batch * batch_size), batch))
            keep(row, arguments.log)
            print(row.line(), *row.notes, sep="\n", file=sys.stderr, flush=True)
    rows = kept(arguments.log)
    print(HEADER, *(row.line() for row in summed(rows)), sep="\n", flush=True)
    return 0 if all(row.good for row in rows) else 1


NAMES = {
    "fake": "SIGKILL, fast fake generator",
    "real": "SIGKILL, real generator",
    "crowd": "jobs of 200 users over sockets",
    "pictures": "mutated pictures",
    "hostile": "hostile pictures",
    "disk": "a full disk (database)",
    "files": "a full disk (pictures, steps, videos)",
    "locked": "a locked database",
    "clock": "a clock that jumps",
    **faults.MANNERS,
}

if __name__ == "__main__":
    sys.exit(main())
