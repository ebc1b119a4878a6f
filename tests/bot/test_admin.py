"""/admin: who may, what it does, that it is written down."""

from __future__ import annotations

from typing import Any

import discord
import msgspec
import pytest
import simcord
from simcord_scene import NoBackend, Scene, jobs

from bot.admin_commands import admin_group
from bot.client import Client
from bot.config import Config
from generator.protocol import ErrorKind
from storage.community import Community, Rules, Switch
from storage.jobs import JobState, JobStore


class Bureau(Scene):
    """A scene with ada, who manages the server and is named in the config."""

    def __init__(self, env: simcord.Env, config: Config) -> None:
        super().__init__(env)
        self.boss = self.guild.create_role(
            "boss", permissions=discord.Permissions(manage_guild=True)
        )
        self.ada = self.guild.add_member(env.create_user("ada"), roles=[self.boss])
        msgspec.structs.force_setattr(config.admins, "user_ids", (self.ada.id,))

    async def admin(self, verb: str, who: Any = None, **options: Any) -> str:
        result = await (who or self.ada).slash(self.channel, f"admin {verb}", **options)
        assert result.ephemeral
        return str(result.response.content)


@pytest.fixture
def bureau(simcord_env: simcord.Env, config: Config) -> Bureau:
    return Bureau(simcord_env, config)


async def test_who_is_not_named_may_not_though_discord_offers_it(
    simcord_env: simcord.Env, bureau: Bureau, community: Community
) -> None:
    manager = bureau.guild.add_member(simcord_env.create_user("max"), roles=[bureau.boss])
    assert "named in my configuration" in await bureau.admin("queue pause", manager)
    assert await community.switches() == set()
    assert await community.audit(bureau.guild.id, 9) == []


async def test_a_role_of_the_configuration_counts_too(
    simcord_env: simcord.Env, bureau: Bureau, config: Config, community: Community
) -> None:
    msgspec.structs.force_setattr(config.admins, "user_ids", ())
    msgspec.structs.force_setattr(config.admins, "role_ids", (bureau.boss.id,))
    assert "paused" in await bureau.admin("queue pause")


async def test_pause_drain_and_resume_are_written_down_and_told(
    bureau: Bureau, community: Community
) -> None:
    log = bureau.guild.create_text_channel("log")
    await bureau.admin("limits set", log_channel=log)
    assert await bureau.admin("queue pause", reason="a new **GPU**") == "The queue is: paused."
    assert "draining, paused" in await bureau.admin("queue drain")
    assert await community.switches() == {Switch.PAUSED, Switch.DRAINING}
    assert "open and running" in await bureau.admin("queue resume")
    rows = await community.audit(bureau.guild.id, 9)
    actions = [row.action for row in reversed(rows)]
    assert actions == ["limits set", "queue pause", "queue drain", "queue resume"]
    assert rows[-2].reason == "a new **GPU**"
    assert rows[-2].actor_id == bureau.ada.id
    told = [message.content for message in log.history()]
    assert any("**queue pause**" in text and r"\*\*GPU\*\*" in text for text in told)
    assert "queue drain" in await bureau.admin("audit")


async def test_jobs_are_moved_removed_retried_and_cleared(bureau: Bureau, store: JobStore) -> None:
    await bureau.animate()
    await bureau.animate()
    await bureau.animate(bureau.cleo)
    first, second, third = [job.id for job in await jobs(store)]
    assert await bureau.admin("queue move", job=third) == f"Job `{third}` is at place 1 now."
    assert [job.id for job in await store.waiting()] == [third, first, second]
    await bureau.admin("queue move", job=second, place=2)
    assert [job.id for job in await store.waiting()] == [third, second, first]
    assert second in await bureau.admin("queue list")
    assert f"Cancelled `{first}`" in await bureau.admin("queue remove", job=first)
    assert [job.id for job in await store.to_notice()] == [first]
    assert "is already over" in await bureau.admin("queue remove", job=first)
    assert "back in the queue" in await bureau.admin("queue retry", job=first)
    assert await store.to_notice() == []
    assert "is for what failed, was" in await bureau.admin("queue retry", job=first)
    await bureau.animate(bureau.ada)
    assert await bureau.admin("queue clear") == "Cancelled 4 waiting jobs."
    assert {job.id for job in await store.to_notice()} == {first, second, third}
    assert await store.waiting() == []
    assert "does not wait (cancelled)" in await bureau.admin("queue move", job=first)
    assert "I know no job" in await bureau.admin("queue move", job="nothing")


async def test_a_ban_cancels_and_refuses_and_ends(bureau: Bureau, store: JobStore) -> None:
    await bureau.animate()
    answer = await bureau.admin("user ban", user=bureau.ben, reason="spam")
    assert "**banned** (spam)" in answer
    assert [job.state for job in await jobs(store)] == [JobState.CANCELLED]
    refused = await bureau.animate()
    assert "You may not use me on this server (spam)" in refused.response.content
    assert "banned" not in await bureau.admin("user unban", user=bureau.ben)
    await bureau.animate()
    listed = await bureau.admin("user jobs", user=bureau.ben)
    assert "waiting" in listed and "cancelled" in listed


async def test_quota_and_priority_of_one_person(bureau: Bureau, store: JobStore) -> None:
    await bureau.admin("user quota", user=bureau.ben, waiting=1, per_day=5)
    answer = await bureau.admin("user priority", user=bureau.ben, level=3)
    assert "waiting: 1 · per day: 5 · priority 3" in answer
    await bureau.animate()
    refused = await bureau.animate()
    assert "1 is the most one person may have" in refused.response.content
    assert [job.priority for job in await jobs(store)] == [3]


async def test_limits_are_set_listed_twice_taken_away_and_reset(
    bureau: Bureau, community: Community
) -> None:
    shown = await bureau.admin("limits show")
    assert "waiting and running: 2" in shown and "seconds: 10" in shown
    role = bureau.guild.create_role("artists")
    await bureau.admin("limits set", seconds=4, role=role, block="gore", channel=bureau.channel)
    rules = await community.rules(bureau.guild.id)
    assert rules == Rules(
        max_seconds=4, roles=(role.id,), blocked=("gore",), channels=(bureau.channel.id,)
    )
    await bureau.admin("limits set", role=role, block="gore")
    rules = await community.rules(bureau.guild.id)
    assert (rules.roles, rules.blocked, rules.max_seconds) == ((), (), 4)
    await bureau.admin("limits reset")
    assert await community.rules(bureau.guild.id) == Rules()


def test_forums_can_be_named_as_places_too(simcord_bot: Client) -> None:
    group = admin_group(simcord_bot.desk)
    [limits] = [o for o in group.to_dict(simcord_bot.tree)["options"] if o["name"] == "limits"]
    [change] = [option for option in limits["options"] if option["name"] == "set"]
    [channel] = [option for option in change["options"] if option["name"] == "channel"]
    assert channel["channel_types"] == [0, 5, 15]


async def test_the_generator_is_unloaded_and_restarted(
    bureau: Bureau, store: JobStore, simcord_bot: Client, community: Community
) -> None:
    backend: Any = simcord_bot.desk.backend
    assert isinstance(backend, NoBackend)
    assert "does not run" in await bureau.admin("generator status")
    backend.trouble = "the model folder has no vae"
    answer = await bureau.admin("generator status")
    assert "does not start: the model folder has no vae. Mend that" in answer
    backend.starting = True
    assert "just starting" in await bureau.admin("generator unload")
    assert "just starting" in await bureau.admin("generator restart")
    assert (backend.unloaded, backend.closed) == (0, 0)
    backend.starting = False
    assert "gives its memory back;" in await bureau.admin("generator unload")
    await bureau.animate()
    await store.claim_next()
    assert "when the running job's turn is over" in await bureau.admin("generator unload")
    assert (backend.unloaded, backend.closed) == (2, 0)
    assert "has been restarted" in await bureau.admin("generator restart", reason="stuck")
    assert backend.closed == 1
    rows = await community.audit(bureau.guild.id, 9)
    actions = ["generator restart", "generator unload", "generator unload"]
    assert [row.action for row in rows] == actions


async def test_the_preferred_model_is_told_changed_and_stays(
    bureau: Bureau, store: JobStore, community: Community
) -> None:
    assert await bureau.admin("generator variant") == "Loaded: none. Preferred: i2v."
    assert await community.audit(bureau.guild.id, 9) == []
    answer = await bureau.admin("generator variant", name="f1", reason="livelier")
    assert answer == "Loaded: none. Preferred: f1."
    [row] = await community.audit(bureau.guild.id, 9)
    assert (row.action, row.target, row.reason) == ("generator variant", "f1", "livelier")
    await bureau.animate()
    await bureau.animate(model="i2v")
    assert [job.request.variant for job in await jobs(store)] == ["f1", "i2v"]
    await bureau.ben.slash(bureau.channel, "presets save", name="mine")
    [preset] = await community.presets(bureau.ben.id, None)
    assert preset.settings == {"variant": "i2v"}


async def test_a_pause_gives_the_generators_memory_back(
    bureau: Bureau, simcord_bot: Client
) -> None:
    backend: Any = simcord_bot.desk.backend
    await bureau.admin("queue pause")
    assert backend.unloaded == 1
    await bureau.admin("queue resume")
    assert backend.unloaded == 1


async def test_figures(bureau: Bureau, store: JobStore) -> None:
    await bureau.animate()
    [job] = await jobs(store)
    await store.claim_next()
    await store.fail(job.id, ErrorKind.MEMORY, "too big")
    text = await bureau.admin("stats", days=7)
    assert "The last 7 days. Jobs: failed: 1" in text
    assert "There was not enough memory: 1" in text
