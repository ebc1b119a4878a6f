"""Who may do what where on the playground's Discord.

Decides: a member's permissions in a channel from roles and overwrites, and the upload limit.
Refuses to know: which request asks. Source: Discord's API documentation, "Permissions" (the
algorithm under "Permission Overwrites") and discord.py's names of the bits.
"""

from __future__ import annotations

import discord

from bot.playground.entities import Channel, ChannelKind, Guild, Overwrite

MIB = 2**20
UPLOAD_LIMIT_BYTES = {0: 10 * MIB, 1: 10 * MIB, 2: 50 * MIB, 3: 100 * MIB}
"""Largest file by the server's boost tier."""

ALL = discord.Permissions.all().value
IN_DIRECT_MESSAGES = discord.Permissions(
    view_channel=True,
    send_messages=True,
    embed_links=True,
    attach_files=True,
    read_message_history=True,
).value


def bits(*names: str) -> int:
    """The permissions with these names of discord.py. Raises TypeError for an unknown name."""
    return discord.Permissions(**dict.fromkeys(names, True)).value


def permissions_in(guild: Guild, channel: Channel, user_id: int) -> int:
    """What a user may do in a channel, as permission bits; threads inherit from their parent.

    `channel` is the one that carries the overwrites: a thread's parent for a thread.
    """
    if channel.kind is ChannelKind.DM:
        return IN_DIRECT_MESSAGES
    if user_id == guild.owner_id:
        return ALL
    if user_id not in guild.members:
        return 0
    base = permissions_of(guild, user_id)
    if base & bits("administrator"):
        return ALL
    return _apply(base, channel.overwrites, guild, user_id)


def permissions_of(guild: Guild, user_id: int) -> int:
    """What a member may do on the server, before any channel's overwrites."""
    role_ids = {guild.id, *guild.members.get(user_id, ())}
    granted = 0
    for role in guild.roles:
        if role.id in role_ids:
            granted |= role.permissions
    return granted


def _apply(base: int, overwrites: tuple[Overwrite, ...], guild: Guild, user_id: int) -> int:
    role_ids = set(guild.members[user_id])
    everyone = [o for o in overwrites if o.target_id == guild.id]
    by_role = [o for o in overwrites if not o.is_member and o.target_id in role_ids]
    by_member = [o for o in overwrites if o.is_member and o.target_id == user_id]
    for group in (everyone, by_role, by_member):
        denied = allowed = 0
        for overwrite in group:
            denied |= overwrite.deny
            allowed |= overwrite.allow
        base = base & ~denied | allowed
    return base
