"""The HTTP side of the playground's Discord: REST over a real socket, and the CDN.

Decides: how bytes become calls and replies, in which order log, faults, token and limits apply.
Refuses to know: what a route does. Two of Discord's habits matter to discord.py: the content type
is exactly `application/json`, and a 429 carries a `Via` header.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from bot.playground import errors
from bot.playground.api import (
    MESSAGE,
    NEEDS_NO_TOKEN,
    ROUTES,
    Api,
    Call,
    Handler,
    edit_wait_s,
    major_parameter,
    rate_limited,
)
from bot.playground.entities import Upload
from bot.playground.faults import Fault, Faults
from bot.playground.journal import RestCall
from bot.playground.limits import RateLimits
from bot.playground.posting import Body

API = "/api/v10"
FILE_PART = re.compile(r"^files\[(\d+)\]$")
BYTE_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
NO_SCRIPTS = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
"""With every file: what people upload shares an origin with the page, and must not act there."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back: status, headers, JSON. Status 0 means a dropped connection."""

    status: int
    headers: dict[str, str] = {}
    json: Any = None
    fault: str = ""


class Rest:
    """Serves every route of `ROUTES` and the files."""

    def __init__(self, api: Api, faults: Faults, token: str, *, rate_limits: bool) -> None:
        self._api = api
        self._faults = faults
        self._token = token
        self._limits: RateLimits | None = api.limits if rate_limits else None

    def add_to(self, app: web.Application) -> None:
        """Register the routes, fixed paths before patterns."""
        for method, route in sorted(ROUTES, key=lambda key: key[1].count("{")):
            app.router.add_route(method, API + route, self._handle)
        app.router.add_get("/attachments/{channel_id}/{file_id}/{name}", self._file)
        app.router.add_get("/ephemeral-attachments/{app_id}/{file_id}/{name}", self._file)
        app.router.add_route("*", API + "/{rest:.*}", self._handle)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one request and record it."""
        started, at = time.perf_counter(), self._api.world.clock.now()
        resource = request.match_info.route.resource
        route = resource.canonical.removeprefix(API) if resource is not None else ""
        call = await _parse(request)
        answer = await self._answer(request, route, call)
        self._api.world.journal.record(
            RestCall(
                at=at,
                method=request.method,
                path=request.path.removeprefix(API),
                route=route,
                query=call.query,
                body=call.json,
                files=tuple((u.filename, len(u.data)) for u in call.body.uploads.values()),
                status=answer.status,
                answer=answer.json,
                duration_s=time.perf_counter() - started,
                fault=answer.fault,
            )
        )
        if answer.status == 0 and request.transport is not None:
            request.transport.close()
        return _response(answer)

    async def _answer(self, request: web.Request, route: str, call: Call) -> Answer:
        fault = self._faults.meet(request.method, request.path.removeprefix(API))
        if fault is not None and fault.latency_s:
            await asyncio.sleep(fault.latency_s)
        if fault is None or (fault.status is None and not fault.drop):
            answer = self._serve(request, route, call)
            return msgspec.structs.replace(answer, fault=fault.name if fault else "")
        if fault.applied:
            self._serve(request, route, call)
        return _faulty(fault)

    def _serve(self, request: web.Request, route: str, call: Call) -> Answer:
        """Token, limits, then the route itself."""
        handler = ROUTES.get((request.method, route))
        try:
            if handler is None:
                raise errors.not_found()
            given = request.headers.get("Authorization")
            if route not in NEEDS_NO_TOKEN and given != f"Bot {self._token}":
                raise errors.unauthorized()
            return self._limited(request.method, route, call, handler)
        except errors.ApiError as error:
            return Answer(status=error.status, json=error.body)

    def _limited(self, method: str, route: str, call: Call, handler: Handler) -> Answer:
        headers: dict[str, str] = {}
        if self._limits is not None:
            verdict = self._limits.take(method, route, major_parameter(call.params))
            headers = verdict.headers
            if verdict.wait_s is not None:
                return _too_many(verdict.wait_s, headers | {"X-RateLimit-Scope": "user"})
        if (method, route) == ("PATCH", MESSAGE) and (wait_s := edit_wait_s(self._api, call)):
            return _too_many(wait_s, headers | {"X-RateLimit-Scope": "shared"}, code=30046)
        reply = handler(self._api, call)
        return Answer(status=reply.status, headers=headers, json=reply.json)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """One file of the CDN, whole or the range that a video player asks for."""
        data = self._api.world.files.get(int(request.match_info["file_id"]))
        fault = self._faults.meet("GET", request.path)
        if fault is not None:
            await asyncio.sleep(fault.latency_s)
            if fault.drop and request.transport is not None:
                request.transport.close()
            if fault.drop or fault.status is not None:
                return web.Response(status=fault.status or 500)
        expires_s = int(request.query.get("ex") or "7fffffff", 16)
        if data is None or expires_s < self._api.world.clock.now().timestamp():
            return web.Response(status=404, text="This content is no longer available.")
        kind = self._api.world.attachments[int(request.match_info["file_id"])].content_type
        wanted = BYTE_RANGE.match(request.headers.get("Range", ""))
        headers = {"Content-Type": kind, "Accept-Ranges": "bytes"} | NO_SCRIPTS
        if wanted is None or int(wanted[1]) >= len(data):
            return web.Response(body=data, headers=headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return web.Response(status=206, body=data[first : last + 1], headers=headers)


async def _parse(request: web.Request) -> Call:
    """The request's JSON and files, whichever of its two forms it has."""
    uploads: dict[int, Upload] = {}
    content: Any = None
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            if not isinstance(part, aiohttp.BodyPartReader):
                continue
            data = bytes(await part.read(decode=False))
            found = FILE_PART.match(part.name or "")
            if found:
                uploads[int(found[1])] = Upload(filename=part.filename or "file", data=data)
            elif part.name == "payload_json":
                content = msgspec.json.decode(data)
    elif request.can_read_body:
        content = msgspec.json.decode(await request.read())
    payload = content if isinstance(content, dict) else {}
    return Call(
        params=dict(request.match_info),
        query=dict(request.query),
        json=content,
        body=Body(payload=payload, uploads=uploads),
    )


def _faulty(fault: Fault) -> Answer:
    if fault.drop or fault.status is None:
        return Answer(status=0, fault=fault.name)
    return Answer(status=fault.status, headers=fault.headers(), json=fault.body(), fault=fault.name)


def _too_many(wait_s: float, headers: dict[str, str], code: int = 0) -> Answer:
    own = {"Via": "1.1 google", "Retry-After": f"{wait_s:.3f}"}
    return Answer(status=429, headers=headers | own, json=rate_limited(wait_s, code))


def _response(answer: Answer) -> web.Response:
    if answer.json is None:
        return web.Response(status=answer.status or 204, headers=answer.headers)
    headers = answer.headers | {"Content-Type": "application/json"}
    return web.Response(
        status=answer.status, headers=headers, body=msgspec.json.encode(answer.json)
    )
