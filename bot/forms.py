"""What the forms share: their fields, and numbers as people type them.

Decides: how a field looks, which numbers are understood. Refuses to know: any one form.
"""

from __future__ import annotations

from typing import Any

import discord

from bot.speech import listen
from bot.texts import Text, say

FORM_TIMEOUT_S = 900.0
"""As long as Discord keeps an interaction alive."""


class Form(discord.ui.Modal):
    """A form that speaks to whoever fills it in."""

    async def interaction_check(self, interaction: discord.Interaction[Any], /) -> bool:
        """Have the answer in the asker's language."""
        listen(interaction.locale.value)
        return True


def text_field(
    name: str, value: str, longest: int, *, required: bool = True, is_long: bool = False
) -> discord.ui.TextInput[Any]:
    """A field that holds `value` at first."""
    return discord.ui.TextInput(
        custom_id=name,
        default=value or None,
        max_length=longest,
        required=required,
        style=discord.TextStyle.paragraph if is_long else discord.TextStyle.short,
    )


def number(typed: str, kind: type[int] | type[float]) -> int | float:
    """The number that somebody typed; a decimal comma counts too. ValueError is for the asker."""
    try:
        return kind(typed.strip().replace(",", "."))
    except ValueError:
        raise ValueError(say(Text.NO_NUMBER, typed=typed[:20])) from None
