"""What a press of a job's button does: cancel, make it again, change it, finish a draft, delete.

Decides: who may press what, from the job's row and never from the message; how an old job becomes a
new wish. Refuses to know: how wishes are taken, how buttons look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import discord
import msgspec

from bot.animate import animate
from bot.buttons import Action
from bot.desk import Desk, stumbled
from bot.forms import FORM_TIMEOUT_S, Form, number, text_field
from bot.jobs import cancel, decide, may_cancel
from bot.orders import Asked
from bot.posts import PostError
from bot.replies import Reply
from bot.texts import Text, say
from generator.protocol import StepCacheKind, limits
from storage.jobs import Delivery, Job, JobState


async def pressed(
    desk: Desk, interaction: discord.Interaction[Any], action: Action, job_id: str
) -> None:
    """Do what a button says, or tell the presser why not."""
    reply, job = Reply(interaction, desk.posts), await desk.store.get(job_id)
    if job is None:
        days = desk.config.storage.keep_days
        await reply.answer(say(Text.JOB_FORGOTTEN, job_id=job_id, days=days))
    elif action is Action.CANCEL:
        await cancel(desk, interaction, job_id)
    elif action in (Action.FINISH, Action.STOP):
        await decide(desk, interaction, job, send=action is Action.FINISH)
    elif action is Action.DELETE:
        await _delete(desk, interaction, job)
    elif interaction.user.id != job.user_id:
        await reply.answer(say(Text.NOT_YOUR_BUTTON, owner=f"<@{job.user_id}>"))
    elif action is Action.EDIT:
        await interaction.response.send_modal(EditForm(desk, job))
    elif action is Action.AGAIN:
        await repeat(desk, interaction, job, seed=None)
    else:
        await repeat(desk, interaction, job, step_cache=StepCacheKind.NONE)


async def repeat(
    desk: Desk, interaction: discord.Interaction[Any], job: Job, **changes: Any
) -> None:
    """Ask for the job once more with these settings changed; one that is None is left open."""
    settings = msgspec.structs.asdict(job.request) | changes
    prompt = settings.pop("prompt")
    kept = {name: value for name, value in settings.items() if value is not None}
    asked = Asked(prompt=prompt, settings=kept, spoiler=job.spoiler)
    await animate(desk, interaction, asked, pictures_of(job, desk.orders.folder(job)))


def pictures_of(job: Job, folder: Path) -> dict[str, str | Path]:
    """The clean pictures of an earlier job, by the names that its request has for them."""
    request = job.request
    names = [request.image, request.end_image, *request.references]
    return {name: folder / name for name in names if name is not None}


async def _delete(desk: Desk, interaction: discord.Interaction[Any], job: Job) -> None:
    """Take a job's messages from the channel and its files from the disk."""
    reply = Reply(interaction, desk.posts)
    if not may_cancel(interaction, job):
        await reply.answer(say(Text.CANCEL_NOT_YOURS, owner=f"<@{job.user_id}>"))
        return
    pending = job.delivery is Delivery.PENDING
    if pending or job.state in (JobState.QUEUED, JobState.RUNNING):
        await reply.answer(say(Text.DELETE_LATER, job_id=job.id))
        return
    await reply.answer(say(Text.DELETED, job_id=job.id))
    await desk.orders.discard(job)
    try:
        for message_id in (job.result_message_id, job.status_message_id):
            if message_id is not None:
                await desk.posts.delete(job.channel_id, message_id)
    except PostError as error:
        await reply.amend(say(Text.DELETE_FAILED, job_id=job.id, reason=error))


class EditForm(Form):
    """The settings of a job that people change most, with their old values."""

    def __init__(self, desk: Desk, job: Job) -> None:
        super().__init__(title=say(Text.EDIT_TITLE), timeout=FORM_TIMEOUT_S)
        request = job.request
        self._desk, self._job = desk, job
        self._prompt = text_field(
            "prompt", request.prompt, desk.config.limits.max_prompt_chars, is_long=True
        )
        self._seconds = text_field("seconds", f"{request.seconds:g}", 10)
        self._steps = text_field("steps", str(request.steps), 3)
        self._seed = text_field("seed", str(request.seed), 20, required=False)
        self._negative = text_field(
            "negative",
            request.negative_prompt,
            int(limits("negative_prompt").high),
            required=False,
            is_long=True,
        )
        for text, field in (
            (Text.EDIT_PROMPT, self._prompt),
            (Text.EDIT_SECONDS, self._seconds),
            (Text.EDIT_STEPS, self._steps),
            (Text.EDIT_SEED, self._seed),
            (Text.EDIT_NEGATIVE, self._negative),
        ):
            self.add_item(discord.ui.Label(text=say(text), component=field))

    async def on_submit(self, interaction: discord.Interaction[Any], /) -> None:
        """The form becomes a wish."""
        try:
            changes: dict[str, Any] = {
                "seconds": number(self._seconds.value, float),
                "steps": number(self._steps.value, int),
                "seed": number(self._seed.value, int) if self._seed.value.strip() else None,
            }
        except ValueError as error:
            await Reply(interaction, self._desk.posts).answer(str(error))
            return
        negative = self._negative.value.strip()
        if not negative:
            changes["true_cfg_scale"] = None  # whatever is usual without
        changes |= {"prompt": self._prompt.value, "negative_prompt": negative}
        await repeat(self._desk, interaction, self._job, **changes)

    async def on_error(  # type: ignore[override]  # as discord.ui.Modal has it
        self, interaction: discord.Interaction[Any], error: Exception, /
    ) -> None:
        """As for a command."""
        await stumbled(self._desk, interaction, error)
