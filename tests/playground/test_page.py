"""The page's server side: what it refuses, what one user sees, mishaps, and `play` itself."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import psutil
import pytest
from small_bot import PNG_1X1, SmallBot, running

from bot.config import ConfigError
from bot.playground import Playground, Upload, User
from bot.playground.mishaps import MISHAPS
from bot.playground.page import Example, Page
from bot.playground.play import Play, PlayError, _given, _port, furnish

EXAMPLE = Example(file=Path(__file__), prompt="read")


@pytest.fixture
async def page() -> AsyncIterator[Playground]:
    """A playground with the page on it."""
    playground = Playground()
    playground.mount(Page(playground, note="a note", examples=(EXAMPLE,)).add_to)
    async with playground:
        furnish(playground)
        yield playground


class Visitor:
    """A browser without a screen."""

    def __init__(self, playground: Playground, session: aiohttp.ClientSession) -> None:
        self.origin, self.session, self.playground = playground.world.origin, session, playground

    async def do(self, path: str, user: User, fields: object, **files: bytes) -> tuple[int, dict]:
        form = aiohttp.FormData({"fields": json.dumps(fields)}, default_to_multipart=True)
        for name, data in files.items():
            form.add_field(
                f"file:{name}", io.BytesIO(data), filename="dot.png", content_type="image/png"
            )
        address = f"{self.origin}/page/{path}?as={user.id}"
        async with self.session.post(address, data=form) as answer:
            return answer.status, await answer.json()

    async def live(self, user: User) -> aiohttp.ClientWebSocketResponse:
        address = f"{self.origin}/page/live?as={user.id}"
        return await self.session.ws_connect(address, compress=15)  # as browsers offer


@pytest.fixture
async def visitor(page: Playground) -> AsyncIterator[Visitor]:
    async with aiohttp.ClientSession() as session:
        yield Visitor(page, session)


async def news(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict:
    """The next piece of news of this kind."""
    async with asyncio.timeout(10):
        while True:
            for one in msgspec.json.decode(await socket.receive_str()):
                if one["kind"] == kind:
                    return one


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}],
    ids=["host", "origin", "null"],
)
@pytest.mark.parametrize(
    "path", ["/", "/page/static/app.js", "/page/commands?as=1&channel=1", "/page/log"]
)
async def test_pages_are_not_for_foreign_hosts_and_origins(
    visitor: Visitor, path: str, headers: dict[str, str]
) -> None:
    async with visitor.session.get(visitor.origin + path, headers=headers) as answer:
        assert answer.status == 403
        assert "only" in await answer.text()


async def test_the_websocket_and_deeds_are_not_for_foreign_origins(visitor: Visitor) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await visitor.session.ws_connect(f"{visitor.origin}/page/live", headers=headers)
        assert refused.value.status == 403
        address = f"{visitor.origin}/page/mishap/kick?as=1"
        async with visitor.session.post(address, headers=headers) as answer:
            assert answer.status == 403
    assert visitor.playground.world.is_member


async def test_the_page_loads_nothing_from_elsewhere_and_files_can_not_act(
    visitor: Visitor,
) -> None:
    playground = visitor.playground
    for path in ("/", "/page/static/app.js", "/page/static/theme.css"):
        async with visitor.session.get(visitor.origin + path) as answer:
            assert answer.status == 200
            assert (
                "default-src 'none'; script-src 'self'" in answer.headers["Content-Security-Policy"]
            )
            assert "https://" not in (await answer.text()).replace("https://(?", "")
    async with visitor.session.get(f"{visitor.origin}/page/static/..%2fpage.py") as answer:
        assert answer.status == 404
    upload = Upload(filename="x.html", data=b"<script>alert(1)</script>")
    said = await playground.say(playground.ben, playground.pictures, "", [upload])
    async with visitor.session.get(said.attachments[0].url) as answer:
        assert answer.headers["Content-Security-Policy"].startswith("sandbox;")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_everybody_sees_their_own_messages_only(
    visitor: Visitor, points_here: Playground
) -> None:
    playground = visitor.playground
    async with running(SmallBot(), playground.token):
        await playground.bot_ready("show")
        ben, cleo = await visitor.live(playground.ben), await visitor.live(playground.cleo)
        first = await news(ben, "everything")
        assert first["note"] == "a note"
        assert [c["type"] for c in first["place"]["channels"]].count(1) == 1
        place = {"channel_id": str(playground.pictures.id), "command": "show"}
        status, said = await visitor.do("do/slash", playground.ben, place, image=PNG_1X1)
        assert status == 200
        assert (await news(ben, "asked"))["id"] == said["interaction_id"]
        own = (await news(ben, "message"))["message"]
        assert own["content"] == f"{len(PNG_1X1)} bytes, 1x1, 5 s"
        await playground.say(playground.ada, playground.pictures, "for all")
        assert (await news(cleo, "message"))["message"]["content"] == "for all"
        status, said = await visitor.do(
            "do/press", playground.cleo, {"message_id": own["id"], "custom_id": "x"}
        )
        assert (status, said) == (400, {"error": "that message is gone"})


@pytest.fixture
def points_here(page: Playground, monkeypatch: pytest.MonkeyPatch) -> Playground:
    import discord
    import yarl

    monkeypatch.setattr(discord.http.Route, "BASE", page.api_url)
    gateway = yarl.URL(page.gateway_url)
    monkeypatch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
    return page


async def test_a_browser_that_goes_in_the_middle_is_nobodys_error(
    visitor: Visitor, page: Playground
) -> None:
    loop, complaints = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    for number in range(100):
        await page.say(page.ben, page.pictures, f"{number} " + "a long message, " * 100)
    for _ in range(20):
        await (await visitor.live(page.ben)).close()
        await asyncio.sleep(0.02)
    gc.collect()
    assert complaints == []


async def test_wrong_deeds_are_refused_in_one_sentence(visitor: Visitor) -> None:
    playground, ben = visitor.playground, visitor.playground.ben
    place = {"channel_id": str(playground.pictures.id)}
    for path, fields, words in (
        ("do/slash", {**place, "command": "animate"}, "/animate is not offered here"),
        ("do/say", {"channel_id": "1", "text": "x"}, "that channel is gone"),
        ("do/say", {**place}, "the field 'text' is missing"),
        ("do/say", {**place, "text": "x" * 2001}, "Invalid Form Body"),
        ("do/modal", {**place, "interaction_id": "1", "values": {}}, "that form is gone"),
        ("do/fly", {}, "nobody can 'fly' here"),
        ("mishap/none", place, "there is no such mishap"),
        ("bot/restart", {}, "this bot's process was started elsewhere"),
    ):
        assert await visitor.do(path, ben, fields) == (400, {"error": words})
    large = bytes(11 * 2**20)
    status, said = await visitor.do("do/say", ben, {**place, "text": ""}, file=large)
    assert (status, said["error"]) == (
        400,
        "dot.png has 11.0 MiB; a file here may have at most 10 MiB",
    )


async def test_a_mishap_is_told_and_seen_in_the_place(visitor: Visitor) -> None:
    playground = visitor.playground
    live = await visitor.live(playground.ben)
    await news(live, "everything")
    place = {"channel_id": str(playground.pictures.id)}
    status, said = await visitor.do("mishap/forbid", playground.ben, place)
    assert (status, said["told"]) == (200, "The bot may not post in #pictures any more.")
    shown = {c["name"]: c for c in (await news(live, "place"))["place"]["channels"]}
    assert not shown["pictures"]["bot_may_post"]
    assert shown["lounge"]["bot_may_post"]
    await visitor.do("mishap/503", playground.ben, place)
    assert (await news(live, "place"))["place"]["faults"] == ["503"]
    await visitor.do("mishap/hour", playground.ben, place)
    assert (await news(live, "place"))["place"]["ahead_s"] == 3600
    assert len(MISHAPS) >= 25


# -- play ---------------------------------------------------------------------------------------


def test_a_configuration_is_tried_on_the_playground_and_not_on_discord(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[discord]\nguild_ids = [5]\n[generator]\nmodel = "tiny"\n[limits]\nmax_seconds = 8.0\n'
    )
    tables, checked = _given(Play(config=config))
    assert tables["discord"] == {"guild_ids": []}
    assert tables["limits"] == {"max_seconds": 8.0}
    assert checked.generator.model == "tiny"
    assert _given(Play(config=config, model="demo"))[1].generator.model == "demo"
    config.write_text("[limits]\nmax_second = 3\n")
    with pytest.raises(ConfigError, match="max_second"):
        _given(Play(config=config))


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(PlayError, match=f"port {taken} is taken"):
            _port(taken)
    assert _port(0) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once there")
def test_play_serves_the_page_restarts_a_killed_bot_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bot", "play", "--no-browser", "--port", "0"]
    command += ["--model", "tiny"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as play:
        assert play.stdout is not None
        line = next(line for line in play.stdout if "Open" in line)
        origin = line.split()[1].rstrip("/")
        with urllib.request.urlopen(origin, timeout=10) as answer:
            assert b"FramePack playground" in answer.read()
        first = bot_of(play)
        first.kill()
        psutil.wait_procs([first], timeout=10)
        form = b'--x\r\nContent-Disposition: form-data; name="fields"\r\n\r\n{}\r\n--x--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        again = urllib.request.Request(f"{origin}/page/bot/restart", form, headers)
        urllib.request.urlopen(again, timeout=10).close()
        second = bot_of(play)
        assert second.pid != first.pid
        play.send_signal(signal.SIGTERM)
        assert play.wait(30) == 0
        assert "Stopped." in play.stdout.read()
    assert psutil.wait_procs([second], timeout=15)[1] == []
    assert list(tmp_path.glob("framepack-play-*")) == []


def bot_of(play: subprocess.Popen[str]) -> psutil.Process:
    """The bot's process, once it is there."""
    for _ in range(200):
        for child in psutil.Process(play.pid).children():
            if child.status() != psutil.STATUS_ZOMBIE and "run" in child.cmdline():
                return child
        time.sleep(0.05)
    raise AssertionError("no bot was started")
