"""The table of texts as discord.py's translator: commands in the language of whoever looks at them.

Decides: what of a command is translated: descriptions, choices, what options are called, the menu's
entry. A command's own name is the same everywhere, for people tell it each other. Refuses to know:
which commands there are. Source: discord.py's documentation of `app_commands.Translator`.
"""

from __future__ import annotations

import discord
from discord import app_commands
from discord.app_commands import TranslationContextLocation, locale_str

from bot.speech import ENGLISH, Table, languages, say, speaking


def said(text: Table, **values: object) -> locale_str:
    """The text in English for the registration of a command, ready to be translated."""
    with speaking(ENGLISH):
        return locale_str(say(text, **values), text=text, values=values)


class Translator(app_commands.Translator):
    """Answers discord.py's questions at command sync from the table; None leaves the English."""

    async def translate(
        self,
        string: locale_str,
        locale: discord.Locale,
        context: app_commands.TranslationContextTypes,
    ) -> str | None:
        """The string in this locale's language, if there is such a table."""
        language = languages().get(locale.value)
        if language is None:
            return None
        if (text := string.extras.get("text")) is not None:
            with speaking(language):
                return say(text, **string.extras["values"])
        if context.location is TranslationContextLocation.parameter_name:
            return language.options.get(string.message)
        return None
