"""A page keeps what people wrote when its measured part is made anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.pages import write_table


def test_a_table_made_anew_replaces_the_old_one_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_table(page, "Measured", "| 1 |")
    assert page.read_text("utf-8").startswith("# Measured\n")
    page.write_text(page.read_text("utf-8") + "\nWhat falls short: 5 ÷ 2.\n", encoding="utf-8")
    write_table(page, "Another title", "| 2 |")
    text = page.read_text("utf-8")
    assert "# Measured" in text and "What falls short: 5 ÷ 2." in text
    assert "| 2 |" in text and "| 1 |" not in text


@pytest.mark.parametrize("old", ["", "# By hand\n", "<!-- table -->\ncut off"])
def test_a_page_without_both_marks_begins_anew(tmp_path: Path, old: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(old, encoding="utf-8")
    write_table(page, "Measured", "| 1 |")
    assert page.read_text("utf-8").split() == (
        [
            "#",
            "Measured",
            "<!--",
            "table",
            "-->",
            "|",
            "1",
            "|",
            "<!--",
            "end",
            "of",
            "table",
            "-->",
        ]
    )
