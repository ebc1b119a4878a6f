"""`Playground`: a small Discord on 127.0.0.1, and the hands and eyes of the people on it.

Decides: what a test, the demo or a page can do and see in one call each. Refuses to know: how the
bot works; it only meets it over the gateway and REST. An unmodified discord.py client speaks to it
once `Route.BASE` is `api_url` and `DEFAULT_GATEWAY` is `gateway_url`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from aiohttp import web

from bot.playground import payloads, posting
from bot.playground.api import Api
from bot.playground.commands import MESSAGE_MENU, SLASH
from bot.playground.entities import (
    Attachment,
    Channel,
    ChannelKind,
    Event,
    Message,
    Overwrite,
    Payload,
    Role,
    Upload,
    User,
)
from bot.playground.errors import ClientRefused
from bot.playground.faults import Faults
from bot.playground.forms import Form, ModalValue, Value
from bot.playground.gateway import Gateway
from bot.playground.interactions import Asked, Interaction, InteractionKind
from bot.playground.journal import RestCall
from bot.playground.permissions import bits
from bot.playground.posting import Body
from bot.playground.rest import API, Rest
from bot.playground.state import Intent, World

Found = TypeVar("Found")
TOKEN = "playground-token-that-only-works-here"
MAX_REQUEST_BYTES = 512 * 2**20
SHUTDOWN_TIMEOUT_S = 2.0
RESUMABLE_CLOSE = 4000


class Playground:
    """One server with channels, people and one bot, from `async with` on to its end.

    `ada` owns the server, `ben` is a member, `cleo` another; `pictures` and `lounge` are channels,
    `thread` hangs under `pictures`. `faults` injects what goes wrong on the way.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        token: str = TOKEN,
        rate_limits: bool = False,
        allowed_intents: Intent = Intent.NONE,
    ) -> None:
        self.token = token
        self.faults = Faults()
        self.gateway = Gateway(token, allowed_intents)
        self.world = World("", self.gateway.send)
        self.gateway.world = self.world
        self.api = Api(self.world)
        self._port = port
        self._rest = Rest(self.api, self.faults, token, rate_limits=rate_limits)
        self._runner: web.AppRunner | None = None
        self._mounted: list[Callable[[web.Application], None]] = []
        world = self.world
        self.bot = world.bot
        self.ada = world.users[world.guild.owner_id]
        self.ben, self.cleo = world.add_user("ben"), world.add_user("cleo")
        world.join(self.ben)
        world.join(self.cleo)
        self.pictures, self.lounge = world.add_channel("pictures"), world.add_channel("lounge")
        self.thread = world.add_thread(self.pictures, "boats", self.ben)

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._only_this_host], client_max_size=MAX_REQUEST_BYTES)
        app.router.add_get("/gateway", self.gateway.serve)
        for add_to in self._mounted:
            add_to(app)
        self._rest.add_to(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self._port).start()
        self._runner = runner
        self._port = int(runner.addresses[0][1])
        self.world.origin = f"http://127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.api.interactions.close()
        await self.gateway.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def mount(self, add_to: Callable[[web.Application], None]) -> None:
        """Let `add_to` put further routes on this server; only before it runs."""
        self._mounted.append(add_to)

    @web.middleware
    async def _only_this_host(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """Refuse what a page of another origin sends to this port."""
        own = {f"127.0.0.1:{self._port}", f"localhost:{self._port}"}
        origin = request.headers.get("Origin")
        if request.host not in own or (origin and origin.removeprefix("http://") not in own):
            return web.Response(status=403, text="this server answers to 127.0.0.1 only")
        return await handler(request)

    @property
    def api_url(self) -> str:
        """What `[discord] api_url` is set to."""
        return self.world.origin + API

    @property
    def gateway_url(self) -> str:
        """What `[discord] gateway_url` is set to."""
        return self.world.origin.replace("http", "ws", 1) + "/gateway"

    # -- what people do ---------------------------------------------------------------------

    async def slash(
        self,
        user: User,
        channel: Channel,
        name: str,
        options: Mapping[str, Value] | None = None,
        files: Mapping[str, Path | Upload] | None = None,
    ) -> Interaction:
        """Send a slash command, such as `animate` or `admin queue`, and return without waiting.

        Raises ClientRefused for what Discord's client would not send.
        """
        root, *path = name.split()
        uploads = {key: _upload(file) for key, file in (files or {}).items()}
        command = self.api.commands.find(root, SLASH, user, self._now(channel))
        data = Form(self.world).command(command, path, {**(options or {}), **uploads})
        return self._send(InteractionKind.COMMAND, user, channel, data, name)

    async def autocomplete(
        self, user: User, channel: Channel, name: str, focused: str, options: Mapping[str, Value]
    ) -> Interaction:
        """Ask for the choices of the option `focused`, whose text so far is in `options`."""
        root, *path = name.split()
        command = self.api.commands.find(root, SLASH, user, self._now(channel))
        data = Form(self.world).command(command, path, options, focused)
        return self._send(InteractionKind.AUTOCOMPLETE, user, channel, data, name)

    async def message_command(self, user: User, message: Message, name: str) -> Interaction:
        """Use an entry of a message's menu."""
        channel = self.world.channels[message.channel_id]
        command = self.api.commands.find(name, MESSAGE_MENU, user, channel)
        data = Form(self.world).message_menu(command, self._seen(message, user))
        return self._send(InteractionKind.COMMAND, user, channel, data, name)

    async def press(
        self, message: Message, custom_id: str, user: User, values: Iterable[Value] = ()
    ) -> Interaction:
        """Press a button, or choose `values` in a select, of the message as it stands now."""
        current = self._seen(message, user)
        channel = self.world.channels[current.channel_id]
        data = Form(self.world).control(current, custom_id, values)
        asked = Asked(
            kind=InteractionKind.COMPONENT, user=user, channel=channel, data=data, message=current
        )
        return self.api.interactions.send(asked)

    async def submit_modal(
        self, shown_by: Interaction, values: Mapping[str, ModalValue]
    ) -> Interaction:
        """Fill in and send the modal with which the bot answered an interaction."""
        if shown_by.modal is None:
            raise ClientRefused("that interaction was not answered with a modal")
        asked = shown_by.asked
        data = Form(self.world).modal(shown_by.modal, values)
        return self.api.interactions.send(
            msgspec.structs.replace(asked, kind=InteractionKind.MODAL_SUBMIT, data=data)
        )

    async def say(
        self,
        user: User,
        channel: Channel,
        text: str = "",
        files: Iterable[Path | Upload] = (),
        **more: Any,
    ) -> Message:
        """Post a message as a person; `more` is what else it has, such as a link's `embeds`."""
        uploads = {number: _upload(file) for number, file in enumerate(files)}
        body = Body(payload={"content": text} | more, uploads=uploads)
        return posting.post(self.world, channel, user, body)

    async def forward(self, user: User, message: Message, channel: Channel) -> Message:
        """Forward a message to a channel as a person does."""
        return posting.forward(self.world, channel, user, self._seen(message, user))

    def _send(
        self, kind: InteractionKind, user: User, channel: Channel, data: Payload, name: str
    ) -> Interaction:
        asked = Asked(
            kind=kind, user=user, channel=self._now(channel), data=data, command_name=name
        )
        return self.api.interactions.send(asked)

    def _now(self, channel: Channel) -> Channel:
        if channel.id not in self.world.channels:
            raise ClientRefused(f"#{channel.name} is gone")
        return self.world.channels[channel.id]

    def _seen(self, message: Message, user: User) -> Message:
        current = self.world.messages.get(message.id)
        if current is None or current.ephemeral_for not in (None, user.id):
            raise ClientRefused(f"{user.name} sees no such message")
        return current

    # -- what people see --------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """Everything seen so far, oldest first."""
        return self.world.journal.events

    @property
    def calls(self) -> list[RestCall]:
        """Every REST request so far, oldest first."""
        return self.world.journal.calls

    def messages(self, channel: Channel) -> list[Message]:
        """What everybody sees in a channel now, oldest first."""
        return list(self.world.messages_in(channel.id))

    def file(self, attachment: Attachment) -> bytes:
        """What a person gets who downloads this attachment."""
        return self.world.files[attachment.id]

    async def wait_for(
        self, wanted: Callable[[Event], bool], timeout_s: float = 10.0, *, start: int = 0
    ) -> Event:
        """The first event, counted from number `start`, that is wanted. Raises TimeoutError."""
        return await self.world.journal.until(
            lambda: next((event for event in self.events[start:] if wanted(event)), None), timeout_s
        )

    async def until(self, look: Callable[[], Found | None], timeout_s: float = 10.0) -> Found:
        """The first truthy value of `look`, asked again after each change. Raises TimeoutError."""
        return await self.world.journal.until(look, timeout_s)

    def watch(self, start: int = 0) -> AsyncIterator[Event]:
        """Every event from number `start` on, without end."""
        return self.world.journal.watch(start)

    async def bot_ready(self, *commands: str, timeout_s: float = 20.0) -> None:
        """Wait until the bot is on the gateway and has registered these commands."""

        def is_ready() -> bool:
            names = {command["name"] for command in self.api.commands.usable()}
            return self.gateway.is_connected and names.issuperset(commands)

        await self.world.journal.until(is_ready, timeout_s)

    # -- what befalls the bot ---------------------------------------------------------------

    def add_channel(
        self, name: str, kind: ChannelKind = ChannelKind.TEXT, *, nsfw: bool = False
    ) -> Channel:
        """A new channel of the server."""
        return self.world.add_channel(name, kind, nsfw=nsfw)

    def add_role(self, name: str, permissions: str = "") -> Role:
        """A new role: names of discord.py, separated by spaces. `world.join` gives it to a user."""
        world = self.world
        role = Role(id=world.new_id(), name=name, permissions=bits(*permissions.split()))
        world.guild = msgspec.structs.replace(world.guild, roles=(*world.guild.roles, role))
        created = next(r for r in payloads.guild(world)["roles"] if r["id"] == str(role.id))
        event = {"guild_id": str(world.guild.id), "role": created}
        self.gateway.send("GUILD_ROLE_CREATE", event, Intent.GUILDS)
        return role

    def permit(
        self, channel: Channel, who: User | Role, *, allow: str = "", deny: str = ""
    ) -> None:
        """Set a member's or role's overwrite in a channel: discord.py's names, with spaces."""
        overwrite = Overwrite(
            target_id=who.id,
            is_member=isinstance(who, User),
            allow=bits(*allow.split()),
            deny=bits(*deny.split()),
        )
        current = self._now(channel)
        others = tuple(o for o in current.overwrites if o.target_id != who.id)
        self.world.change_channel(msgspec.structs.replace(current, overwrites=(*others, overwrite)))

    def archive(self, thread: Channel) -> None:
        """Archive a thread, as inactivity does."""
        self.world.change_channel(msgspec.structs.replace(self._now(thread), archived=True))

    def delete_message(self, message: Message) -> None:
        """Let a moderator delete a message."""
        posting.delete(self.world, message)

    def purge(self, channel: Channel) -> int:
        """Let a moderator delete everything in a channel at once; how many messages that were."""
        return posting.delete_all(self.world, channel)

    def delete_channel(self, channel: Channel) -> None:
        """Delete a channel or thread with everything in it."""
        self.world.delete_channel(channel)

    def close_dms(self, user: User, *, closed: bool = True) -> None:
        """Let a user refuse the bot's direct messages, or take them again."""
        self.world.users[user.id] = msgspec.structs.replace(user, dms_open=not closed)

    def set_boost_tier(self, tier: int) -> None:
        """Set the server's boost tier, 0 to 3, and with it the upload limit."""
        self.world.guild = msgspec.structs.replace(self.world.guild, premium_tier=tier)

    def kick_bot(self) -> None:
        """Remove the bot from the server."""
        self.world.is_member = False
        self.gateway.send("GUILD_DELETE", {"id": str(self.world.guild.id)}, Intent.GUILDS)

    def invite_bot(self) -> None:
        """Bring the bot back to the server."""
        self.world.is_member = True
        self.gateway.send("GUILD_CREATE", payloads.guild(self.world), Intent.GUILDS)

    def server_outage(self) -> None:
        """Make the server unavailable, as in an outage; `invite_bot` ends it."""
        lost = {"id": str(self.world.guild.id), "unavailable": True}
        self.gateway.send("GUILD_DELETE", lost, Intent.GUILDS)

    def turn_clock_forward(self, seconds: float) -> None:
        """Let this much time pass at once on the playground: tokens die, messages get old."""
        self.world.clock.turn_forward(seconds)

    def deliver_next_twice(self) -> None:
        """Let the next interaction reach the bot twice, as after a RESUME."""
        self.api.interactions.deliveries_of_next = 2

    async def drop_gateway(self, *, resumable: bool = True) -> None:
        """Close the bot's gateway connection; when not resumable its session is forgotten too."""
        if not resumable:
            self.gateway.forget_sessions()
        await self.gateway.close(RESUMABLE_CLOSE)


def _upload(file: Path | Upload) -> Upload:
    return Upload.read(file) if isinstance(file, Path) else file
