"""How many requests a route takes, and what the headers say about it.

Decides: the buckets. Refuses to know: what a request does. The counts are those seen in practice;
Discord does not document them and says so ("Rate Limits"). Only the limit on edits of messages
older than an hour (30046) is always on: it is the one that a long job's progress meets.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import msgspec

from bot.playground.state import Clock

OLD = timedelta(hours=1)
OLD_EDIT_INTERVAL_S = 45.0


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """`count` requests in `window_s` seconds."""

    count: int
    window_s: float


RATES = {
    ("POST", "/channels/{channel_id}/messages"): Rate(count=5, window_s=5.0),
    ("PATCH", "/channels/{channel_id}/messages/{message_id}"): Rate(count=5, window_s=5.0),
    ("DELETE", "/channels/{channel_id}/messages/{message_id}"): Rate(count=5, window_s=1.0),
    ("GET", "/channels/{channel_id}/messages"): Rate(count=5, window_s=5.0),
    ("POST", "/webhooks/{webhook_id}/{webhook_token}"): Rate(count=5, window_s=2.0),
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Headers for the answer, and the seconds to wait when the request is refused."""

    headers: dict[str, str] = {}
    wait_s: float | None = None


class RateLimits:
    """The open windows of every bucket: a route and its major parameter."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._old_edits: dict[int, float] = {}

    def take(self, method: str, route: str, major: str) -> Verdict:
        """Count a request. A verdict with `wait_s` means 429."""
        rate = RATES.get((method, route))
        if rate is None:
            return Verdict()
        now = self._clock.now().timestamp()
        used = self._used[method, route, major]
        used[:] = [at for at in used if at > now - rate.window_s]
        reset_s = (used[0] if used else now) + rate.window_s - now
        is_over = len(used) >= rate.count
        if not is_over:
            used.append(now)
        headers = {
            "X-RateLimit-Limit": str(rate.count),
            "X-RateLimit-Remaining": str(rate.count - len(used)),
            "X-RateLimit-Reset": f"{now + reset_s:.3f}",
            "X-RateLimit-Reset-After": f"{reset_s:.3f}",
            "X-RateLimit-Bucket": f"{abs(hash((method, route))):x}",
        }
        return Verdict(headers=headers, wait_s=reset_s if is_over else None)

    def edit_wait(self, message_id: int, age: timedelta) -> float | None:
        """Seconds until a message of this age may be edited; None means now."""
        if age < OLD:
            return None
        now = self._clock.now().timestamp()
        wait_s = self._old_edits.get(message_id, 0.0) + OLD_EDIT_INTERVAL_S - now
        if wait_s > 0:
            return wait_s
        self._old_edits[message_id] = now
        return None
