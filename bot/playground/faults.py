"""What goes wrong on purpose.

Decides: which requests meet a fault, how often, and what the bot then sees. Refuses to know: what
the request was for. A pattern such as `PATCH /channels/*/messages/*` is compared with the method
and path, `*` standing for anything.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from bot.playground.entities import Payload


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to go wrong. With neither `status` nor `drop` it only delays.

    `times` requests meet it after the first `skip` were let through; None means every one.
    `applied` lets the request take effect first, so that only its answer is lost.
    """

    pattern: str
    status: int | None = None
    code: int = 0
    message: str = ""
    times: int | None = 1
    skip: int = 0
    latency_s: float = 0.0
    retry_after_s: float = 0.5
    is_global: bool = False
    drop: bool = False
    applied: bool = False

    @property
    def name(self) -> str:
        """How the log calls this fault."""
        if self.drop:
            return "connection dropped"
        if self.status is None:
            return f"{self.latency_s:g} s late"
        return f"{self.status}/{self.code}" if self.code else str(self.status)

    def headers(self) -> dict[str, str]:
        """The headers of the refusal. Without `Via` discord.py takes a 429 for Cloudflare's."""
        if self.status != 429:
            return {}
        return {"Via": "1.1 google", "Retry-After": f"{self.retry_after_s:g}"}

    def body(self) -> Payload:
        """The JSON of the refusal."""
        body: Payload = {"message": self.message or f"{self.status}: injected", "code": self.code}
        if self.status == 429:
            body |= {"retry_after": self.retry_after_s, "global": self.is_global}
        return body


class Faults:
    """The faults that are waiting for a request. The oldest that matches is met first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    @property
    def waiting(self) -> tuple[Fault, ...]:
        """Those that no request has met yet, oldest first."""
        return tuple(self._waiting)

    def inject(self, pattern: str, status: int | None = None, **details: object) -> Fault:
        """Let requests that match `pattern` fail. `details` are the fields of `Fault`."""
        fault = msgspec.convert({"pattern": pattern, "status": status, **details}, Fault)
        self._waiting.append(fault)
        return fault

    def too_large(self, pattern: str = "* /channels/*/messages*", times: int = 1) -> Fault:
        """413/40005, as for a file over the upload limit."""
        return self.inject(
            pattern, 413, code=40005, message="Request entity too large", times=times
        )

    def blocked_by_automod(self, pattern: str = "POST /channels/*/messages") -> Fault:
        """400/200000, as for a text that a moderation rule blocks."""
        text = "Message was blocked by automatic moderation"
        return self.inject(pattern, 400, code=200000, message=text)

    def clear(self) -> None:
        """Let everything go well from now on."""
        self._waiting.clear()

    def meet(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, counted down; None when it goes well."""
        for place, fault in enumerate(self._waiting):
            if not fnmatchcase(f"{method} {path}", fault.pattern):
                continue
            if fault.skip > 0:
                self._waiting[place] = msgspec.structs.replace(fault, skip=fault.skip - 1)
                continue
            if fault.times == 1:
                del self._waiting[place]
            elif fault.times is not None:
                self._waiting[place] = msgspec.structs.replace(fault, times=fault.times - 1)
            return fault
        return None
