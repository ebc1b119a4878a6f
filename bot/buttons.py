"""The buttons under a status message, which work for as long as the message exists.

Decides: which actions there are, how a button looks and names its job. Refuses to know: who may
press it and what happens then; a press is handed on to the client.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol, Self, cast

import discord

from bot.texts import Text, say


class Action(StrEnum):
    """What a button does to its job. The values are in messages on Discord: never change them."""

    CANCEL = "cancel"
    AGAIN = "again"
    EDIT = "edit"
    FINAL = "final"
    DELETE = "delete"
    FINISH = "finish"
    STOP = "stop"


LABELS = {
    Action.CANCEL: Text.CANCEL_BUTTON,
    Action.AGAIN: Text.AGAIN_BUTTON,
    Action.EDIT: Text.EDIT_BUTTON,
    Action.FINAL: Text.FINAL_BUTTON,
    Action.DELETE: Text.DELETE_BUTTON,
    Action.FINISH: Text.FINISH_BUTTON,
    Action.STOP: Text.STOP_BUTTON,
}
STYLES = {
    Action.CANCEL: discord.ButtonStyle.danger,
    Action.FINAL: discord.ButtonStyle.primary,
    Action.DELETE: discord.ButtonStyle.danger,
    Action.FINISH: discord.ButtonStyle.primary,
    Action.STOP: discord.ButtonStyle.danger,
}


class TakesPresses(Protocol):
    """The client, as far as a button needs it."""

    async def pressed(
        self, interaction: discord.Interaction, action: Action, job_id: str
    ) -> None: ...


class JobButton(
    discord.ui.DynamicItem[discord.ui.Button[Any]],
    template=rf"framepack:(?P<action>{'|'.join(Action)}):(?P<job>[a-z2-7]{{10}})",
):
    """Does one thing to one job, also after a restart: both are in the button's own id."""

    def __init__(self, action: Action, job_id: str) -> None:
        super().__init__(
            discord.ui.Button(
                label=say(LABELS[action]),
                style=STYLES.get(action, discord.ButtonStyle.secondary),
                custom_id=f"framepack:{action}:{job_id}",
            )
        )
        self.action, self.job_id = action, job_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction, item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """The button that was pressed."""
        return cls(Action(match["action"]), match["job"])

    async def callback(self, interaction: discord.Interaction) -> None:
        """Hand the press to the client."""
        client = cast(TakesPresses, interaction.client)
        await client.pressed(interaction, self.action, self.job_id)


def to_view(actions: Sequence[Action], job_id: str) -> discord.ui.View | None:
    """The buttons of a job, None when it has none. Nothing waits on the view: it has no timeout."""
    if not actions:
        return None
    view = discord.ui.View(timeout=None)
    for action in actions:
        view.add_item(JobButton(action, job_id))
    return view
