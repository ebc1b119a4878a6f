"""What people see of a job: its row and newest progress become a card, a card becomes an embed.

Decides: how a job looks. Refuses to know: when it is shown, and Discord's state; everything here is
a pure function of its arguments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import discord
import msgspec

from bot.buttons import Action
from bot.texts import Text, say
from bot.words import FAILURES, STAGES, STATES, Word
from generator.protocol import ErrorKind, Progress, StepCacheKind
from storage.jobs import Delivery, Job, JobState

BAR_CELLS = 20
PROMPT_SHOWN = 600
QUEUE_SHOWN = 15
CHOICE_LENGTH = 100
SMALL_PICTURE = "input-small.jpg"
"""The file in a job's folder that shows the asker's picture in the corner of the card."""
STEADY_S, STEADY_SHARE = 45.0, 0.1
"""An estimate that moves by less than this, or by less than this part of the wait, is the same."""

_MARKDOWN = re.compile(r"[\\*_~`|<>\[\]#@]")
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the direction of what stands behind them."""
_ACCENT = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]"
_TOWER = re.compile(f"({_ACCENT}{{2}}){_ACCENT}+")
"""More than two accents on one letter."""
_PATH = re.compile(
    r"(?<![\w:/.])(?:[A-Za-z]:\\|\.{0,2}/|~/|\\\\)[^\s'\"<>|,;]*[/\\]([^\s'\"<>|,;/\\]*)"
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a waiting job stands: position from 1; when it probably starts, None if unknown.

    With `no_generator` nothing starts before somebody has mended it.
    """

    position: int
    starts_at: datetime | None = None
    paused: bool = False
    no_generator: bool = False

    def steadied(self, before: Place | None, now: datetime) -> Place:
        """This place, with the estimate of the one before where the two say much the same.

        A message is not edited for seconds, and not for minutes of a wait of hours.
        """
        if before is None or before.starts_at is None or self.starts_at is None:
            return self
        wait_s = (self.starts_at - now).total_seconds()
        moved_s = abs((self.starts_at - before.starts_at).total_seconds())
        same = moved_s <= max(STEADY_S, STEADY_SHARE * wait_s) and before.starts_at > now
        return msgspec.structs.replace(self, starts_at=before.starts_at) if same else self


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A status message without Discord: texts, colour, the file of its picture, its buttons."""

    title: str
    text: str
    footer: str
    colour: int
    job_id: str
    picture: Path | None = None
    small_picture: Path | None = None
    actions: tuple[Action, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What must be attached, each under its own name."""
        return tuple(file for file in (self.small_picture, self.picture) if file is not None)


def status_card(
    job: Job,
    now: datetime,
    *,
    progress: Progress | None = None,
    place: Place | None = None,
    folder: Path | None = None,
    show_prompt: bool = True,
) -> Card:
    """The job as it stands now. `folder` is where `progress.preview` and its picture lie.

    Of a job whose video is a spoiler no picture is shown.
    """
    title, colour = _headline(job)
    request = job.request
    lines = [*_state_lines(job, now, progress, place), ""]  # first what changes: prompts are long
    if show_prompt:
        lines.append(f"“{plain(shorten(request.prompt, PROMPT_SHOWN))}”")
    if job.input_note:
        lines.append(say(Text.CARD_NOTE, note=plain(job.input_note)))
    lines.append(
        say(
            Text.CARD_ASKED,
            user=job.user_id,
            seconds=request.seconds,
            steps=request.steps,
            seed=request.seed,
        )
    )
    running = job.state is JobState.RUNNING
    preview = progress.preview if progress and running and not job.spoiler else None
    return Card(
        title=title,
        text="\n".join(lines).strip(),
        footer=say(Text.CARD_FOOTER, job_id=job.id),
        colour=colour,
        picture=folder / Path(preview).name if preview and folder else None,
        small_picture=folder / SMALL_PICTURE if folder and not job.spoiler else None,
        job_id=job.id,
        actions=_actions(job),
    )


def to_embed(card: Card) -> discord.Embed:
    """The card as Discord takes it. Its files must be attached under their own names."""
    embed = discord.Embed(title=card.title, description=card.text, colour=card.colour)
    embed.set_footer(text=card.footer)
    if card.picture is not None:
        embed.set_image(url=f"attachment://{card.picture.name}")
    if card.small_picture is not None:
        embed.set_thumbnail(url=f"attachment://{card.small_picture.name}")
    return embed


def small_print(job: Job) -> str:
    """The settings that a result was made with, on one line."""
    request = job.request
    given_up = say(Text.GIVEN_UP_MARK, what=job.given_up) if job.given_up else ""
    return say(
        Text.SMALL_PRINT,
        given_up=given_up,
        seconds=request.seconds,
        variant=request.variant,
        steps=request.steps,
        quality=say(Text.DRAFT_MARK) if is_draft(job) else "",
        seed=request.seed,
        job_id=job.id,
    )


def part_sentence(job: Job) -> str:
    """What part of the video a finished job has; "" of the whole."""
    if job.share_made >= 1:
        return ""
    return say(
        Text.PART_END if job.request.variant.grows_backward else Text.PART_BEGINNING,
        made=job.sections_made,
        sections=job.sections,
        seconds=job.request.seconds * job.share_made,
        total=job.request.seconds,
    )


def moment(at: datetime) -> str:
    """A point in time that Discord counts down to, in the reader's own words."""
    return f"<t:{round(at.timestamp())}:R>"


def is_draft(job: Job) -> bool:
    """Whether steps were skipped for speed."""
    return job.request.step_cache is not StepCacheKind.NONE


def message_link(guild_id: int | None, channel_id: int, message_id: int) -> str:
    """Where a message is."""
    return f"https://discord.com/channels/{guild_id or '@me'}/{channel_id}/{message_id}"


def queue_embed(
    running: Sequence[tuple[Job, Progress | None]],
    waiting: Sequence[tuple[Job, Place]],
    now: datetime,
    *,
    named: Callable[[Job], bool] = lambda job: True,
) -> discord.Embed:
    """Everybody's jobs, without prompts, and without the owner where one is not to be `named`."""

    def owner(job: Job) -> str:
        return f"<@{job.user_id}>" if named(job) else say(Word.SOMEBODY_ELSEWHERE)

    lines = [_running_line(job, owner(job), progress, now) for job, progress in running]
    if waiting and waiting[0][1].paused:
        lines.append(say(Text.QUEUE_PAUSED))
    if waiting and waiting[0][1].no_generator:
        lines.append(sentence_of(say(Text.NO_GENERATOR)) + ".")
    for job, place in waiting[:QUEUE_SHOWN]:
        wait = say(Text.QUEUE_WAIT, time=moment(place.starts_at)) if place.starts_at else ""
        lines.append(
            say(
                Text.QUEUE_WAITING,
                position=place.position,
                owner=owner(job),
                seconds=job.request.seconds,
                wait=wait,
            )
        )
    if len(waiting) > QUEUE_SHOWN:
        lines.append(say(Text.QUEUE_MORE, count=len(waiting) - QUEUE_SHOWN))
    return discord.Embed(title=say(Text.QUEUE_TITLE), description="\n".join(lines))


def cancel_choice(job: Job) -> str:
    """One line for the autocomplete of /cancel."""
    text = say(
        Text.CANCEL_CHOICE, job_id=job.id, state=STATES[job.state], prompt=job.request.prompt
    )
    return shorten(text, CHOICE_LENGTH)


def failure_sentence(kind: ErrorKind, message: str) -> str:
    """What the asker is told of a failure: whose business it is, and why. Never a path."""
    return f"{say(FAILURES[kind])}: {plain(without_paths(message))}"


def sentence_of(text: str) -> str:
    """Half a sentence as one of its own."""
    return text[:1].upper() + text[1:]


def plain(text: str) -> str:
    """The text on one line and within it, its markdown and mentions shown instead of obeyed."""
    text = _TOWER.sub(r"\1", _TURNING.sub("", text))
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def shorten(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis, in at most `length` characters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def without_paths(text: str) -> str:
    """The text with every path cut to its last part."""
    return _PATH.sub(lambda match: match[1] or "…", text)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def _headline(job: Job) -> tuple[str, int]:
    blurple, green, red, grey = 0x5865F2, 0x2E9E5B, 0xD83C3E, 0x80848E
    match job.state:
        case JobState.QUEUED:
            return say(Text.CARD_NEXT_TURN if job.turns else Text.CARD_QUEUED), grey
        case JobState.RUNNING if job.cancel_requested:
            return say(Text.CARD_STOPPING), blurple
        case JobState.RUNNING:
            early = job.finish_requested
            return say(Text.CARD_FINISHING if early else Text.CARD_RUNNING), blurple
        case JobState.FAILED:
            return say(Text.CARD_FAILED), red
        case JobState.CANCELLED:
            return say(Text.CARD_CANCELLED), grey
    if job.delivery is Delivery.UNDELIVERABLE:
        return say(Text.CARD_UNDELIVERABLE), red
    delivered = job.delivery is Delivery.DELIVERED
    return say(Text.CARD_DELIVERED if delivered else Text.CARD_UPLOADING), green


def _state_lines(
    job: Job, now: datetime, progress: Progress | None, place: Place | None
) -> list[str]:
    match job.state:
        case JobState.QUEUED:
            again = [_again(job)] if job.attempts else []
            made = [say(Text.CARD_MADE, percent=int(100 * job.furthest))] if job.turns else []
            if job.finish_requested:
                made = [say(Text.CARD_FINISH_LATER, **_sections(job))]
            return again + made + (_place_lines(place) if place else [])
        case JobState.RUNNING:
            return _progress_lines(job, now, progress)
        case JobState.FAILED:
            kind = job.error_kind or ErrorKind.INTERNAL
            return [failure_sentence(kind, job.error or say(Text.UNKNOWN_FAILURE))]
        case JobState.FINISHED if job.delivery is Delivery.UNDELIVERABLE:
            return [sentence_of(job.error or "")]
        case JobState.FINISHED if job.started_at and job.ended_at:
            took_s = (job.ended_at - job.started_at).total_seconds()
            took = say(Text.CARD_TOOK, time=clock(took_s))
            if job.result_message_id is not None and job.delivery is Delivery.DELIVERED:
                url = message_link(job.guild_id, job.channel_id, job.result_message_id)
                took += say(Text.LINK, url=url)
            return [line for line in (part_sentence(job), took) if line]
    return []


def _again(job: Job) -> str:
    """What ended the last attempt: the machine's trouble, or the generator's."""
    is_disk = job.error_kind is ErrorKind.DISK
    what = FAILURES[ErrorKind.DISK] if is_disk else Word.GENERATOR_BROKE
    return say(Text.CARD_AGAIN, what=what, attempt=job.attempts + 1)


def _sections(job: Job) -> dict[str, int]:
    return {"made": job.sections_made, "sections": job.sections}


def _place_lines(place: Place) -> list[str]:
    parts = [
        say(Text.CARD_NEXT)
        if place.position == 1
        else say(Text.CARD_POSITION, position=place.position)
    ]
    if place.paused:
        parts.append(say(Text.CARD_PAUSED))
    if place.no_generator:
        parts.append(say(Text.NO_GENERATOR))
    if place.starts_at is not None:
        parts.append(say(Text.CARD_WAIT, time=moment(place.starts_at)))
    return [" · ".join(parts)]


def _progress_lines(job: Job, now: datetime, progress: Progress | None) -> list[str]:
    times = []
    is_ending = job.cancel_requested or job.finish_requested
    if progress is not None and progress.remaining_s is not None and not is_ending:
        done_at = now + timedelta(seconds=progress.remaining_s)
        times.append(say(Text.CARD_REMAINING, time=moment(done_at)))
    if progress is not None and progress.step_s is not None:
        times.append(say(Text.CARD_PACE, seconds=progress.step_s))
    if job.started_at is not None:
        times.append(say(Text.CARD_STARTED, time=moment(job.started_at)))
    if progress is None:
        return [" · ".join(times)]
    parts = [say(STAGES[progress.stage])]
    if progress.section:
        parts.append(say(Text.CARD_SECTION, section=progress.section, sections=progress.sections))
    if progress.step:
        parts.append(say(Text.CARD_STEP, step=progress.step, steps=progress.steps))
    if job.finish_requested:
        parts = [say(Text.CARD_FINISH_NOW, **_sections(job))]
    percent = _percent(progress)
    filled = percent * BAR_CELLS // 100
    bar = "█" * filled + "░" * (BAR_CELLS - filled)
    return [" · ".join(parts), say(Text.CARD_BAR, bar=bar, percent=percent), " · ".join(times)]


def _running_line(job: Job, owner: str, progress: Progress | None, now: datetime) -> str:
    left_s = progress.remaining_s if progress else None
    return say(
        Text.QUEUE_RUNNING,
        owner=owner,
        seconds=job.request.seconds,
        percent=_percent(progress) if progress else 0,
        left=""
        if left_s is None
        else say(Text.QUEUE_LEFT, time=moment(now + timedelta(seconds=left_s))),
    )


def _percent(progress: Progress) -> int:
    return int(100 * min(1.0, max(0.0, progress.fraction)))


def _actions(job: Job) -> tuple[Action, ...]:
    match job.state:
        case JobState.QUEUED | JobState.RUNNING:
            return () if job.cancel_requested else (Action.CANCEL,)
        case JobState.FAILED | JobState.CANCELLED:
            return (Action.AGAIN, Action.EDIT, Action.DELETE)
        case _ if job.delivery is Delivery.PENDING:
            return ()
    finals = (Action.FINAL,) if is_draft(job) else ()
    return (Action.AGAIN, Action.EDIT, *finals, Action.DELETE)
