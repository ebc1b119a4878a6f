"""Rules and quotas: what is refused before anything is downloaded, and what the refusal says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from simcord_scene import Scene, jobs, make_job

from bot.config import Config
from bot.gate import is_blocked
from bot.turns import TurnsConfig
from generator.protocol import ErrorKind
from storage.community import Community, Rules, Standing, Switch
from storage.jobs import JobStore


@pytest.mark.parametrize(
    ("text", "blocked"),
    [
        ("a GORE scene", True),
        ("göre", True),
        ("g\u200bore", True),
        ("ｇｏｒｅ", True),
        ("red  paint everywhere", True),
        ("gorey details", False),
        ("a cat", False),
    ],
)
def test_blocked_words_are_found_whatever_their_form(text: str, blocked: bool) -> None:
    assert is_blocked(text, ("gore", "red paint")) == blocked


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Rules(blocked=("cat",)), "holds a word that is not allowed here"),
        (Rules(channels=(1,)), "I work only in <#1>"),
        (Rules(roles=(2,)), "I work only for <@&2>"),
        (Rules(nsfw_only=True), "only in age-restricted channels"),
        (Rules(max_seconds=2), "You asked for 5 seconds; here at most 2 are allowed"),
        (Rules(max_per_day=0), "no videos made on this server"),
        (Rules(max_waiting=0), "0 is the most one person may have"),
    ],
)
async def test_each_rule_of_a_server_says_what_it_is(
    scene: Scene, store: JobStore, community: Community, rules: Rules, words: str
) -> None:
    await community.save_rules(scene.guild.id, rules)
    result = await scene.animate()
    assert words in result.response.content
    assert result.ephemeral
    assert await jobs(store) == []


async def test_rules_that_are_kept_let_one_in(
    scene: Scene, store: JobStore, community: Community
) -> None:
    role = scene.guild.create_role("artists")
    scene.ben = scene.guild.add_member(scene.env.create_user("dora"), roles=[role])
    rules = Rules(channels=(scene.channel.id,), roles=(role.id,), max_per_day=1, max_waiting=1)
    await community.save_rules(scene.guild.id, rules)
    await scene.animate()
    assert len(await jobs(store)) == 1


async def test_a_day_has_so_many_videos_and_failures_do_not_count(
    scene: Scene, store: JobStore, community: Community
) -> None:
    await community.save_rules(scene.guild.id, Rules(max_per_day=1))
    for number in range(2):
        job = await make_job(store, scene, "a cat" + "!" * number)
        await store.claim_next()
        if number == 0:
            await store.fail(job.id, ErrorKind.MEMORY, "too big")
        else:
            await store.finish(job.id, "a.mp4")
    frees_up = round((job.created_at + timedelta(days=1)).timestamp())
    result = await scene.animate()
    assert result.response.content == (
        "You have had 1 videos made in the last 24 hours, and 1 is the most here. "
        f"The next is possible <t:{frees_up}:R>."
    )
    assert abs(frees_up - datetime.now(UTC).timestamp() - 86400) < 60


async def test_a_person_may_have_more_less_or_nothing(
    scene: Scene, store: JobStore, community: Community
) -> None:
    guild_id, user_id = scene.guild.id, scene.ben.id
    await community.save_standing(guild_id, user_id, Standing(banned=True, reason="spam"))
    result = await scene.animate()
    assert "You may not use me on this server (spam)" in result.response.content
    await community.save_standing(guild_id, user_id, Standing(max_waiting=3, priority=4))
    for _ in range(3):
        await scene.animate()
    assert [job.priority for job in await jobs(store)] == [4, 4, 4]


async def test_while_draining_nothing_new_is_taken(
    scene: Scene, store: JobStore, community: Community
) -> None:
    await community.turn(Switch.DRAINING, on=True)
    result = await scene.animate()
    assert "I take no new jobs at the moment" in result.response.content
    assert await jobs(store) == []


async def test_the_configs_words_count_everywhere(scene: Scene, store: JobStore) -> None:
    result = await scene.animate(negative="Forbidden things")
    assert "holds a word that is not allowed here" in result.response.content
    assert await jobs(store) == []


async def test_a_roles_weight_is_on_the_job(scene: Scene, store: JobStore, config: Config) -> None:
    roles = [scene.guild.create_role(name) for name in ("patrons", "founders", "others")]
    weights = ((roles[0].id, 2.0), (roles[1].id, 3.5), (1, 9.0))
    msgspec.structs.force_setattr(config, "turns", TurnsConfig(role_weights=weights))
    dora = scene.guild.add_member(scene.env.create_user("dora"), roles=roles)
    await scene.animate(dora)
    await scene.animate()
    assert [job.weight for job in await jobs(store)] == [3.5, 1.0]
