"""Commands about jobs that are there: list, show, cancel all, forget."""

from __future__ import annotations

from pathlib import Path

import discord
import pytest
from simcord_scene import Scene, jobs

from bot.client import Client
from generator.protocol import job_request
from storage.community import Community, Preset, Scope
from storage.jobs import JobState, JobStore, NewJob, new_job_id


async def test_cancel_all_cancels_all_of_ones_own(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    await scene.animate()
    await scene.animate(scene.cleo)
    choices = await scene.ben.autocomplete(scene.channel, "cancel", "job", "")
    assert choices[-1] == {"name": "All 2 of them", "value": "all"}
    await scene.ben.slash(scene.channel, "cancel", job="all")
    states = [job.state for job in await jobs(store)]
    assert states == [JobState.CANCELLED, JobState.CANCELLED, JobState.QUEUED]
    result = await scene.ben.slash(scene.channel, "cancel", job="all")
    assert result.response.content == "You have no job that could be cancelled."


async def test_jobs_lists_ones_own_with_links(scene: Scene, store: JobStore) -> None:
    result = await scene.ben.slash(scene.channel, "jobs")
    assert result.response.content.startswith("You have no jobs yet")
    await scene.animate(prompt="**my** cat")
    await scene.animate(scene.cleo, prompt="a dog")
    result = await scene.ben.slash(scene.channel, "jobs")
    assert result.ephemeral
    [mine, _] = await jobs(store)
    text = result.response.embeds[0].description or ""
    assert f"`{mine.id}` · waiting · “\\*\\*my\\*\\* cat”" in text
    assert f"/{mine.status_message_id})" in text
    assert "dog" not in text


async def test_show_is_for_those_who_may_see_the_channel(
    scene: Scene, store: JobStore, tmp_path: Path
) -> None:
    everyone = scene.guild.default_role
    hidden = scene.guild.create_text_channel(
        "hidden",
        overwrites={
            everyone: discord.PermissionOverwrite(view_channel=False),
            scene.ben: discord.PermissionOverwrite(view_channel=True),
        },
    )
    ids = []
    for channel in (scene.channel, hidden):
        job = await store.enqueue(
            NewJob(
                id=new_job_id(),
                interaction_id=channel.id,
                guild_id=scene.guild.id,
                channel_id=channel.id,
                user_id=scene.ben.id,
                request=job_request(prompt="a cat", seed=1),
            )
        )
        await store.claim_next()
        ids.append((await store.finish(job.id, f"framepack-{job.id}.mp4")).id)
        folder = tmp_path / "jobs" / job.id
        folder.mkdir(parents=True)
        (folder / f"framepack-{job.id}.mp4").write_bytes(b"a video")
    other = scene.guild.create_text_channel("other")
    for who, seen in ((scene.ben, [True, True]), (scene.cleo, [True, False])):
        for job_id, may in zip(ids, seen, strict=True):
            result = await who.slash(other, "show", job=job_id)
            assert result.ephemeral
            files = [file.filename for file in result.response.attachments]
            assert files == ([f"framepack-{job_id}.mp4"] if may else [])
    assert f"I know no job `{ids[1]}`" in result.response.content


@pytest.mark.parametrize(
    ("there_bytes", "versions", "shown"),
    [
        (9000, {"": 3000}, 3000),
        (9000, {"": 3000, "fitted-2": 2000, "fitted-1": 1000}, 1000),  # two of them were refused
        (2500, {"": 3000, "fitted-2": 2000}, 3000),  # which was never tried
        (2500, {"": 6000, "fitted-2": 2000}, 2000),
        (9000, {"": 6000}, None),
    ],
)
async def test_show_takes_the_largest_version_that_discord_has_not_refused(
    scene: Scene,
    store: JobStore,
    simcord_bot: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there_bytes: int,
    versions: dict[str, int],
    shown: int | None,
) -> None:
    limits = {scene.guild.id: 5000, 1: there_bytes}
    monkeypatch.setattr(simcord_bot.desk.posts, "upload_limit_bytes", limits.get)
    elsewhere = NewJob(
        id=new_job_id(),
        interaction_id=1,
        guild_id=1,
        channel_id=2,
        user_id=scene.ben.id,
        request=job_request(prompt="a cat", seed=1),
    )
    await store.enqueue(elsewhere)
    await store.claim_next()
    job = await store.finish(elsewhere.id, f"framepack-{elsewhere.id}.mp4")
    for folder, size_bytes in versions.items():
        file = tmp_path / "jobs" / job.id / folder / str(job.video)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(size_bytes))
    result = await scene.ben.slash(scene.channel, "show", job=job.id)
    sizes = [file.size for file in result.response.attachments]
    assert sizes == ([] if shown is None else [shown])
    assert ("gone, or too large" in result.response.content) is (shown is None)


async def test_videos_go_before_their_rows(
    scene: Scene, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bot that is killed in between, a video that no row knows would stay for its days."""
    await scene.animate()
    [job] = await jobs(store)
    await store.claim_next()
    await store.finish(job.id, "framepack-a.mp4")
    await store.mark_delivered(job.id, 99)
    video = tmp_path / "jobs" / job.id / "framepack-a.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    video.write_bytes(b"a video")
    erase, found = Community.erase, []

    async def watched(community: Community, user_id: int) -> list[str]:
        found.append(video.exists())
        return await erase(community, user_id)

    monkeypatch.setattr(Community, "erase", watched)
    await scene.ben.slash(scene.channel, "privacy", delete_everything=True)
    assert found == [False]
    assert await jobs(store) == []


async def test_privacy_deletes_everything_of_ones_own(
    scene: Scene, store: JobStore, community: Community, tmp_path: Path
) -> None:
    kept = await scene.ben.slash(scene.channel, "privacy")
    assert "your prompt and settings" in kept.response.content
    await scene.animate()
    await scene.animate(scene.cleo)
    _, other = await jobs(store)
    await community.save_preset(
        Preset(scope=Scope.USER, owner_id=scene.ben.id, name="wild", settings={})
    )
    result = await scene.ben.slash(scene.channel, "privacy", delete_everything=True)
    assert result.response.content.startswith("Deleted: 1 jobs")
    assert [job.id for job in await jobs(store)] == [other.id]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [other.id]
    assert await community.presets(scene.ben.id, None) == []


async def test_help_names_the_commands(scene: Scene) -> None:
    result = await scene.ben.slash(scene.channel, "help")
    for name in ("animate", "jobs", "show", "cancel", "queue", "presets", "privacy"):
        assert f"`/{name}`" in result.response.content
