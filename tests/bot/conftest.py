"""Fixtures of the bot's command tests, which run on simcord."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import simcord
from live import Live
from simcord_scene import GivenPicture, NoBackend, Scene

from bot import publisher
from bot.client import Client
from bot.config import AdminsConfig, Config, Limits, StorageConfig
from bot.delivery import Delivery
from bot.desk import Desk
from bot.dispatcher import Dispatcher
from bot.notices import Notices
from bot.playground import Playground
from bot.posts import DiscordPosts
from bot.publisher import Publisher
from storage.community import Community
from storage.jobs import JobStore


@pytest.fixture
def live(points_at_playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    """A bot over real sockets that edits its messages ten times as often as Discord allows."""
    monkeypatch.setattr(publisher, "EDIT_GAP_S", 0.5)
    monkeypatch.setattr(publisher, "QUIET_GAP_S", 0.1)
    return Live(points_at_playground, tmp_path)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[JobStore]:
    async with await JobStore.open(tmp_path / "bot.sqlite3") as opened:
        yield opened


@pytest.fixture
async def community(tmp_path: Path) -> AsyncIterator[Community]:
    async with await Community.open(tmp_path / "bot.sqlite3") as opened:
        yield opened


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        admins=AdminsConfig(),
        storage=StorageConfig(data_dir=tmp_path),
        limits=Limits(
            max_seconds=10,
            max_waiting_per_user=2,
            max_prompt_chars=150,
            blocked_words=("forbidden",),
        ),
    )


@pytest.fixture
def simcord_bot(
    config: Config, store: JobStore, community: Community, tmp_path: Path
) -> Iterator[Client]:
    client, jobs_dir = Client(config), tmp_path / "jobs"
    posts = DiscordPosts(client)
    publisher = Publisher(posts, store, jobs_dir)
    delivery = Delivery(posts, store, publisher, jobs_dir)
    backend, notices = NoBackend(), Notices(posts, store)
    client.desk = Desk(
        config=config,
        store=store,
        community=community,
        orders=GivenPicture(config, store, None, None, jobs_dir),  # type: ignore[arg-type]
        posts=posts,
        publisher=publisher,
        dispatcher=Dispatcher(store, backend, publisher, delivery, notices, jobs_dir),  # type: ignore[arg-type]
        delivery=delivery,
        backend=backend,  # type: ignore[arg-type]
    )
    yield client


@pytest.fixture
def scene(simcord_env: simcord.Env) -> Scene:
    return Scene(simcord_env)
