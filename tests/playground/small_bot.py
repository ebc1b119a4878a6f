"""A bot of a few lines, so that the playground is tested through the unmodified discord.py."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import discord
from discord import app_commands

PNG_1X1 = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080200000090775"
    "3de0000000c49444154789c63606060000000040001f61738550000000049454e44ae426082"
)


def file(name: str, data: bytes = PNG_1X1) -> discord.File:
    return discord.File(io.BytesIO(data), name)


class Ask(discord.ui.Modal, title="More"):
    """One text and one file."""

    text = discord.ui.Label(text="Text", component=discord.ui.TextInput(custom_id="text"))
    picture = discord.ui.Label(
        text="Picture", component=discord.ui.FileUpload(custom_id="picture", required=False)
    )

    async def on_submit(self, interaction: discord.Interaction) -> None:
        names = [file.filename for file in self.picture.component.values]
        answer = f"got {self.text.component.value!r} and {names}"
        await interaction.response.send_message(answer, ephemeral=True)


class Buttons(discord.ui.View):
    """A button for each kind of answer to a component."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(label="Update", custom_id="update")
    async def update(self, interaction: discord.Interaction, _: discord.ui.Button) -> None:
        await interaction.response.edit_message(content="updated")

    @discord.ui.button(label="Later", custom_id="later")
    async def later(self, interaction: discord.Interaction, _: discord.ui.Button) -> None:
        await interaction.response.defer()
        await interaction.edit_original_response(content="updated later")

    @discord.ui.button(label="Ask", custom_id="ask")
    async def ask(self, interaction: discord.Interaction, _: discord.ui.Button) -> None:
        await interaction.response.send_modal(Ask())

    @discord.ui.button(label="Off", custom_id="off", disabled=True)
    async def off(self, interaction: discord.Interaction, _: discord.ui.Button) -> None:
        raise AssertionError("a disabled button cannot be pressed")


class SmallBot(discord.Client):
    """Registers its commands and remembers what discord.py told it."""

    def __init__(self, **options: object) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)
        super().__init__(intents=intents, guild_ready_timeout=0.05, **options)
        self.tree = app_commands.CommandTree(self)
        self.seen: list[str] = []
        self._news = asyncio.Event()
        self.interactions: list[discord.Interaction] = []
        self.errors: list[Exception] = []
        self.tree.on_error = self._keep_error
        add_commands(self)

    async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
        """Do not wait 5 s before a second IDENTIFY, as discord.py does for Discord's sake."""

    async def setup_hook(self) -> None:
        self.add_view(Buttons())
        await self.tree.sync()

    async def until(self, look: Callable[[], object], timeout_s: float = 5.0) -> None:
        """Wait until `look` is true; it is asked again whenever discord.py reported something."""
        async with asyncio.timeout(timeout_s):
            while not look():
                self._news.clear()
                await self._news.wait()

    async def until_seen(self, event: str) -> None:
        await self.until(lambda: event in self.seen)

    def _note(self, event: str) -> None:
        self.seen.append(event)
        self._news.set()

    async def _keep_error(self, _: discord.Interaction, error: Exception) -> None:
        self.errors.append(error)
        self._news.set()

    async def on_interaction(self, interaction: discord.Interaction) -> None:
        self.interactions.append(interaction)

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        self._note(f"deleted {event.message_id}")

    async def on_raw_bulk_message_delete(self, event: discord.RawBulkMessageDeleteEvent) -> None:
        self._note(f"purged {len(event.message_ids)}")

    async def on_guild_role_create(self, role: discord.Role) -> None:
        self._note(f"role {role.name}")

    async def on_guild_channel_delete(self, channel: discord.abc.GuildChannel) -> None:
        self._note(f"channel gone {channel.id}")

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        self._note(f"kicked from {guild.id}")

    async def on_guild_unavailable(self, guild: discord.Guild) -> None:
        self._note(f"outage of {guild.id}")

    async def on_guild_available(self, guild: discord.Guild) -> None:
        self._note("server back")

    async def on_message(self, message: discord.Message) -> None:
        self._note(f"message {message.content!r} {len(message.attachments)}")

    async def on_resumed(self) -> None:
        self._note("resumed")


def add_commands(bot: SmallBot) -> None:
    @bot.tree.command(name="show", description="Show a picture again")
    async def show(
        interaction: discord.Interaction,
        image: discord.Attachment,
        seconds: app_commands.Range[float, 0.1, 20.0] = 5.0,
    ) -> None:
        data = await image.read()
        text = f"{len(data)} bytes, {image.width}x{image.height}, {seconds:g} s"
        await interaction.response.send_message(text, ephemeral=True)

    @bot.tree.command(name="later", description="Answer later")
    async def later(interaction: discord.Interaction) -> None:
        await interaction.response.defer(ephemeral=True, thinking=True)
        await interaction.followup.send("done", ephemeral=True)

    @bot.tree.command(name="colour", description="Choose a colour")
    async def colour(interaction: discord.Interaction, name: str) -> None:
        await interaction.response.send_message(name, view=Buttons())

    @colour.autocomplete("name")
    async def names(_: discord.Interaction, text: str) -> list[app_commands.Choice[str]]:
        known = ["red", "green", "grey"]
        return [app_commands.Choice(name=n, value=n) for n in known if n.startswith(text)]

    @bot.tree.context_menu(name="Look at this")
    async def look(interaction: discord.Interaction, message: discord.Message) -> None:
        text = f"{message.content!r} with {len(message.attachments)} files"
        await interaction.response.send_message(text, ephemeral=True)

    group = app_commands.Group(
        name="admin",
        description="For admins",
        default_permissions=discord.Permissions(manage_guild=True),
    )

    @group.command(name="queue", description="The queue")
    async def queue(interaction: discord.Interaction) -> None:
        await interaction.response.send_message("empty", ephemeral=True)

    bot.tree.add_command(group)


@asynccontextmanager
async def running(bot: SmallBot, token: str) -> AsyncIterator[SmallBot]:
    """The bot logged in and reading events until the block ends."""
    async with asyncio.TaskGroup() as group, bot:
        await bot.login(token)
        connected = group.create_task(bot.connect())
        yield bot
        await bot.close()
        await connected
