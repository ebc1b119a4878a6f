"""What the playground's log of REST calls says about the bot's edits of its messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from bot.playground.journal import RestCall

LOOKS = ("content", "embeds", "components")


class EditLog(msgspec.Struct, frozen=True, kw_only=True):
    """How many edits there were, how many began while another edit of the same message had no
    answer yet, and how many changed nothing that people see."""

    count: int
    overlapping: int
    idle: int


def read_edits(calls: Sequence[RestCall]) -> EditLog:
    """Look through every post and edit in a channel, in the order in which they began."""
    shown: dict[str, Any] = {}
    free_at: dict[str, float] = defaultdict(float)
    count = overlapping = idle = 0
    for call in sorted(calls, key=lambda call: call.at):
        if not call.path.startswith("/channels/") or not isinstance(call.body, dict):
            continue
        looks = {name: call.body.get(name) for name in LOOKS}
        if call.method == "POST" and isinstance(call.answer, dict):
            shown[f"{call.path}/{call.answer.get('id')}"] = looks
        elif call.method == "PATCH":
            began_s = call.at.timestamp()
            count += 1
            overlapping += began_s < free_at[call.path]
            idle += shown.get(call.path) == looks and not call.files
            shown[call.path] = looks
            free_at[call.path] = began_s + call.duration_s
    return EditLog(count=count, overlapping=overlapping, idle=idle)
