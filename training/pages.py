"""The pages in docs/ that a command makes anew while what people wrote on them stays.

Decides: the marks that a measured part lies between. Refuses to know: what was measured.
"""

from __future__ import annotations

from pathlib import Path

START, END = "<!-- table -->", "<!-- end of table -->"


def write_table(page: Path, title: str, table: str) -> None:
    """Put the table between the page's marks; a page without them begins anew with the title."""
    text = page.read_text("utf-8") if page.exists() else ""
    if START not in text or END not in text:
        text = f"# {title}\n\n{START}\n{END}\n"
    before, rest = text.split(START, 1)
    _, after = rest.split(END, 1)
    page.write_text(f"{before}{START}\n{table}\n{END}{after}", encoding="utf-8")
