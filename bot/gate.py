"""Who may have a video made, of what, how often: checked before anything is downloaded.

Decides: in which order rules are asked, what each refusal says: which limit, its value, and when it
frees up. Refuses to know: how rules are changed (`bot.admin`) and stored. A server's rule counts
before the config's, a person's before the server's.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import discord
import msgspec

from bot.desk import Desk
from bot.orders import Refusal
from bot.texts import Text, say
from generator.protocol import JobRequest
from storage.community import Rules, Standing, Switch

DAY = timedelta(days=1)


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What still has to be kept for somebody who was let in."""

    max_waiting: int
    priority: int
    weight: float


async def admit(desk: Desk, interaction: discord.Interaction[Any], request: JobRequest) -> Admitted:
    """Let a wish in, or raise the Refusal that says why not."""
    guild_id, user_id = interaction.guild_id, interaction.user.id
    if Switch.DRAINING in await desk.community.switches():
        raise Refusal(say(Text.GATE_DRAINING))
    rules = await desk.community.rules(guild_id)
    standing = await desk.community.standing(guild_id, user_id)
    if standing.banned:
        raise Refusal(say(Text.GATE_BANNED, reason=standing.reason or say(Text.GATE_NO_REASON)))
    _check_place(interaction, rules)
    _check_roles(interaction, rules)
    blocked = (*desk.config.limits.blocked_words, *rules.blocked)
    if is_blocked(f"{request.prompt}\n{request.negative_prompt}", blocked):
        raise Refusal(say(Text.GATE_BLOCKED))
    if rules.max_seconds is not None and request.seconds > rules.max_seconds:
        raise Refusal(say(Text.SECONDS_LONG, seconds=request.seconds, limit=rules.max_seconds))
    await _check_day(desk, interaction, rules, standing)
    waiting = (standing.max_waiting, rules.max_waiting, desk.config.limits.max_waiting_per_user)
    return Admitted(
        max_waiting=next(limit for limit in waiting if limit is not None),
        priority=standing.priority,
        weight=desk.config.turns.weight_of(_roles_of(interaction)),
    )


def is_blocked(text: str, words: Sequence[str]) -> bool:
    """Whether one of these words or phrases stands in the text, whatever its case and letters."""
    plain = _folded(text)
    return any(re.search(rf"(?<!\w){re.escape(_folded(word))}(?!\w)", plain) for word in words)


def _folded(text: str) -> str:
    """The text without case, accents, look-alike forms and invisible characters."""
    decomposed = unicodedata.normalize("NFKD", text)
    kept = (c for c in decomposed if unicodedata.category(c) not in ("Mn", "Cf"))
    return " ".join("".join(kept).casefold().split())


def _check_place(interaction: discord.Interaction[Any], rules: Rules) -> None:
    channel = interaction.channel
    parent_id = getattr(channel, "parent_id", None)
    places = {interaction.channel_id, parent_id}
    if rules.channels and not places & set(rules.channels):
        names = " ".join(f"<#{channel_id}>" for channel_id in rules.channels)
        raise Refusal(say(Text.GATE_CHANNELS, names=names))
    if rules.nsfw_only and not _is_nsfw(channel):
        raise Refusal(say(Text.GATE_NSFW))


def _is_nsfw(channel: Any) -> bool:
    ask = getattr(channel, "is_nsfw", None)
    return bool(ask and ask())


def _check_roles(interaction: discord.Interaction[Any], rules: Rules) -> None:
    if not rules.roles:
        return
    if not _roles_of(interaction) & set(rules.roles):
        names = " ".join(f"<@&{role_id}>" for role_id in rules.roles)
        raise Refusal(say(Text.GATE_ROLES, names=names))


def _roles_of(interaction: discord.Interaction[Any]) -> set[int]:
    """Nobody has roles in direct messages."""
    return {role.id for role in getattr(interaction.user, "roles", [])}


async def _check_day(
    desk: Desk, interaction: discord.Interaction[Any], rules: Rules, standing: Standing
) -> None:
    usual = desk.config.limits.max_per_day or None
    limits = (standing.max_per_day, rules.max_per_day, usual)
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is None:
        return
    counted = await desk.community.counted_today(interaction.user.id, interaction.guild_id)
    if len(counted) < limit:
        return
    if limit == 0:
        raise Refusal(say(Text.GATE_NONE_A_DAY))
    frees_up = counted[len(counted) - limit] + DAY
    raise Refusal(
        say(
            Text.GATE_DAY,
            count=len(counted),
            limit=limit,
            when=f"<t:{round(frees_up.timestamp())}:R>",
        )
    )
