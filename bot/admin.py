"""What admins do: the queue, people, the server's limits, the generator.

Decides: who is an admin, what each verb does, that every change is written down and told in the log
channel. Refuses to know: how the commands are registered (`bot.admin_commands`).

An admin has the permission Manage Server where the command is used *and* is one of the configured
people or has one of the configured roles. Both are asked at each use: what Discord shows to whom is
only a default that a server may change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import discord
import msgspec

from bot.backend import BackendError
from bot.desk import PREFERRED, Desk, preferred_variant
from bot.orders import Refusal
from bot.posts import PostError
from bot.replies import Reply
from bot.speech import ENGLISH, speaking
from bot.texts import Text, say
from bot.views import clock, plain, queue_embed, shorten
from bot.words import FAILURES, STATES, Word
from generator.protocol import Measured, Variant
from storage.community import Rules, Standing, Switch
from storage.jobs import Delivery, Job, WrongState, utc_now

log = logging.getLogger(__name__)

MESSAGE_LENGTH = 2000
JOBS_SHOWN = 20
AUDIT_SHOWN = 15

Deed = Callable[[], Awaitable[str]]


def is_admin(desk: Desk, interaction: discord.Interaction[Any]) -> bool:
    """Whether this person may use /admin here and now."""
    admins, user = desk.config.admins, interaction.user
    if interaction.guild_id is None or not interaction.permissions.manage_guild:
        return False
    held = {role.id for role in getattr(user, "roles", [])}
    return user.id in admins.user_ids or bool(held & set(admins.role_ids))


class Office:
    """The verbs of /admin. Each answers with one text; what changes something is written down."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def look(self, interaction: discord.Interaction[Any], deed: Deed) -> None:
        """Answer an admin with what `deed` returns."""
        await self._do(interaction, "", "", "", deed)

    async def act(
        self,
        interaction: discord.Interaction[Any],
        action: str,
        target: str,
        reason: str | None,
        deed: Deed,
    ) -> None:
        """Let an admin do something, write it down, answer with what `deed` returns."""
        await self._do(interaction, action, target, reason or "", deed)

    async def _do(
        self,
        interaction: discord.Interaction[Any],
        action: str,
        target: str,
        reason: str,
        deed: Deed,
    ) -> None:
        reply = Reply(interaction, self._desk.posts)
        guild_id = interaction.guild_id
        if guild_id is None or not is_admin(self._desk, interaction):
            log.warning("user %d is no admin and asked for %r", interaction.user.id, action)
            return await reply.refuse(say(Text.ADMIN_NOT_YOU))
        await reply.answer(say(Text.ADMIN_WORKING))
        try:
            answer = await deed()
        except Refusal as refusal:
            return await reply.refuse(str(refusal))
        if action:
            await self._write_down(interaction, guild_id, action, target, reason)
        await reply.amend(shorten(answer, MESSAGE_LENGTH))

    async def _write_down(
        self,
        interaction: discord.Interaction[Any],
        guild_id: int,
        action: str,
        target: str,
        reason: str,
    ) -> None:
        desk, actor_id = self._desk, interaction.user.id
        await desk.community.note(guild_id, actor_id, action, target, reason)
        log.info("admin %d: %s %s (%s)", actor_id, action, target, reason)
        channel_id = (await desk.community.rules(guild_id)).log_channel
        if channel_id is None:
            return
        with speaking(ENGLISH):  # everybody reads it
            text = say(
                Text.ADMIN_LOGGED,
                actor=f"<@{actor_id}>",
                action=action,
                target=target,
                reason=plain(reason) or Text.GATE_NO_REASON,
            )
        try:
            await desk.posts.post_text(channel_id, text, nonce=str(interaction.id))
        except PostError as error:
            log.warning("the log channel %d does not take messages: %s", channel_id, error)

    # The queue

    async def queue(self) -> str:
        """Everybody's jobs, with their ids."""
        desk = self._desk
        running, places = await desk.store.running(), await desk.dispatcher.places()
        switches = ", ".join(sorted(await desk.community.switches()))
        progress = desk.dispatcher.progress
        shown = [(job, progress.get(job.id)) for job in running]
        embed = queue_embed(shown, places, utc_now())
        ids = " ".join(
            f"`{job.id}`" for job in [*running, *(job for job, _ in places)][:JOBS_SHOWN]
        )
        lines = [switches and say(Text.ADMIN_SWITCHES, switches=switches), embed.description, ids]
        return "\n".join(filter(None, lines)) or say(Text.QUEUE_EMPTY)

    async def switch(self, *, paused: bool | None = None, draining: bool | None = None) -> str:
        """Stop or start the queue, close or open it."""
        for switch, on in ((Switch.PAUSED, paused), (Switch.DRAINING, draining)):
            if on is not None:
                await self._desk.community.turn(switch, on=on)
        if paused:  # who stops the queue often wants the card for something else
            await self._desk.backend.unload()
        self._desk.dispatcher.wake()
        await self._desk.dispatcher.tell_queue()
        switches = ", ".join(sorted(await self._desk.community.switches()))
        return say(Text.ADMIN_SWITCHES, switches=switches or say(Text.ADMIN_NO_SWITCH))

    async def clear(self, guild_id: int, actor_id: int) -> str:
        """Cancel every waiting job of the server; others' owners than this one are told."""
        count = 0
        for job in await self._desk.store.waiting():
            if job.guild_id == guild_id:
                await self._desk.dispatcher.cancel(job.id, notice=job.user_id != actor_id)
                count += 1
        return say(Text.ADMIN_CLEARED, count=count)

    async def move(self, guild_id: int, job_id: str, place: int) -> str:
        """Let a waiting job start at this place, counted from 1."""
        job, desk = await self._job(guild_id, job_id), self._desk
        order = [waiting for waiting, _ in await desk.dispatcher.places()]
        others = [waiting for waiting in order if waiting.id != job.id]
        if len(others) == len(order):
            raise Refusal(say(Text.ADMIN_NOT_WAITING, job_id=job.id, state=STATES[job.state]))
        ahead, behind = others[: place - 1], others[place - 1 :]
        floor = max((waiting.priority for waiting in behind), default=0)
        for distance, waiting in enumerate(reversed([*ahead, job]), start=1):
            await desk.community.prioritise(waiting.id, floor + distance)
        await desk.dispatcher.tell_queue()
        return say(Text.ADMIN_MOVED, job_id=job.id, place=len(ahead) + 1)

    async def remove(self, guild_id: int, job_id: str, actor_id: int) -> str:
        """Cancel somebody's job, and have them told."""
        job = await self._job(guild_id, job_id)
        try:
            await self._desk.dispatcher.cancel(job.id, notice=job.user_id != actor_id)
        except WrongState as error:
            state = STATES[error.job.state]
            raise Refusal(say(Text.CANCEL_OVER, job_id=job.id, state=state)) from None
        return say(Text.ADMIN_REMOVED, job_id=job.id, owner=f"<@{job.user_id}>")

    async def retry(self, guild_id: int, job_id: str) -> str:
        """Put a failed or cancelled job back into the queue; of what could not be posted, post the
        video."""
        job, desk = await self._job(guild_id, job_id), self._desk
        if job.delivery is Delivery.UNDELIVERABLE:
            desk.publisher.show(await desk.store.deliver_again(job.id))
            desk.delivery.wake()
            return say(Text.ADMIN_DELIVERING, job_id=job.id)
        picture = desk.orders.folder(job) / job.request.image
        if not await asyncio.to_thread(picture.is_file):
            raise Refusal(f"{say(Text.PICTURE_GONE)}.")
        again = await desk.community.retry(job.id)
        if again is None:
            raise Refusal(say(Text.ADMIN_NO_RETRY, job_id=job.id, state=STATES[job.state]))
        desk.publisher.show(again)
        desk.dispatcher.wake()
        await desk.dispatcher.tell_queue()
        return say(Text.ADMIN_RETRIED, job_id=job.id)

    # People

    async def change_standing(self, guild_id: int, user_id: int, changes: dict[str, Any]) -> str:
        """Change how somebody stands on the server; a ban also cancels what they have waiting."""
        before = await self._desk.community.standing(guild_id, user_id)
        standing = msgspec.structs.replace(before, **changes)
        await self._desk.community.save_standing(guild_id, user_id, standing)
        if changes.get("banned"):
            for job in await self._desk.store.unfinished_of(user_id):
                if job.guild_id == guild_id:
                    await self._desk.dispatcher.cancel(job.id)
        return _standing_text(user_id, standing)

    async def jobs_of(self, guild_id: int, user_id: int) -> str:
        """Somebody's newest jobs here, and how they stand."""
        standing = await self._desk.community.standing(guild_id, user_id)
        found = await self._desk.community.jobs_of(user_id, JOBS_SHOWN)
        lines = [
            f"`{job.id}` · {say(STATES[job.state])} {plain(job.error or '')}".rstrip()
            for job in found
            if job.guild_id == guild_id
        ]
        return "\n".join([_standing_text(user_id, standing), *lines])

    # Limits

    async def show_limits(self, guild_id: int) -> str:
        """The server's rules, with what the config says where the server says nothing."""
        rules, limits = await self._desk.community.rules(guild_id), self._desk.config.limits
        most, nothing = limits.max_per_day or Text.ADMIN_NO_LIMIT, Word.NOTHING
        shown: dict[Word, object] = {
            Word.LIMIT_WAITING: _else(rules.max_waiting, limits.max_waiting_per_user),
            Word.LIMIT_PER_DAY: _else(rules.max_per_day, most),
            Word.LIMIT_SECONDS: _else(rules.max_seconds, limits.max_seconds),
            Word.LIMIT_CHANNELS: " ".join(f"<#{c}>" for c in rules.channels) or nothing,
            Word.LIMIT_ROLES: " ".join(f"<@&{r}>" for r in rules.roles) or nothing,
            Word.LIMIT_NSFW: Word.YES if rules.nsfw_only else Word.NO,
            Word.LIMIT_BLOCKED: plain(", ".join(rules.blocked)) or nothing,
            Word.LIMIT_LOG: f"<#{rules.log_channel}>" if rules.log_channel else nothing,
        }
        return "\n".join(
            say(Text.ADMIN_LIMIT, name=name, value=value) for name, value in shown.items()
        )

    async def change_rules(self, guild_id: int, change: Callable[[Rules], Rules]) -> str:
        """Change the server's rules and show them."""
        rules = change(await self._desk.community.rules(guild_id))
        await self._desk.community.save_rules(guild_id, rules)
        return await self.show_limits(guild_id)

    # The generator

    async def generator_status(self) -> str:
        """What the generator is, what it runs on, how fast it is."""
        self._check_started()
        backend, speed = self._desk.backend, await self._desk.store.speed()
        ready, began = backend.ready, backend.ready_since
        shown_speed = say(Text.ADMIN_SPEED, speed=speed) if speed else say(Text.ADMIN_NO_SPEED)
        if ready is None or began is None:
            why = backend.trouble
            stands = say(Text.ADMIN_NO_START, reason=plain(why)) if why else None
            return f"{stands or say(Text.ADMIN_NOT_STARTED)}\n{shown_speed}"
        measured = await backend.measure()
        return say(
            Text.ADMIN_GENERATOR,
            model=plain(ready.model),
            device=ready.device_name,
            dtype=ready.dtype,
            placement=measured.placement if measured else ready.placement,
            uptime=clock((datetime.now(UTC) - began).total_seconds()),
            speed=shown_speed,
            memory=_memory(measured),
            variant=await self._variants(measured),
        )

    async def variant(self, preferred: Variant | None) -> str:
        """Let jobs that name no model have this one, on all servers; which there are now."""
        if preferred is not None:
            await self._desk.community.prefer(PREFERRED, preferred)
        return await self._variants(await self._desk.backend.measure())

    async def _variants(self, measured: Measured | None) -> str:
        loaded = measured.variant if measured else None
        preferred = await preferred_variant(self._desk)
        none = say(Text.ADMIN_NO_VARIANT)
        return say(Text.ADMIN_VARIANT, loaded=loaded or none, preferred=preferred)

    async def unload(self) -> str:
        """Have the generator's memory given back, now or when the running job leaves it."""
        self._check_started()
        await self._desk.backend.unload()
        busy = bool(await self._desk.store.running())
        return say(Text.ADMIN_UNLOADS_LATER if busy else Text.ADMIN_UNLOADED)

    async def restart(self) -> str:
        """End the generator's process; a running job goes on from its last step in the new one."""
        self._check_started()
        running = await self._desk.store.running()
        await self._desk.backend.close()
        if not running:  # else the dispatcher starts it, for the job
            try:
                await self._desk.backend.start()
            except BackendError as error:
                raise Refusal(say(Text.SETTING_WRONG, sentence=plain(str(error)))) from None
        return say(Text.ADMIN_RESTARTED)

    def _check_started(self) -> None:
        """One that is just starting is let be: that it can not start would end the bot."""
        if self._desk.backend.starting:
            raise Refusal(say(Text.ADMIN_STARTING))

    # Figures

    async def statistics(self, guild_id: int, days: int) -> str:
        """The server's jobs of so many days in figures."""
        found = await self._desk.community.statistics(
            guild_id, datetime.now(UTC) - timedelta(days=days)
        )
        states = ", ".join(f"{say(STATES[s])}: {n}" for s, n in found.jobs.items())
        failures = [f"{say(FAILURES[k])}: {n}" for k, n in found.failures.items()]
        return say(
            Text.ADMIN_STATS,
            days=days,
            states=states or Word.NOTHING,
            video=clock(found.video_s),
            wait=clock(found.mean_wait_s or 0),
            work=clock(found.mean_work_s or 0),
            failures="\n".join(failures) or Word.NOTHING,
        )

    async def audit(self, guild_id: int) -> str:
        """Who did what lately."""
        rows = await self._desk.community.audit(guild_id, AUDIT_SHOWN)
        lines = [
            f"<t:{round(row.at.timestamp())}:R> <@{row.actor_id}> {row.action} {row.target} "
            f"{plain(row.reason)}".rstrip()
            for row in rows
        ]
        return "\n".join(lines) or say(Text.ADMIN_NO_AUDIT)

    async def _job(self, guild_id: int, job_id: str) -> Job:
        job = await self._desk.store.get(job_id.strip().lower())
        if job is None or job.guild_id != guild_id:
            raise Refusal(say(Text.CANCEL_UNKNOWN, job_id=plain(job_id[:40])))
        return job


def _else(value: object, usual: object) -> object:
    return usual if value is None else value


def _memory(measured: Measured | None) -> str:
    if measured is None:
        return say(Text.ADMIN_NO_MEMORY)
    vram = say(
        Text.ADMIN_VRAM,
        used=_gib(measured.vram_used),
        free=_gib(measured.vram_free),
        total=_gib(measured.vram_total),
    )
    return say(
        Text.ADMIN_MEMORY,
        vram=vram if measured.vram_total else "",
        ram_used=_gib(measured.ram_used),
        ram_free=_gib(measured.ram_free),
        limit=measured.ram_limit,
    )


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / 2**30:.1f} GiB"


def _standing_text(user_id: int, standing: Standing) -> str:
    usual = say(Text.ADMIN_USUAL)
    return say(
        Text.ADMIN_STANDING,
        user=f"<@{user_id}>",
        banned=say(Text.ADMIN_BANNED, reason=plain(standing.reason)) if standing.banned else "",
        waiting=usual if standing.max_waiting is None else standing.max_waiting,
        per_day=usual if standing.max_per_day is None else standing.max_per_day,
        priority=standing.priority,
    )
