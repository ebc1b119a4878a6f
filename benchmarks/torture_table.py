"""What the parts of the torture tell: rows, the file that keeps them, the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec


class Row(msgspec.Struct, kw_only=True):
    """One batch of one line of the table. Of what is no job, `jobs` are those things."""

    name: str
    batch: int = 0
    tried: int = 0
    jobs: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    seconds: float = 0.0
    remarks: dict[str, int] = {}
    notes: list[str] = []

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, every byte equal."""
        return self.jobs > 0 and not (self.lost or self.duplicated or self.different)

    def line(self) -> str:
        """The row in Markdown."""
        survived, equal = self.jobs - self.lost, self.jobs - self.lost - self.different
        remarks = ", ".join(f"{count:,} {words}" for words, count in self.remarks.items())
        return (
            f"| {self.name} | {self.tried:,} | {self.jobs:,} | {survived:,} | {self.lost} "
            f"| {self.duplicated} | {equal:,} | {self.seconds:.0f} s | {remarks} |"
        )


HEADER = (
    "| what | tried | jobs | survived | lost | duplicated | bytes equal | took | of these |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def keep(row: Row, file: Path) -> None:
    """Append the row, so that a run that is broken off has told what it did."""
    with file.open("ab") as stream:
        stream.write(msgspec.json.encode(row) + b"\n")


def kept(file: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not file.exists():
        return []
    return [msgspec.json.decode(line, type=Row) for line in file.read_bytes().splitlines()]


def summed(rows: Iterable[Row]) -> Iterator[Row]:
    """The batches of each line as one row, in the order of their first ones."""
    found: dict[str, Row] = {}
    for row in rows:
        total = found.setdefault(row.name, Row(name=row.name, remarks={}, notes=[]))
        for name in ("tried", "jobs", "lost", "duplicated", "different", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(row, name))
        for words, count in row.remarks.items():
            total.remarks[words] = total.remarks.get(words, 0) + count
        total.notes += row.notes
    yield from found.values()
