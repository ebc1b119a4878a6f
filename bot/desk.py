"""What every command works with, and what happens when one of them stumbles.

Decides: the parts that commands, buttons and forms share. Refuses to know: what any of them does.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

import discord
import msgspec

from bot.backend import LocalBackend
from bot.config import Config
from bot.delivery import Delivery
from bot.dispatcher import Dispatcher
from bot.orders import Orders
from bot.posts import Posts
from bot.publisher import Publisher
from bot.replies import Reply
from bot.texts import Text, say
from generator.protocol import Variant
from storage.community import Community
from storage.jobs import JobStore

log = logging.getLogger(__name__)


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """What the commands work with."""

    config: Config
    store: JobStore
    community: Community
    orders: Orders
    posts: Posts
    publisher: Publisher
    dispatcher: Dispatcher
    delivery: Delivery
    backend: LocalBackend


PREFERRED = "variant"


async def preferred_variant(desk: Desk) -> Variant:
    """The model of a job that names none: what an admin chose, else the config."""
    chosen = await desk.community.preference(PREFERRED)
    return next((v for v in Variant if v == chosen), desk.config.generator.variant)


async def stumbled(desk: Desk, interaction: discord.Interaction[Any], error: BaseException) -> None:
    """An error that nobody foresaw: the asker gets a number, the log the number and the trace."""
    error_id = secrets.token_hex(4)
    log.error("error %s in interaction %d", error_id, interaction.id, exc_info=error)
    reply = Reply(interaction, desk.posts, answered=interaction.response.is_done())
    await reply.refuse(say(Text.INTERNAL, error_id=error_id))
