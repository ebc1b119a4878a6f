"""What the operator agreed to before weights were downloaded, and that it is kept.

Decides: what is shown, where the answer lies. The project ships no weights; their terms are between
the operator and who made them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from generator.errors import ModelError
from generator.hub import Listing

CONSENT_NAME = "licences.json"
AGREE = "yes"


def ask_consent(
    folder: Path, listings: list[Listing], *, accepted: bool, ask: Callable[[str], str] = input
) -> None:
    """Show each licence not yet agreed to, take the answer, keep it in `licences.json`.

    `accepted` is the answer of a script (`--accept-licences`). Raises ModelError when the answer is
    no, or nobody is there to give one.
    """
    answers = _read(folder)
    new = [each for each in listings if not _agreed(answers, each)]
    if not new:
        return
    for each in new:
        sys.stderr.write(f"{each.source.repository}\n  licence: {each.licence}\n")
        sys.stderr.write(f"  {each.source.terms}\n")
    if not accepted:
        if not sys.stdin.isatty() and ask is input:
            raise ModelError(
                "The licences of these weights must be accepted first; run this in a terminal, or "
                "add --accept-licences once you have read them."
            )
        if ask(f"Do you accept these terms, also for where you are? Type {AGREE}: ") != AGREE:
            raise ModelError("The licences were not accepted, so nothing was downloaded.")
    how = "--accept-licences" if accepted else "typed"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for each in new:
        entry = {"licence": each.licence, "terms": each.source.terms}
        answers[each.source.repository] = {**entry, "accepted": how, "at": now}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (CONSENT_NAME + ".part")
    partial.write_text(json.dumps(answers, indent=1, sort_keys=True), "utf-8")
    partial.replace(folder / CONSENT_NAME)


def _agreed(answers: dict[str, Any], listing: Listing) -> bool:
    """A licence that changed is a new question."""
    answer = answers.get(listing.source.repository)
    words = (listing.licence, listing.source.terms)
    return answer is not None and (answer.get("licence"), answer.get("terms")) == words


def _read(folder: Path) -> dict[str, Any]:
    try:
        answers: dict[str, Any] = json.loads((folder / CONSENT_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return answers
