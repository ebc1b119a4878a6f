"""The way a picture comes: from Discord's own servers only, never too much, and asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from bot.intake import IntakeError, RefusedPicture, attachment_origins, download


class Server:
    """Something like Discord's CDN on a port of its own."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stumbles: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.raw_path)
        if self.stumbles:
            status = self.stumbles.pop(0)
            if status == 0:
                assert request.transport is not None
                request.transport.close()
            return web.Response(status=status or 500)
        match request.path:
            case "/moved":
                raise web.HTTPFound("/picture")
            case "/gone":
                raise web.HTTPNotFound
            case "/endless":
                response = web.StreamResponse()
                await response.prepare(request)
                while True:
                    await response.write(bytes(1000))
            case "/zipped":
                response = web.Response(body=bytes(100_000))
                response.enable_compression(web.ContentCoding.gzip)
                return response
            case _:
                return web.Response(body=b"x" * 5000)


@pytest.fixture
async def cdn(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Server]]:
    monkeypatch.setattr("bot.intake.RETRY_PAUSES_S", (0.01, 0.01))
    server, app = Server(), web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0][:2]
    yield f"http://127.0.0.1:{port}", server
    await runner.cleanup()


async def fetched(url: str, origin: str, max_bytes: int = 10_000) -> bytes:
    async with aiohttp.ClientSession() as session:
        return await download(url, session, attachment_origins(f"{origin}/api/v10"), max_bytes)


async def test_an_attachment_is_downloaded_with_its_signature_untouched(
    cdn: tuple[str, Server],
) -> None:
    origin, server = cdn
    path = "/attachments/1/2/a%20b%2Fc.png?ex=6%2B1&is=a+b&hm=%c3%A4&"
    assert await fetched(origin + path, origin) == b"x" * 5000
    assert server.asked == [path]


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.discordapp.com/a.png",
        "https://cdn.discordapp.com:8443/a.png",
        "https://cdn.discordapp.com.evil.example/a.png",
        "https://cdn.discordapp.com@evil.example/a.png",
        "https://user:pw@cdn.discordapp.com/a.png",
        "https://evil.example/https://cdn.discordapp.com/a.png",
        "https://evilcdn.discordapp.com/a.png",
        "http://127.0.0.1:1/a.png",
        "http://localhost/a.png",
        "//cdn.discordapp.com/a.png",
        "file:///etc/passwd",
        "https://[::1/a.png",
        "",
    ],
)
async def test_nothing_is_fetched_from_elsewhere(cdn: tuple[str, Server], url: str) -> None:
    with pytest.raises(RefusedPicture, match="not on Discord's servers; attach the file itself"):
        await fetched(url, cdn[0])
    assert cdn[1].asked == []


def test_discords_own_servers_are_always_known() -> None:
    own = {"https://cdn.discordapp.com", "https://media.discordapp.net"}
    own |= {f"https://images-ext-{n}.discordapp.net" for n in (1, 2)}
    assert attachment_origins("") == own
    assert attachment_origins("https://proxy.example:443/api") == own | {"https://proxy.example"}


@pytest.mark.parametrize("path", ["/picture", "/endless", "/zipped"])
async def test_no_more_than_the_cap_is_read(cdn: tuple[str, Server], path: str) -> None:
    with pytest.raises(RefusedPicture, match="MiB are accepted"):
        await fetched(cdn[0] + path, cdn[0], max_bytes=4999)


async def test_redirects_are_not_followed(cdn: tuple[str, Server]) -> None:
    with pytest.raises(IntakeError, match="it answered 302"):
        await fetched(f"{cdn[0]}/moved", cdn[0])
    assert cdn[1].asked == ["/moved"]


async def test_an_expired_attachment_is_one_sentence(cdn: tuple[str, Server]) -> None:
    with pytest.raises(IntakeError, match=r"it answered 404\); attach it again"):
        await fetched(f"{cdn[0]}/gone", cdn[0])
    assert len(cdn[1].asked) == 1


async def test_a_server_that_stumbles_is_asked_again(cdn: tuple[str, Server]) -> None:
    cdn[1].stumbles = [503, 0]
    assert await fetched(f"{cdn[0]}/picture", cdn[0]) == b"x" * 5000
    cdn[1].stumbles = [500] * 9
    with pytest.raises(IntakeError, match="try again in a minute"):
        await fetched(f"{cdn[0]}/picture", cdn[0])
    assert len(cdn[1].asked) == 6


async def test_a_server_that_says_nothing_is_given_up(
    cdn: tuple[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.intake.DOWNLOAD_TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    with pytest.raises(IntakeError, match="try again in a minute"):
        await fetched(f"{cdn[0]}/endless", cdn[0], max_bytes=10**12)
