"""The playground's page: a channel as a person sees it, served beside the REST API.

Decides: the page's routes, what a browser may load (nothing from elsewhere), how requests become
deeds and how news reach a browser. Refuses to know: what a deed does (`hands`), what a user sees
(`view`), how it looks (`static/`). The server itself refuses every foreign Host and Origin, also of
the websocket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import msgspec
from aiohttp import web

from bot.playground.entities import Payload, Upload, User
from bot.playground.errors import ClientRefused
from bot.playground.hands import Deed, Hands
from bot.playground.mishaps import MISHAPS, Scene
from bot.playground.server import Playground
from bot.playground.view import View

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
MAX_FORM_BYTES = 128 * 2**20
HEARTBEAT_S = 20.0
LOG_LINES = 200
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' {socket};"
        " img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A picture to try, and what could happen in it."""

    file: Path
    prompt: str


class Keeper(Protocol):
    """Whoever starts and ends the bot's process."""

    @property
    def state(self) -> str:
        """How the bot is, in a few words; "" while all is well."""

    def restart(self) -> None:
        """End the bot in order and start it again."""

    def kill(self) -> None:
        """End the bot as a power cut does, and start it again."""

    def log_tail(self, lines: int) -> str:
        """The end of the bot's log."""


class Page:
    """The page of one playground. `add_to` is given to `Playground.mount`."""

    def __init__(
        self,
        discord: Playground,
        *,
        note: str = "",
        examples: tuple[Example, ...] = (),
        keeper: Keeper | None = None,
    ) -> None:
        self._discord = discord
        self._note = note
        self._examples = {example.file.name: example for example in examples}
        self._keeper = keeper
        self._sockets: set[web.WebSocketResponse] = set()

    def add_to(self, app: web.Application) -> None:
        """Put the page's routes on the playground's server."""
        router = app.router
        router.add_get("/", self._index)
        router.add_get("/page/static/{name}", self._static)
        router.add_get("/page/examples/{name}", self._example)
        router.add_get("/page/live", self._live)
        router.add_get("/page/commands", self._answering(self._commands))
        router.add_get(r"/page/calls/{number:\d+}", self._call)
        router.add_get("/page/log", self._log)
        router.add_post("/page/do/{verb}", self._answering(self._do))
        router.add_post("/page/mishap/{name}", self._answering(self._mishap))
        router.add_post("/page/bot/{name}", self._answering(self._bot))
        app.on_shutdown.append(self._close)

    # -- what a browser loads ---------------------------------------------------------------

    async def _index(self, request: web.Request) -> web.Response:
        return self._served(request, "index.html")

    async def _static(self, request: web.Request) -> web.Response:
        return self._served(request, request.match_info["name"])

    def _served(self, request: web.Request, name: str) -> web.Response:
        known = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
        if name not in known:
            return web.Response(status=404)
        headers = HEADERS | {"Content-Type": f"{TYPES[known[name].suffix]}; charset=utf-8"}
        policy = HEADERS["Content-Security-Policy"].format(socket=f"ws://{request.host}")
        headers["Content-Security-Policy"] = policy
        return web.Response(body=known[name].read_bytes(), headers=headers)

    async def _example(self, request: web.Request) -> web.StreamResponse:
        example = self._examples.get(request.match_info["name"])
        return web.Response(status=404) if example is None else web.FileResponse(example.file)

    async def _commands(self, request: web.Request) -> list[Payload]:
        view = View(self._discord, self._user(request))
        wanted = request.query.get("channel", "")
        channel = self._discord.world.channels.get(int(wanted)) if wanted.isdigit() else None
        return view.commands(channel) if channel and view.sees(channel) else []

    async def _call(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        if not 0 <= number < len(self._discord.calls):
            return web.Response(status=404)
        return _json(self._discord.calls[number])

    async def _log(self, request: web.Request) -> web.Response:
        text = self._keeper.log_tail(LOG_LINES) if self._keeper else ""
        return web.Response(text=text or "The bot has written nothing yet.")

    # -- what a person does -----------------------------------------------------------------

    def _answering(
        self, act: Callable[[web.Request], Awaitable[Payload | list[Payload]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """`act` with its refusals answered as 400 and a sentence."""

        async def handler(request: web.Request) -> web.Response:
            try:
                return _json(await act(request))
            except ClientRefused as refusal:
                return _json({"error": str(refusal)}, 400)

        return handler

    async def _do(self, request: web.Request) -> Payload:
        hands = Hands(self._discord, self._user(request))
        return await hands.do(request.match_info["verb"], await _deed(request))

    async def _mishap(self, request: web.Request) -> Payload:
        mishap = MISHAPS.get(request.match_info["name"])
        if mishap is None:
            raise ClientRefused("there is no such mishap")
        channels = self._discord.world.channels
        deed = await _deed(request)
        channel = channels.get(int(deed.text("channel_id") or 0))
        if channel is None:
            raise ClientRefused("that channel is gone; open another")
        scene = Scene(discord=self._discord, user=self._user(request), channel=channel)
        told = await mishap.happen(scene)
        self._refresh()
        return {"told": told}

    async def _bot(self, request: web.Request) -> Payload:
        if self._keeper is None:
            raise ClientRefused("this bot's process was started elsewhere")
        name = request.match_info["name"]
        if name not in ("restart", "kill"):
            raise ClientRefused("a bot can be restarted or killed")
        self._keeper.restart() if name == "restart" else self._keeper.kill()
        return {"told": "The bot ends and starts again."}

    def _user(self, request: web.Request) -> User:
        wanted = request.query.get("as", "")
        users = self._discord.world.users
        found = users.get(int(wanted)) if wanted.isdigit() else None
        if found is None or found.bot:
            raise ClientRefused("there is no such person")
        return found

    # -- what reaches a browser -------------------------------------------------------------

    async def _live(self, request: web.Request) -> web.WebSocketResponse:
        """Send everything, then what happens, until the browser goes."""
        try:
            user = self._user(request)
        except ClientRefused:
            user = self._discord.ben
        # Not compressed: aiohttp compresses what is large in a task of its own, and when the
        # browser goes meanwhile nobody is left to be told that it failed.
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            async with asyncio.TaskGroup() as group:
                teller = group.create_task(self._tell(socket, user))
                async for _ in socket:
                    pass  # a browser speaks by POST; this only notices its end
                teller.cancel()
        finally:
            self._sockets.discard(socket)
        return socket

    async def _tell(self, socket: web.WebSocketResponse, user: User) -> None:
        self._discord.world.open_dm(user)
        view = View(self._discord, user)
        state, place = None, view.place() | {"now_ms": 0}
        await _send(socket, [view.everything() | self._about()])
        while not socket.closed:
            news = list(view.news())
            if self._state() != state:
                state = self._state()
                news.append({"kind": "bot", "state": state})
            if (now := view.place() | {"now_ms": 0}) != place:
                place = now
                news.append({"kind": "place", "place": view.place()})
            if news:
                await _send(socket, news)
            else:
                await self._discord.world.journal.changed()

    def _about(self) -> Payload:
        examples = [
            {"name": name, "url": f"/page/examples/{name}", "prompt": example.prompt}
            for name, example in self._examples.items()
        ]
        mishaps = [mishap.shown() for mishap in MISHAPS.values()]
        has_keeper = self._keeper is not None
        return {
            "note": self._note,
            "examples": examples,
            "mishaps": mishaps,
            "has_keeper": has_keeper,
        }

    def _state(self) -> str:
        return self._keeper.state if self._keeper else ""

    def _refresh(self) -> None:
        """Let every browser look at the place again; permissions change without an event."""
        self._discord.world.journal.wake()

    async def _close(self, _: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)


async def _send(socket: web.WebSocketResponse, news: list[Payload]) -> None:
    try:
        await socket.send_str(msgspec.json.encode(news).decode())
    except ConnectionError:
        return


async def _deed(request: web.Request) -> Deed:
    """A form: one part `fields` with JSON, further parts `file:FIELD`. Raises ClientRefused."""
    fields: Any = {}
    files: dict[str, list[Upload]] = {}
    total = 0
    if request.content_type != "multipart/form-data":
        raise ClientRefused("the page sends forms as multipart/form-data")
    async for part in await request.multipart():
        if not isinstance(part, aiohttp.BodyPartReader):
            continue
        data = bytes(await part.read(decode=False))
        total += len(data)
        if total > MAX_FORM_BYTES:
            raise ClientRefused(f"that is more than {MAX_FORM_BYTES >> 20} MiB at once")
        name = part.name or ""
        if name == "fields":
            fields = _decoded(data)
        elif name.startswith("file:"):
            upload = Upload(
                filename=part.filename or "file",
                data=data,
                content_type=part.headers.get("Content-Type"),
            )
            files.setdefault(name.removeprefix("file:"), []).append(upload)
    return Deed(fields=fields if isinstance(fields, dict) else {}, files=files)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ClientRefused(f"the form's JSON can not be read: {error}") from None


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
