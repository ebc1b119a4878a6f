"""The small bot, connected to the playground."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from small_bot import SmallBot, running

from bot.playground import Playground


@pytest.fixture
async def bot(points_at_playground: Playground) -> AsyncIterator[SmallBot]:
    async with running(SmallBot(), points_at_playground.token) as connected:
        await points_at_playground.bot_ready("show")
        yield connected
