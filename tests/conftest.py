"""Fixtures that several rooms' tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import discord
import pytest
import yarl
from discord_openapi import problems

from bot.playground import Playground

SLOW_TIMEOUT_S = 600
"""A slow test has more than the others' two minutes: on a busy machine it needs several times its
own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


@pytest.fixture
async def playground() -> AsyncIterator[Playground]:
    """A running playground; at the end every REST body it got must be as Discord documents it."""
    async with Playground() as running:
        yield running
    wrong = [text for c in running.calls for text in problems(c.method, c.route, c.body)]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def points_at_playground(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> Playground:
    """The playground, with this process's discord.py pointed at it."""
    monkeypatch.setattr(discord.http.Route, "BASE", playground.api_url)
    gateway = yarl.URL(playground.gateway_url)
    monkeypatch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
    return playground
