"""Single words and short terms, beside the sentences of `bot.texts`: the table's second part.

Decides: the English for stages, states, failures and whom they are told, permissions, what is wrong
with a picture, and what the options of commands mean. Refuses to know: where they are said. It
imports nothing but the table's form, because the picture process speaks with it too.
"""

from __future__ import annotations

from enum import unique

from bot.speech import Table


@unique
class Word(Table):
    """The table's second part. `{name}` is filled in by `say`."""

    # what the generator is doing
    STAGE_LOADING = "Loading the model"
    STAGE_TEXT = "Reading the prompt"
    STAGE_IMAGE = "Looking at the picture"
    STAGE_SAMPLING = "Making it move"
    STAGE_DECODING = "Drawing the frames"
    STAGE_ENCODING = "Writing the MP4"

    # how a job stands
    STATE_QUEUED = "waiting"
    STATE_RUNNING = "running"
    STATE_FINISHED = "finished"
    STATE_FAILED = "failed"
    STATE_CANCELLED = "cancelled"

    # whose business a failure is
    FAILURE_INPUT = "Something about what you asked for does not work"
    FAILURE_MEMORY = "There was not enough memory"
    FAILURE_MODEL = "There is a problem with the model on my side"
    FAILURE_DISK = "There is a problem with the disk on my side"
    GENERATOR_BROKE = "The generator broke down"
    FAILURE_INTERNAL = "Something went wrong on my side"

    # in the queue, who is of another server
    SOMEBODY_ELSEWHERE = "somebody elsewhere"

    # the mention that an owner was promised, when there will be no video
    NOTICE_FAILED = (
        "<@{user}> there is no video of `{job_id}`. {reason}\n"
        "-# `/animate`, or a button of its message, makes it once more."
    )
    NOTICE_REMOVED = (
        "<@{user}> those who run this server have taken your job `{job_id}` out of the queue; "
        "there will be no video of it. Ask them why."
    )

    # permissions, as Discord's settings call them
    VIEW_CHANNEL = "View Channel"
    SEND_MESSAGES = "Send Messages"
    SEND_MESSAGES_IN_THREADS = "Send Messages in Threads"
    ATTACH_FILES = "Attach Files"
    EMBED_LINKS = "Embed Links"
    READ_MESSAGE_HISTORY = "Read Message History"

    # prompts for those who have none of their own yet
    QUICK_SMILE = "The person smiles and looks into the camera"
    QUICK_WIND = "Hair and clothes move gently in the wind"
    QUICK_CLOSER = "The camera moves slowly closer while clouds drift by"

    # what a file is that is no picture
    FILE_PDF = "a PDF document, not a picture"
    FILE_POSTSCRIPT = "a PostScript drawing, not a picture"
    FILE_SVG = "an SVG drawing, not a picture"
    FILE_PAGE = "a web page, not a picture"
    FILE_ZIP = "a ZIP archive, not a picture"
    FILE_PHOTOSHOP = "a Photoshop file, not a picture"
    FILE_TIFF = "a TIFF or raw photo, not a picture"
    FILE_VIDEO = "a video, not a picture"
    FILE_UNKNOWN = "not a picture that can be read, or a damaged one"

    # what is wrong with a picture
    PICTURE_KIND = "this is {what}; send a picture as PNG, JPEG, WebP, GIF, AVIF, HEIC or BMP"
    PICTURE_EMPTY = "the file is empty (0 bytes); send the picture again"
    PICTURE_DAMAGED = "the picture is damaged or cut off; save it anew and send it again"
    PICTURE_SMALL = (
        "the picture has {width:,} × {height:,} pixels; each side must have at least {limit}"
    )
    PICTURE_LARGE = (
        "the picture has {width:,} × {height:,} pixels; a side may have {limit:,}: make it smaller"
    )
    PICTURE_PIXELS = (
        "the picture has {width:,} × {height:,} pixels, {megapixels:,.1f} megapixels; at most "
        "{limit:g} are accepted: make it smaller"
    )
    PICTURE_LONG = (
        "the picture has {width:,} × {height:,} pixels, one side is {times:.1f} times the other; "
        "at most {limit:g} times is accepted: crop it"
    )
    PICTURE_MEMORY = (
        "opening the picture takes more than {limit} MiB of memory; make it smaller and send it "
        "again"
    )
    PICTURE_SLOW = (
        "opening the picture took more than {limit:g} s; make it smaller and send it again"
    )
    PICTURE_KILLED = (
        "opening the picture ended the process that opens pictures; save it anew, smaller, and "
        "send it again"
    )
    PICTURE_BYTES = (
        "the picture's file has {size:,.1f} MiB; at most {limit:g} MiB are accepted: make it "
        "smaller and send it again"
    )
    PICTURE_ELSEWHERE = "the picture is not on Discord's servers; attach the file itself"
    PICTURE_REFUSED = (
        "Discord does not hand out the picture (it answered {status}); attach it again"
    )
    PICTURE_UNREACHABLE = (
        "Discord does not hand out the picture at the moment; try again in a minute"
    )
    PICTURE_NOT_STORED = "the picture could not be stored ({reason}); tell whoever runs this bot"
    ANIMATION = "first frame of an animation"

    # why a message did not get to Discord
    ANSWERED = "Discord answered {number}"
    PATIENCE = "Discord asks for {seconds:.0f} s of patience"
    SILENT = "Discord did not answer in time"
    BROKEN = "the connection to Discord broke"

    # what admins choose
    OPTION_REASON = "Why; it is written down and told in the log channel"
    OPTION_JOB = "The job's id, as the queue's list shows it"
    OPTION_PLACE = "Which place, counted from 1"
    OPTION_USER = "Whom it is about"
    OPTION_WAITING = "How many jobs one person may have waiting and running"
    OPTION_PER_DAY = "How many videos one person may have in 24 hours"
    OPTION_LEVEL = "Above 0 goes before others, below 0 after them"
    OPTION_SECONDS = "How long a video may be, in seconds"
    OPTION_NSFW = "Whether I work only in age-restricted channels"
    OPTION_CHANNEL = "A channel that I work in; with none listed, in all"
    OPTION_ROLE = "A role that may use me; with none listed, everybody may"
    OPTION_BLOCK = "A word or phrase that no prompt may hold"
    OPTION_LOG = "Where I tell what admins do"
    OPTION_VARIANT = "The model that jobs get which name none"
    OPTION_DAYS = "How many days back"

    # a server's limits as they are listed
    LIMIT_WAITING = "waiting and running"
    LIMIT_PER_DAY = "per day"
    LIMIT_SECONDS = "seconds"
    LIMIT_CHANNELS = "channels"
    LIMIT_ROLES = "roles"
    LIMIT_NSFW = "age-restricted channels only"
    LIMIT_BLOCKED = "blocked words"
    LIMIT_LOG = "log channel"
    YES = "yes"
    NO = "no"
    NOTHING = "–"


QUICK_PROMPTS = (Word.QUICK_SMILE, Word.QUICK_WIND, Word.QUICK_CLOSER)
"""Prompts that are offered to those who have none of their own yet."""

STAGES: dict[str, Word] = {
    "loading": Word.STAGE_LOADING,
    "text": Word.STAGE_TEXT,
    "image": Word.STAGE_IMAGE,
    "sampling": Word.STAGE_SAMPLING,
    "decoding": Word.STAGE_DECODING,
    "encoding": Word.STAGE_ENCODING,
}
"""By `generator.protocol.Stage`."""

STATES: dict[str, Word] = {
    "queued": Word.STATE_QUEUED,
    "running": Word.STATE_RUNNING,
    "finished": Word.STATE_FINISHED,
    "failed": Word.STATE_FAILED,
    "cancelled": Word.STATE_CANCELLED,
}
"""By `storage.jobs.JobState`."""

FAILURES: dict[str, Word] = {
    "input": Word.FAILURE_INPUT,
    "memory": Word.FAILURE_MEMORY,
    "model": Word.FAILURE_MODEL,
    "disk": Word.FAILURE_DISK,
    "internal": Word.FAILURE_INTERNAL,
}
"""By `generator.protocol.ErrorKind`."""

PERMISSIONS: dict[str, Word] = {
    "view_channel": Word.VIEW_CHANNEL,
    "send_messages": Word.SEND_MESSAGES,
    "send_messages_in_threads": Word.SEND_MESSAGES_IN_THREADS,
    "attach_files": Word.ATTACH_FILES,
    "embed_links": Word.EMBED_LINKS,
    "read_message_history": Word.READ_MESSAGE_HISTORY,
}
"""By discord.py's names."""
