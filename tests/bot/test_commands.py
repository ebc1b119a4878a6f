"""Commands and permissions in breadth, on simcord: no sockets, the dispatcher left out.

The picture's way is short here (`GivenPicture`); test_live.py goes the whole of it.
"""

from __future__ import annotations

from typing import Any

import discord
import pytest
import simcord
from simcord_scene import PICTURE, NoBackend, Scene, jobs, make_job

from bot.client import Client
from bot.config import Config, DiscordConfig
from generator.protocol import job_request
from storage.community import Community, Preset, Scope
from storage.jobs import Job, JobState, JobStore, NewJob, new_job_id

NEEDED = ["view_channel", "send_messages", "attach_files", "embed_links", "read_message_history"]


async def test_animate_makes_a_row_a_message_and_an_answer(scene: Scene, store: JobStore) -> None:
    result = await scene.animate(seconds=2.5, seed=5, steps=7)
    [job] = await jobs(store)
    request = job.request
    assert (request.prompt, request.seconds, request.seed, request.steps) == ("a cat", 2.5, 5, 7)
    assert job.input_note == "first frame of an animation"
    status = scene.channel.last_message
    assert status is not None
    assert job.status_message_id == status.id
    assert status.embeds[0].title == "Waiting in the queue"
    assert result.ephemeral
    assert result.response.content.startswith("Your video is in the queue: https://discord.com/")
    assert str(status.id) in result.response.content


async def test_every_option_reaches_the_request(scene: Scene, store: JobStore) -> None:
    await scene.animate(
        model="f1",
        quality="draft",
        negative="blur",
        guidance=6.5,
        motion=7,
        consistency=1.2,
        end_image=PICTURE,
        end_strength=0.5,
        reference1=PICTURE,
        reference3=PICTURE,
        resolution=512,
        fps=24,
        shape="portrait",
        spoiler=True,
    )
    [job] = await jobs(store)
    request = job.request
    assert (request.variant, request.step_cache) == ("f1", "teacache")
    assert (request.negative_prompt, request.true_cfg_scale) == ("blur", 2)
    assert (request.guidance_scale, request.motion_bias, request.consistency_boost) == (6.5, 7, 1.2)
    assert (request.end_image, request.end_strength) == ("end.png", 0.5)
    assert request.references == ("reference-1.png", "reference-2.png")
    assert (request.resolution, request.fps, job.spoiler) == (512, 24, True)
    assert request.shape == "portrait"


async def test_a_preset_gives_way_to_what_is_asked(
    scene: Scene, store: JobStore, community: Community
) -> None:
    settings = {"steps": 9, "motion_bias": 3.0}
    await community.save_preset(
        Preset(scope=Scope.USER, owner_id=scene.ben.id, name="wild", settings=settings)
    )
    await scene.animate(preset="wild", steps=11)
    [job] = await jobs(store)
    assert (job.request.steps, job.request.motion_bias) == (11, 3.0)
    choices = await scene.ben.autocomplete(scene.channel, "animate", "preset", "wi")
    assert [choice["value"] for choice in choices] == ["wild"]
    refused = await scene.animate(scene.cleo, preset="wild")
    assert refused.response.content == "There is no such preset. There are: none yet."


async def test_ones_own_prompts_are_offered_again(scene: Scene, store: JobStore) -> None:
    choices = await scene.ben.autocomplete(scene.channel, "animate", "prompt", "")
    assert len(choices) == 3
    long = "a cat " * 20
    await make_job(store, scene, long.strip())
    await make_job(store, scene, "a cat")
    choices = await scene.ben.autocomplete(scene.channel, "animate", "prompt", "CAT")
    short, marked = [choice["value"] for choice in choices]
    assert short == "a cat"
    for job in await jobs(store):
        await store.request_cancel(job.id)
    await scene.animate(prompt=marked)
    assert (await jobs(store))[-1].request.prompt == long.strip()


async def test_without_a_seed_every_job_gets_its_own(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    await scene.animate()
    first, second = await jobs(store)
    assert first.request.seed != second.request.seed


async def test_a_prompt_that_mentions_pings_nobody(scene: Scene, store: JobStore) -> None:
    await scene.animate(prompt=f"@everyone <@{scene.cleo.id}> **dance**")
    status = scene.channel.last_message
    assert status is not None
    assert status.mentions == []
    assert not status.mention_everyone
    assert r"\@everyone \<\@" in (status.embeds[0].description or "")


@pytest.mark.parametrize("missing", NEEDED)
async def test_each_missing_permission_is_named(
    scene: Scene, store: JobStore, missing: str
) -> None:
    me = scene.guild.me
    assert me is not None
    denied = discord.PermissionOverwrite(**{missing: False})
    scene.channel = scene.guild.create_text_channel("closed", overwrites={me: denied})
    result = await scene.animate()
    assert result.ephemeral
    name = missing.replace("_", " ").title()
    assert f"I need the permission {name}" in result.response.content
    assert await jobs(store) == []


async def test_one_person_gets_two_and_another_two_more(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    await scene.animate()
    refused = await scene.animate()
    assert "You already have 2 unfinished jobs, and 2 is the most" in refused.response.content
    await scene.animate(scene.cleo)
    assert len(await jobs(store)) == 3


async def test_cancel_without_a_name_takes_the_newest(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    await scene.animate()
    result = await scene.ben.slash(scene.channel, "cancel")
    first, second = await jobs(store)
    assert (first.state, second.state) == (JobState.QUEUED, JobState.CANCELLED)
    assert result.ephemeral
    assert result.response.content == f"Cancelled `{second.id}`. It had not started yet."


async def test_cancel_of_a_running_job_reaches_the_generator(
    scene: Scene, store: JobStore, simcord_bot: Client
) -> None:
    await scene.animate()
    job = await store.claim_next()
    assert job is not None
    result = await scene.ben.slash(scene.channel, "cancel", job=job.id)
    assert result.response.content.startswith(f"Stopping `{job.id}`")
    backend = simcord_bot.desk.dispatcher._backend
    assert isinstance(backend, NoBackend)
    assert backend.cancelled == [job.id]


async def with_sections(scene: Scene, store: JobStore, *, suspend: bool, **options: Any) -> Job:
    """A job of which two sections of five are finished."""
    await scene.animate(**options)
    job = await store.claim_next()
    assert job is not None
    job = await store.note_sections(job.id, 2, 5)
    return await store.suspended(job.id, 0.4) if suspend else job


@pytest.mark.parametrize(
    ("model", "part"), [("i2v", "They are the **end** of the video"), ("f1", "**beginning**")]
)
@pytest.mark.parametrize("suspend", [False, True])
async def test_cancel_offers_what_is_done_and_says_which_part_it_is(
    scene: Scene, store: JobStore, simcord_bot: Client, model: str, part: str, suspend: bool
) -> None:
    job = await with_sections(scene, store, suspend=suspend, model=model)
    asked = await scene.ben.slash(scene.channel, "cancel")
    assert asked.ephemeral
    assert f"2 of 5 sections of `{job.id}` are finished" in asked.response.content
    assert part in asked.response.content
    labels = [b.label for row in asked.response.message.components for b in row.children]
    assert labels == ["Send what is done", "Cancel without a video"]
    assert (await jobs(store))[0].state is not JobState.CANCELLED
    answer = await scene.ben.click(asked.response, label="Send what is done")
    words = "as soon as it has its next turn" if suspend else "it comes in a moment"
    assert words in answer.response.content
    [job] = await jobs(store)
    assert job.finish_requested and not job.cancel_requested
    backend = simcord_bot.desk.dispatcher._backend
    assert isinstance(backend, NoBackend)
    assert backend.finished == ([] if suspend else [job.id])
    again = await scene.ben.slash(scene.channel, "cancel")  # it is asked once
    assert again.response.content.startswith("Cancelled" if suspend else "Stopping")


async def test_what_is_done_can_be_given_up(scene: Scene, store: JobStore) -> None:
    job = await with_sections(scene, store, suspend=True)
    asked = await scene.ben.slash(scene.channel, "cancel", job=job.id)
    twice = await scene.ben.slash(scene.channel, "cancel", job=job.id)
    answer = await scene.ben.click(asked.response, label="Cancel without a video")
    assert answer.response.content == f"Cancelled `{job.id}`, which waited for its next turn."
    assert answer.response.message.components == []
    assert (await jobs(store))[0].state is JobState.CANCELLED
    late = await scene.ben.click(twice.response, label="Send what is done")
    assert "is already over (cancelled)" in late.response.content


async def test_cancel_is_for_the_owner(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    [job] = await jobs(store)
    result = await scene.cleo.slash(scene.channel, "cancel", job=job.id)
    assert result.response.content.startswith(f"Only <@{scene.ben.id}>")
    assert (await jobs(store))[0].state is JobState.QUEUED


async def test_cancel_is_for_who_may_manage_messages(
    simcord_env: simcord.Env, scene: Scene, store: JobStore
) -> None:
    mods = scene.guild.create_role("mods", permissions=discord.Permissions(manage_messages=True))
    mod = scene.guild.add_member(simcord_env.create_user("mod"), roles=[mods])
    await scene.animate()
    [job] = await jobs(store)
    await mod.slash(scene.channel, "cancel", job=job.id)
    assert (await jobs(store))[0].state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("option", "words"),
    [("zzzzzzzzzz", "I know no job `zzzzzzzzzz`"), ("@everyone", "I know no job")],
)
async def test_cancel_of_nothing_says_so(scene: Scene, option: str, words: str) -> None:
    result = await scene.ben.slash(scene.channel, "cancel", job=option)
    assert words in result.response.content
    result = await scene.ben.slash(scene.channel, "cancel")
    assert result.response.content == "You have no job that could be cancelled."


async def test_cancel_twice_says_that_it_is_over(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    [job] = await jobs(store)
    await scene.ben.slash(scene.channel, "cancel", job=job.id)
    result = await scene.ben.slash(scene.channel, "cancel", job=job.id)
    assert result.response.content == f"Job `{job.id}` is already over (cancelled)."


async def test_the_choices_are_ones_own_unfinished_jobs(scene: Scene, store: JobStore) -> None:
    await scene.animate(prompt="a cat")
    await scene.animate(prompt="a dog")
    await scene.animate(scene.cleo, prompt="a bird")
    first, second, _ = await jobs(store)
    choices = await scene.ben.autocomplete(scene.channel, "cancel", "job", "")
    assert [choice["value"] for choice in choices] == [second.id, first.id, "all"]
    choices = await scene.ben.autocomplete(scene.channel, "cancel", "job", "CAT")
    assert [choice["value"] for choice in choices] == [first.id]


async def test_the_button_cancels_for_its_owner_only(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    status = scene.channel.last_message
    assert status is not None
    refused = await scene.cleo.click(status, label="Cancel")
    assert refused.response.content.startswith("Only <@")
    await scene.ben.click(status, label="Cancel")
    assert (await jobs(store))[0].state is JobState.CANCELLED


async def test_the_queue_is_for_everyone(scene: Scene, store: JobStore) -> None:
    result = await scene.cleo.slash(scene.channel, "queue")
    assert result.response.content.startswith("Nobody is waiting")
    await scene.animate(prompt="secret")
    await scene.animate(prompt="secret")
    await store.claim_next()
    result = await scene.cleo.slash(scene.channel, "queue")
    assert result.ephemeral
    text = result.response.embeds[0].description or ""
    assert f"▶ <@{scene.ben.id}> · 5 s of video · 0 %" in text
    assert f"1. <@{scene.ben.id}> · 5 s of video" in text
    assert "secret" not in text


async def test_the_queue_names_nobody_of_another_server(scene: Scene, store: JobStore) -> None:
    await scene.animate()
    for who in (scene.ben, scene.cleo):
        elsewhere = NewJob(
            id=new_job_id(),
            interaction_id=who.id,
            guild_id=1,
            channel_id=2,
            user_id=who.id,
            request=job_request(prompt="a cat", seed=1),
        )
        await store.enqueue(elsewhere)
    result = await scene.cleo.slash(scene.channel, "queue")
    lines = (result.response.embeds[0].description or "").splitlines()
    people = [line.split(" · ")[0] for line in lines]
    assert people == [f"1. <@{scene.ben.id}>", f"2. <@{scene.cleo.id}>", "3. somebody elsewhere"]


async def test_ranges_come_from_protocol_and_config(simcord_env: Any, simcord_bot: Client) -> None:
    command = simcord_bot.tree.get_command("animate")
    assert isinstance(command, discord.app_commands.Command)
    options = {option["name"]: option for option in command.to_dict(simcord_bot.tree)["options"]}
    assert (options["seconds"]["min_value"], options["seconds"]["max_value"]) == (0.1, 10)
    assert (options["steps"]["min_value"], options["steps"]["max_value"]) == (1, 100)
    assert options["seed"]["max_value"] == 2**53 - 1
    assert options["prompt"]["max_length"] == 150
    assert [name for name, o in options.items() if o.get("required")] == ["image", "prompt"]


def test_dms_are_off_unless_configured(config: Config, simcord_bot: Client) -> None:
    assert not simcord_bot.intents.dm_messages
    assert simcord_bot.intents.guilds and simcord_bot.intents.guild_messages
    assert not simcord_bot.intents.message_content
    assert Client(Config(discord=DiscordConfig(allow_dms=True))).intents.dm_messages


async def test_a_direct_message_is_refused_unless_configured(
    simcord_env: simcord.Env, simcord_bot: Client, store: JobStore
) -> None:
    command = simcord_bot.tree.get_command("animate")
    assert isinstance(command, discord.app_commands.Command)
    assert command.allowed_contexts is not None
    assert command.allowed_contexts.dm_channel is False
    assert command.to_dict(simcord_bot.tree)["contexts"] == [0]
    assert command.to_dict(simcord_bot.tree)["integration_types"] == [0]
