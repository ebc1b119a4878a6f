"""Puts the bot together, runs it, and takes it apart again.

Decides: what is opened in which order, who owns which task, what counts as a failed start, how
everything ends within `STOP_WITHIN_S`. Refuses to know: what the parts do.

Opened in this order and closed in the other: the data folder's lock, the database, the picture
process, the Discord login. Then everything runs at once, and people are answered and their jobs
taken while the generator starts, which takes as long as importing torch does; only the dispatcher
waits for it. What goes wrong up to there is one sentence for whoever starts the bot; later nothing
but a signal ends it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from types import FrameType

import aiohttp
import discord
import msgspec
import yarl

from bot.backend import MACHINE_SETTINGS, BackendError, LocalBackend, generator_command
from bot.client import Client, login_sentence
from bot.config import Config
from bot.delivery import MIB, Delivery
from bot.desk import Desk
from bot.dispatcher import Dispatcher
from bot.instance import InstanceError, sole_instance
from bot.intake import Intake, IntakeError, picture_limits
from bot.notices import Notices
from bot.orders import Orders
from bot.posts import DiscordPosts
from bot.publisher import Publisher, is_last
from bot.retention import Retention
from generator.protocol import ErrorKind
from storage.community import Community
from storage.jobs import JobStore, StorageError, utc_now

log = logging.getLogger(__name__)

DATABASE_NAME = "bot.sqlite3"
JOBS_NAME = "jobs"
CACHE_NAME = "cache"

STOP_WITHIN_S = 15.0
LOGIN_TIMEOUT_S = 60.0
CLIENT_CLOSE_S = 3.0
RARELY = (10_000, 20, 50)
"""When Python looks for garbage by itself: hardly ever at everything, which takes 58 ms while a
thousand people wait. `_tidy` does that in quiet moments."""
TIDIED_EVERY_S = 60.0
CONNECTIONS = 24
"""To Discord at once. In a crowd further requests wait their turn, instead of a handshake each."""
BACKEND_CLOSE_S = 8.0
REFRESHED = 50
REFRESHED_SINCE = timedelta(hours=24)


class StartError(Exception):
    """The bot can not run; the text is one sentence for whoever started it."""


class _Stopped(Exception):
    """Somebody asked the bot to end."""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A bot whose parts are open and connected, and not yet running."""

    client: Client
    desk: Desk
    delivery: Delivery
    notices: Notices
    retention: Retention


def run_until_signal(config: Config, token: str, *, command: Sequence[str] | None = None) -> None:
    """`run_bot` for a process that does nothing else. Raises StartError."""
    gc.collect()
    gc.freeze()  # what is imported never goes: looking through it again and again costs 40 ms each
    gc.set_threshold(*RARELY)
    asyncio.run(run_bot(config, token, command=command))


async def run_bot(
    config: Config,
    token: str,
    *,
    command: Sequence[str] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run the bot until a signal comes or `stop` is set. Raises StartError.

    `command` is what is started as the generator; the project's own without it.
    """
    stop = asyncio.Event() if stop is None else stop
    failure: Exception | None = None
    with _signals_set(stop):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_raise_when(stop), name="stop")
                async with AsyncExitStack() as stack:
                    parts = await _open(stack, config, token, command or generator_of(config))
                    await _run(group, parts)
        except* _Stopped:
            log.info("stopped")
        except* StartError as errors:
            failure = errors.exceptions[0]
        except* (discord.ConnectionClosed, discord.PrivilegedIntentsRequired) as errors:
            sentence = login_sentence(errors.exceptions[0], config.discord.gateway_url)
            failure = StartError(sentence)
    if failure is not None:
        raise failure


async def _run(group: asyncio.TaskGroup, parts: Parts) -> None:
    """Work until cancelled."""
    loops = {
        "publisher": parts.desk.publisher.run(),
        "delivery": parts.delivery.run(),
        "notices": parts.notices.run(),
        "retention": parts.retention.run(),
        "dispatcher": _dispatch(parts.desk),
        "tidy": _tidy(parts.desk.orders),
        "client": parts.client.connect(),
    }
    await asyncio.gather(*(group.create_task(loop, name=name) for name, loop in loops.items()))


async def _dispatch(desk: Desk) -> None:
    """Give out jobs as soon as the generator is ready. StartError if it never was."""
    try:
        await _start_generator(desk)
    except BackendError as error:
        raise StartError(str(error)) from error
    await desk.dispatcher.run()


async def _start_generator(desk: Desk) -> None:
    """One that only dies, and does not say why, may do better the next time."""
    try:
        await desk.backend.start()
    except BackendError as error:
        if error.kind is not ErrorKind.INTERNAL:
            raise
        log.warning("%s; it is started once more", error)
        await desk.backend.start()


async def _tidy(orders: Orders) -> None:
    """Look for garbage while nobody waits for it."""
    while True:
        await asyncio.sleep(TIDIED_EVERY_S)
        if not orders.crowded:
            gc.collect()


async def _take_up(desk: Desk) -> None:
    """Have the status messages of an earlier run brought up to date, in the slow lane."""
    for job in await desk.store.undelivered():
        desk.publisher.show(job)
    since = utc_now() - REFRESHED_SINCE
    for job in await desk.store.recent(REFRESHED):
        if is_last(job) and job.status_message_id and (job.ended_at or job.created_at) > since:
            desk.publisher.show(job)
    await desk.dispatcher.tell_queue()


async def _open(stack: AsyncExitStack, config: Config, token: str, command: Sequence[str]) -> Parts:
    """Open everything, and put what closes it on the stack. StartError."""
    data_dir = config.storage.data_dir
    jobs_dir = data_dir / JOBS_NAME
    try:
        stack.enter_context(sole_instance(data_dir))
        store = await stack.enter_async_context(await JobStore.open(data_dir / DATABASE_NAME))
        community = await Community.open(data_dir / DATABASE_NAME)
        await stack.enter_async_context(community)
        for job in await store.requeue_running():
            log.info("job %s was running when the bot ended; it is %s now", job.id, job.state)
        intake = await stack.enter_async_context(Intake(picture_limits(config.limits)))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        orders = Orders(config, store, intake, session, jobs_dir)
        await orders.remove_strays()
        backend = LocalBackend(
            command,
            start_timeout_s=config.generator.start_timeout_s,
            cancel_grace_s=config.generator.cancel_grace_s,
            silence_limit_s=config.generator.silence_limit_s,
            memory_limit_gib=config.generator.memory_limit_gib,
            close_timeout_s=BACKEND_CLOSE_S,
        )
        client = Client(config)
        posts = DiscordPosts(client)
        publisher = Publisher(posts, store, jobs_dir)
        upload_limit = int(config.limits.upload_limit_mib * MIB)
        delivery = Delivery(posts, store, publisher, jobs_dir, limit_bytes=upload_limit)
        notices = Notices(posts, store)
        dispatcher = Dispatcher(
            store, backend, publisher, delivery, notices, jobs_dir, turns=config.turns
        )
        client.desk = Desk(
            config=config,
            store=store,
            community=community,
            orders=orders,
            posts=posts,
            publisher=publisher,
            dispatcher=dispatcher,
            delivery=delivery,
            backend=backend,
        )
        await stack.enter_async_context(_logged_in(client, config, token))
        await stack.enter_async_context(backend)
        await _take_up(client.desk)
    except (InstanceError, StorageError, IntakeError, OSError) as error:
        raise StartError(str(error)) from error
    retention = Retention(store, community, jobs_dir, config.storage)
    return Parts(
        client=client, desk=client.desk, delivery=delivery, notices=notices, retention=retention
    )


@asynccontextmanager
async def _logged_in(client: Client, config: Config, token: str) -> AsyncIterator[None]:
    """The client with its token accepted and its commands registered; closed at the end."""
    discord_config = config.discord
    if discord_config.api_url:
        discord.http.Route.BASE = discord_config.api_url
    if discord_config.gateway_url:
        gateway = yarl.URL(discord_config.gateway_url)
        discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = gateway
    client.http.connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    try:
        async with asyncio.timeout(LOGIN_TIMEOUT_S):
            await client.login(token)
    except (discord.DiscordException, aiohttp.ClientError, OSError) as error:
        await client.close()
        raise StartError(login_sentence(error, discord_config.api_url)) from error
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(CLIENT_CLOSE_S):
                await client.close()
        except TimeoutError:
            log.warning("the connection to Discord did not close in %g s", CLIENT_CLOSE_S)


def generator_of(config: Config) -> list[str]:
    """The command line of the project's own generator with these settings."""
    generator = config.generator
    return generator_command(
        **{name: getattr(generator, name) for name in MACHINE_SETTINGS},
        resume_every_s=generator.resume_every_s,
        idle_unload_s=generator.idle_unload_s,
        lossy_fallback="yes" if generator.allow_lossy_fallback else "no",
        cache_dir=config.storage.data_dir / CACHE_NAME,
    )


async def _raise_when(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped


@contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """While it lasts, whatever asks a process to end sets `stop`. Only the main thread gets any."""
    loop = asyncio.get_running_loop()
    names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last is Windows' Ctrl-Break
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def set_stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, set_stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
