"""The gateway of the playground's Discord: sessions, their events, and resuming them.

Decides: who gets which event, and what a client that comes back has missed. Refuses to know: why an
event happens. Frames are plain JSON text whatever compression the client asks for, which Discord's
clients accept. Source: Discord's API documentation, "Gateway".
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from enum import IntEnum

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from bot.playground import payloads
from bot.playground.entities import EventKind, Payload
from bot.playground.state import Intent, World

HEARTBEAT_INTERVAL_MS = 41_250
REPLAY_EVENTS = 2000
PRIVILEGED = Intent.GUILD_MEMBERS | Intent.GUILD_PRESENCES | Intent.MESSAGE_CONTENT
CLOSE_UNKNOWN, CLOSE_BAD_TOKEN, CLOSE_DISALLOWED_INTENTS = 4000, 4004, 4014
CONTENT_FIELDS: Payload = {"content": "", "embeds": [], "attachments": [], "components": []}


class Op(IntEnum):
    """Gateway opcodes."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11


class Session:
    """What one identified client has been sent; it outlives its connection for a RESUME."""

    def __init__(self, intents: Intent) -> None:
        self.id = secrets.token_hex(16)
        self.intents = intents
        self.sequence = 0
        self.sent: deque[tuple[int, Payload]] = deque(maxlen=REPLAY_EVENTS)
        self.outbox: asyncio.Queue[Payload] | None = None

    def dispatch(self, name: str, data: Payload) -> None:
        """Number an event, keep it for a RESUME, and send it if the client is there."""
        self.sequence += 1
        frame: Payload = {"op": Op.DISPATCH, "t": name, "s": self.sequence, "d": data}
        self.sent.append((self.sequence, frame))
        if self.outbox is not None:
            self.outbox.put_nowait(frame)


class Gateway:
    """All sessions and open connections. `world` is set once it exists."""

    def __init__(self, token: str, allowed_intents: Intent = Intent.NONE) -> None:
        self._token = token
        self._allowed = allowed_intents
        self._sessions: dict[str, Session] = {}
        self._sockets: dict[web.WebSocketResponse, Session | None] = {}
        self._closed_here: set[web.WebSocketResponse] = set()
        self.world: World
        self.identifies = 0
        self.resumes = 0

    @property
    def is_connected(self) -> bool:
        """Whether a client is there that has identified itself."""
        return any(self._sockets.values())

    def send(self, name: str, data: Payload, needs: Intent) -> None:
        """Give an event to every session that has the intent for it."""
        for session in self._sessions.values():
            if needs & session.intents == needs:
                session.dispatch(name, self._visible(session, name, data))

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Close every connection; the sessions stay and can be resumed."""
        for socket in list(self._sockets):
            self._closed_here.add(socket)
            await socket.close(code=code)

    def ask_to_reconnect(self) -> None:
        """Send op 7 to everybody: come back and resume."""
        for session in self._sessions.values():
            if session.outbox is not None:
                session.outbox.put_nowait({"op": Op.RECONNECT, "d": None})

    def forget_sessions(self) -> None:
        """Let no session be resumed: the next RESUME is answered with op 9."""
        self._sessions.clear()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Handle one connection until it ends."""
        socket = web.WebSocketResponse(max_msg_size=0, compress=False)
        await socket.prepare(request)
        outbox: asyncio.Queue[Payload] = asyncio.Queue()
        outbox.put_nowait({"op": Op.HELLO, "d": {"heartbeat_interval": HEARTBEAT_INTERVAL_MS}})
        self._sockets[socket] = None
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(_write(socket, outbox))
                await self._read(socket, outbox)
                writer.cancel()
        finally:
            self._leave(socket, outbox)
        return socket

    async def _read(self, socket: web.WebSocketResponse, outbox: asyncio.Queue[Payload]) -> None:
        async for frame in socket:
            if frame.type is not WSMsgType.TEXT:
                return
            message = msgspec.json.decode(frame.data)
            if message["op"] == Op.HEARTBEAT:
                outbox.put_nowait({"op": Op.HEARTBEAT_ACK, "d": None})
            elif message["op"] == Op.IDENTIFY:
                await self._identify(socket, outbox, message["d"])
            elif message["op"] == Op.RESUME:
                self._resume(socket, outbox, message["d"])

    async def _identify(
        self, socket: web.WebSocketResponse, outbox: asyncio.Queue[Payload], data: Payload
    ) -> None:
        intents = Intent(data.get("intents", 0))
        if data.get("token") != self._token:
            await socket.close(code=CLOSE_BAD_TOKEN, message=b"Authentication failed.")
            return
        if intents & PRIVILEGED & ~self._allowed:
            await socket.close(code=CLOSE_DISALLOWED_INTENTS, message=b"Disallowed intent(s).")
            return
        session = Session(intents)
        session.outbox = outbox
        self._sessions[session.id] = session
        self._sockets[socket] = session
        self.identifies += 1
        self._welcome(session)

    def _welcome(self, session: Session) -> None:
        world = self.world
        guilds = [{"id": str(world.guild.id), "unavailable": True}] if world.is_member else []
        ready: Payload = {
            "v": 10,
            "user": payloads.user(world.bot),
            "guilds": guilds,
            "session_id": session.id,
            "resume_gateway_url": f"{world.origin.replace('http', 'ws', 1)}/gateway",
            "application": {"id": str(world.bot.id), "flags": 0},
        }
        session.dispatch("READY", ready)
        if world.is_member and session.intents & Intent.GUILDS:
            session.dispatch("GUILD_CREATE", payloads.guild(world))
        world.show(EventKind.BOT_ONLINE, user_id=world.bot.id)

    def _resume(
        self, socket: web.WebSocketResponse, outbox: asyncio.Queue[Payload], data: Payload
    ) -> None:
        session = self._sessions.get(data.get("session_id", ""))
        if session is None or data.get("token") != self._token:
            outbox.put_nowait({"op": Op.INVALID_SESSION, "d": False})
            return
        for number, frame in session.sent:
            if number > data["seq"]:
                outbox.put_nowait(frame)
        session.outbox = outbox
        self._sockets[socket] = session
        self.resumes += 1
        session.dispatch("RESUMED", {})
        self.world.show(EventKind.BOT_ONLINE, user_id=self.world.bot.id, text="resumed")

    def _leave(self, socket: web.WebSocketResponse, outbox: asyncio.Queue[Payload]) -> None:
        session = self._sockets.pop(socket)
        if session is not None and session.outbox is outbox:
            session.outbox = None
            is_goodbye = socket.close_code in (WSCloseCode.OK, WSCloseCode.GOING_AWAY)
            if is_goodbye and socket not in self._closed_here:
                self._sessions.pop(session.id, None)
            self.world.show(EventKind.BOT_OFFLINE, user_id=self.world.bot.id)
        self._closed_here.discard(socket)

    def _visible(self, session: Session, name: str, data: Payload) -> Payload:
        """Without the content intent other people's messages arrive empty, but not in a DM."""
        if not name.startswith("MESSAGE_") or "author" not in data or "guild_id" not in data:
            return data
        own = str(self.world.bot.id)
        mentioned = any(user["id"] == own for user in data["mentions"])
        if data["author"]["id"] == own or mentioned or session.intents & Intent.MESSAGE_CONTENT:
            return data
        return data | CONTENT_FIELDS


async def _write(socket: web.WebSocketResponse, outbox: asyncio.Queue[Payload]) -> None:
    while not socket.closed:
        frame = await outbox.get()
        try:
            await socket.send_str(msgspec.json.encode(frame).decode())
        except ConnectionError:
            return
