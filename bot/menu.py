"""The entry "Animate this image" in a message's menu, and the form that it opens.

Decides: which picture of a message is meant, what the form asks. Refuses to know: how a wish is
taken. The form also takes further pictures, which the command has options for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import discord
from discord import app_commands

from bot.animate import IMAGE, animate, with_preset
from bot.desk import Desk, stumbled
from bot.forms import FORM_TIMEOUT_S, Form, number, text_field
from bot.options import REFERENCES, reference_files
from bot.orders import Asked, Refusal
from bot.replies import Reply
from bot.texts import Text, say
from bot.translator import said
from bot.views import SMALL_PICTURE

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".heic", ".avif", ".bmp")


def menu_command(desk: Desk) -> app_commands.ContextMenu:
    """The menu's entry as discord.py registers it."""

    async def callback(interaction: discord.Interaction[Any], message: discord.Message) -> None:
        picture = picture_in(message)
        if picture is None:
            why = Text.LINK_NO_PICTURE if "://" in message.content else Text.MENU_NO_PICTURE
            await Reply(interaction, desk.posts).answer(say(why))
            return
        await interaction.response.send_modal(MenuForm(desk, picture))

    return app_commands.ContextMenu(name=said(Text.MENU), callback=callback)


def picture_in(message: discord.Message) -> str | None:
    """The address of a message's first picture: attached, forwarded, in a bot's layout, or shown
    from a link; None where Discord shows none, for the bot asks no other server.

    What it really is, intake finds out. The little picture of a status message is none: the job
    has a button for that.
    """
    parts: list[discord.Message | discord.MessageSnapshot] = [message, *message.message_snapshots]
    for part in parts:
        for attachment in part.attachments:
            kind = attachment.content_type or ""
            name = attachment.filename.lower()
            is_picture = kind.startswith("image/") or name.endswith(PICTURE_ENDINGS)
            if is_picture and name != SMALL_PICTURE:
                return attachment.url
        for shown in _copies(part):
            if not shown.partition("?")[0].endswith(SMALL_PICTURE):
                return shown
    return None


def _copies(part: discord.Message | discord.MessageSnapshot) -> Iterator[str]:
    """Discord's own copies of the pictures that embeds and layouts show."""
    for embed in part.embeds:
        if shown := embed.image.proxy_url or embed.thumbnail.proxy_url:
            yield shown
    for media in _media(part.components):
        if media.proxy_url and not (media.content_type or "").startswith("video/"):
            yield media.proxy_url


def _media(components: Iterable[object]) -> Iterator[discord.UnfurledMediaItem]:
    for part in components:
        match part:
            case discord.Container():
                yield from _media(part.children)
            case discord.SectionComponent():
                yield from _media([part.accessory])
            case discord.ThumbnailComponent():
                yield part.media
            case discord.MediaGalleryComponent():
                yield from (item.media for item in part.items)


class MenuForm(Form):
    """What should happen in a picture that is there already."""

    def __init__(self, desk: Desk, picture_url: str) -> None:
        super().__init__(title=say(Text.MENU), timeout=FORM_TIMEOUT_S)
        self._desk, self._picture_url = desk, picture_url
        defaults, limits = desk.config.defaults, desk.config.limits
        self._prompt = text_field("prompt", "", limits.max_prompt_chars, is_long=True)
        self._seconds = text_field("seconds", f"{defaults.seconds:g}", 10)
        self._preset = text_field("preset", "", 32, required=False)
        self._references = discord.ui.FileUpload[Any](
            custom_id="references", required=False, min_values=0, max_values=REFERENCES
        )
        self.add_item(discord.ui.Label(text=say(Text.EDIT_PROMPT), component=self._prompt))
        self.add_item(discord.ui.Label(text=say(Text.EDIT_SECONDS), component=self._seconds))
        self.add_item(discord.ui.Label(text=say(Text.MENU_PRESET), component=self._preset))
        self.add_item(discord.ui.Label(text=say(Text.MENU_REFERENCES), component=self._references))

    async def on_submit(self, interaction: discord.Interaction[Any], /) -> None:
        """The form becomes a wish."""
        settings: dict[str, Any] = {}
        pictures: dict[str, str | Path] = {IMAGE: self._picture_url}
        try:
            if self._preset.value.strip():
                preset = await with_preset(self._desk, interaction, self._preset.value)
                settings |= preset.settings
            settings["seconds"] = number(self._seconds.value, float)
        except (Refusal, ValueError) as refusal:
            await Reply(interaction, self._desk.posts).answer(str(refusal))
            return
        references = reference_files(self._references.values)
        if references:
            settings["references"] = tuple(references)
        asked = Asked(prompt=self._prompt.value, settings=settings)
        await animate(self._desk, interaction, asked, pictures | references)

    async def on_error(  # type: ignore[override]  # as discord.ui.Modal has it
        self, interaction: discord.Interaction[Any], error: Exception, /
    ) -> None:
        """As for a command."""
        await stumbled(self._desk, interaction, error)
