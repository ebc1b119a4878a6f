"""The project's own small Discord on 127.0.0.1: what `demo` runs on and what the tests break."""

from bot.playground.entities import (
    Attachment,
    Channel,
    ChannelKind,
    Event,
    EventKind,
    Message,
    Upload,
    User,
)
from bot.playground.errors import ClientRefused
from bot.playground.faults import Fault
from bot.playground.interactions import Interaction
from bot.playground.reading import controls, find_control, plain_text
from bot.playground.server import Playground

__all__ = [
    "Attachment",
    "Channel",
    "ChannelKind",
    "ClientRefused",
    "Event",
    "EventKind",
    "Fault",
    "Interaction",
    "Message",
    "Playground",
    "Upload",
    "User",
    "controls",
    "find_control",
    "plain_text",
]
