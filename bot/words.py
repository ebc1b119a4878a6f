"""What Discord's and our own terms are called: stages, states, failures, permissions.

Decides: the words. Refuses to know: the sentences that they stand in (`bot.texts`).
"""

from __future__ import annotations

from generator.protocol import ErrorKind, Stage
from storage.jobs import JobState

QUICK_PROMPTS = (
    "The person smiles and looks into the camera",
    "Hair and clothes move gently in the wind",
    "The camera moves slowly closer while clouds drift by",
)
"""Prompts that are offered to those who have none of their own yet."""

STAGES: dict[Stage, str] = {
    Stage.LOADING: "Loading the model",
    Stage.TEXT: "Reading the prompt",
    Stage.IMAGE: "Looking at the picture",
    Stage.SAMPLING: "Making it move",
    Stage.DECODING: "Drawing the frames",
    Stage.ENCODING: "Writing the MP4",
}

STATES: dict[JobState, str] = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "running",
    JobState.FINISHED: "finished",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}

FAILURES: dict[ErrorKind, str] = {
    ErrorKind.INPUT: "Something about what you asked for does not work",
    ErrorKind.MEMORY: "There was not enough memory",
    ErrorKind.MODEL: "There is a problem with the model on my side",
    ErrorKind.DISK: "There is a problem with the disk on my side",
    ErrorKind.INTERNAL: "Something went wrong on my side",
}

PERMISSIONS: dict[str, str] = {
    "view_channel": "View Channel",
    "send_messages": "Send Messages",
    "send_messages_in_threads": "Send Messages in Threads",
    "attach_files": "Attach Files",
    "embed_links": "Embed Links",
    "read_message_history": "Read Message History",
}
