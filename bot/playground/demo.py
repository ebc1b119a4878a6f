"""`framepack-bot demo`: the whole product once, played by a person on the playground.

Decides: what the person does, when the demo has succeeded, and what is printed. Refuses to know:
how the bot makes a video; it is the real bot in a process of its own, and only what the channel
shows counts. The bot's database is read for one thing: to stop waiting for a job that failed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

import generator.protocol
from bot.playground.child import BotProcess, Setting, write_config
from bot.playground.entities import Event, EventKind, Message
from bot.playground.errors import ClientRefused
from bot.playground.forms import Value
from bot.playground.interactions import Interaction
from bot.playground.reading import plain_text
from bot.playground.server import Playground
from bot.playground.transcript import Transcript
from storage.jobs import Delivery, Job, JobState, StorageError, read_jobs

log = logging.getLogger(__name__)

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPT = "The camera pans to the right over the lake, soft light."
BUILT_IN_MODELS = {
    "demo": "demo weights, small enough for any computer: the way, not the quality",
    "tiny": "random weights: the video shows noise, the way to it is real",
}
FOR_BUILT_IN_MODELS: dict[str, Setting] = {"seconds": 2.4, "steps": 8}
START_TIMEOUT_S = 120.0
JOB_TIMEOUT_S = 6 * 3600.0
REFUSED_AFTER_S = 30.0
LAST_WORDS_S = 8.0
DATABASE_NAME = "bot.sqlite3"
LOOK_EVERY_S = 1.0


class DemoError(Exception):
    """The demo did not get its video; the text says why in one sentence."""


class Demo(msgspec.Struct, frozen=True, kw_only=True):
    """What to show. None leaves the choice to the model (built-in) or the bot's defaults."""

    image: Path
    prompt: str
    model: str
    out_dir: Path
    seconds: float | None = None
    steps: int | None = None


def run_demo(
    *,
    image: Path | None = None,
    prompt: str = PROMPT,
    model: str = "demo",
    out_dir: Path = Path("demo_output"),
    seconds: float | None = None,
    steps: int | None = None,
) -> int:
    """Show the product at work on stdout; the last line is the path of the MP4.

    Returns 0 if the video arrived in the channel as a new message to its owner, else 1 after
    saying why, with the end of the bot's log; 130 when interrupted.
    """
    demo = Demo(
        image=image or EXAMPLES / "lake.jpg",
        prompt=prompt,
        model=model,
        out_dir=out_dir,
        seconds=seconds,
        steps=steps,
    )
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a Windows console may not know every character
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        video = asyncio.run(_play(demo))
    except DemoError as error:
        _say(f"The demo failed: {error}")
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(str(video))
    return 0


async def _play(demo: Demo) -> Path:
    """The story: a Discord, the bot on it, one command, one video. Raises DemoError."""
    if not demo.image.is_file():
        raise DemoError(f"there is no picture {demo.image}; name one with --image FILE.")
    _say(f"Model: {_about_model(demo.model)}")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framepack-demo-")))
        discord = await stack.enter_async_context(Playground(rate_limits=True))
        _say(f"A Discord of its own runs at {discord.world.origin}; the bot starts …")
        config = folder / "config.toml"
        write_config(config, _settings(demo, discord, folder))
        bot = await stack.enter_async_context(BotProcess(config, discord.token, folder / "bot.log"))
        try:
            video = await _with_bot(demo, discord, bot, folder / "data")
        except (DemoError, ClientRefused) as error:
            await bot.stop()
            _say(f"\nThe end of the bot's log:\n{bot.log_tail()}\n")
            raise DemoError(str(error)) from error
        _say("The bot stops …")
        status = await bot.stop()
        _say(f"The bot has stopped (exit status {status}).")
        return _save(video, discord, demo.out_dir)


async def _with_bot(demo: Demo, discord: Playground, bot: BotProcess, data_dir: Path) -> Message:
    """Play the person while the bot runs; the message that brought the video."""
    transcript = Transcript(discord.world, discord.world.clock.now())
    video: Message | None = None
    trouble: Exception | None = None
    async with asyncio.TaskGroup() as group:
        shown = group.create_task(_print(transcript, discord))
        ended = group.create_task(bot.ended())
        try:
            await _until_ready(discord, ended)
            _say(transcript.typed(discord.ben.name, _command_line(demo)))
            video = await _animate(demo, discord, Watch(ended, data_dir))
            await _last_edit(discord, video)
        except (DemoError, ClientRefused) as error:
            trouble = error  # not through the group, which would wrap it
        finally:
            shown.cancel()
            ended.cancel()
            _catch_up(transcript, discord)
    if video is None or trouble is not None:
        raise trouble or DemoError("no video came.")
    return video


async def _print(transcript: Transcript, discord: Playground) -> None:
    async for _ in discord.watch():
        _catch_up(transcript, discord)


def _catch_up(transcript: Transcript, discord: Playground) -> None:
    for line in transcript.new_lines(discord.events):
        _say(line)


async def _until_ready(discord: Playground, ended: asyncio.Task[int]) -> None:
    """Wait until the bot offers /animate."""
    waited_s = 0.0
    while waited_s < START_TIMEOUT_S:
        try:
            return await discord.bot_ready("animate", timeout_s=LOOK_EVERY_S)
        except TimeoutError:
            waited_s += LOOK_EVERY_S
        if ended.done():
            raise DemoError(f"the bot ended at once, with exit status {ended.result()}.")
    raise DemoError(f"the bot offered no /animate within {START_TIMEOUT_S:g} s.")


async def _animate(demo: Demo, discord: Playground, watch: Watch) -> Message:
    """Send the command and wait for the message with the video."""
    options: dict[str, Value] = {"prompt": demo.prompt}
    if demo.seconds is not None:
        options["seconds"] = float(demo.seconds)
    if demo.steps is not None:
        options["steps"] = demo.steps
    sent = await discord.slash(
        discord.ben, discord.pictures, "animate", options, {"image": demo.image}
    )
    while True:
        try:
            event = await discord.wait_for(lambda e: _brings_video(e, discord), LOOK_EVERY_S)
        except TimeoutError:
            watch.check(sent)
            continue
        assert event.message is not None
        return event.message


def _brings_video(event: Event, discord: Playground) -> bool:
    """A new public message from the bot, with an MP4, that tells the person about it."""
    message = event.message
    if event.kind is not EventKind.MESSAGE_CREATED or message is None or message.ephemeral_for:
        return False
    has_video = any(file.filename.endswith(".mp4") for file in message.attachments)
    from_bot = message.author_id == discord.bot.id
    return from_bot and has_video and discord.ben.id in message.pings


async def _last_edit(discord: Playground, video: Message) -> None:
    """Give the status message the time for its last edit."""
    seen = len(discord.events)
    try:
        await discord.wait_for(
            lambda event: event.kind is EventKind.MESSAGE_EDITED, LAST_WORDS_S, start=seen
        )
    except TimeoutError:
        log.info("no edit followed the video")


class Watch:
    """Notices when no video can come any more."""

    def __init__(self, ended: asyncio.Task[int], data_dir: Path) -> None:
        self._ended = ended
        self._database = data_dir / DATABASE_NAME
        self._since = time.monotonic()
        self._over_since: float | None = None

    def check(self, sent: Interaction) -> None:
        """Raises DemoError once there is nothing left to wait for."""
        now = time.monotonic()
        waited_s = now - self._since
        if self._ended.done():
            raise DemoError(f"the bot ended with exit status {self._ended.result()}.")
        if sent.has_failed:
            raise DemoError("the bot did not answer the command within 3 s.")
        jobs = self._jobs()
        if not jobs and waited_s > REFUSED_AFTER_S:
            answer = plain_text(sent.response) if sent.response else "nothing"
            raise DemoError(f"the bot took no job. It said: {answer}")
        lost = next((job for job in jobs if _is_lost(job)), None)
        if lost is not None:
            self._over_since = self._over_since or now
            if now - self._over_since > LAST_WORDS_S:
                raise DemoError(f"the job ended without a video: {lost.error or lost.state}")
        if waited_s > JOB_TIMEOUT_S:
            raise DemoError(f"no video came within {JOB_TIMEOUT_S / 3600:g} hours.")

    def _jobs(self) -> list[Job]:
        try:
            return read_jobs(self._database)
        except StorageError:
            return []


def _is_lost(job: Job) -> bool:
    ended_badly = job.state in (JobState.FAILED, JobState.CANCELLED)
    return ended_badly or job.delivery is Delivery.UNDELIVERABLE


def _save(video: Message, discord: Playground, out_dir: Path) -> Path:
    """Save what the channel received. Raises DemoError when it is not an MP4."""
    file = next(file for file in video.attachments if file.filename.endswith(".mp4"))
    data = discord.file(file)
    if data[4:8] != b"ftyp":
        raise DemoError(f"{file.filename} came, but its {len(data)} bytes are not an MP4.")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        path = out_dir / file.filename
        path.write_bytes(data)
    except OSError as error:
        raise DemoError(f"the video could not be saved in {out_dir}: {error.strerror}.") from None
    return path.absolute()


def _settings(demo: Demo, discord: Playground, folder: Path) -> dict[str, dict[str, Setting]]:
    defaults: dict[str, Setting] = {}
    if demo.model in BUILT_IN_MODELS:
        defaults |= FOR_BUILT_IN_MODELS
    return {
        "discord": {"api_url": discord.api_url, "gateway_url": discord.gateway_url},
        "storage": {"data_dir": str(folder / "data")},
        "generator": {"model": full_path(demo.model)},
        "defaults": defaults,
    }


def full_path(model: str) -> str:
    """The model by name, or its folder's full path: the config lies elsewhere."""
    folder = Path(model).expanduser()
    is_name = model in BUILT_IN_MODELS or not folder.is_dir()
    return model if is_name else str(folder.absolute())


def built_in(model: str) -> str:
    """The built-in weights behind a model's name: "demo", "tiny", or "" for a folder."""
    trained = (Path(generator.protocol.__file__).parent / "demo_model").is_dir()
    name = "tiny" if model == "demo" and not trained else model
    return name if name in BUILT_IN_MODELS else ""


def _about_model(model: str) -> str:
    return f"{model} ({BUILT_IN_MODELS.get(built_in(model), 'a folder of your own')})"


def _command_line(demo: Demo) -> str:
    settings = {"image": demo.image.name, "prompt": demo.prompt}
    numbers = {"seconds": demo.seconds, "steps": demo.steps}
    settings |= {name: f"{value:g}" for name, value in numbers.items() if value is not None}
    return "/animate " + "  ".join(f"{name}: {value}" for name, value in settings.items())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
