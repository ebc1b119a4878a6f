"""The menu's entry on messages whose picture is not simply attached, over real sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from live import PICTURE, Live

from bot.playground import Interaction, Message
from bot.playground.entities import MessageFlag

ENTRY = "Animate this image"
MEDIA_GALLERY, CONTAINER, SECTION, THUMBNAIL, TEXT = 12, 17, 9, 11, 10


def cdn(live: Live) -> str:
    """The address of a picture on the playground's CDN, as Discord's own copy of one elsewhere."""
    return live.playground.world.store(PICTURE, "attachments/1").url


async def linked(live: Live, embed: dict[str, Any]) -> Message:
    playground = live.playground
    text = "see https://example.org/boat.png"
    return await playground.say(playground.cleo, playground.pictures, text, embeds=[embed])


async def shown_of_a_link(live: Live) -> Message:
    there = {"url": "https://example.org/boat.png", "proxy_url": cdn(live), "width": 64}
    return await linked(live, {"type": "image", "url": there["url"], "thumbnail": there})


async def forwarded(live: Live) -> Message:
    playground = live.playground
    first = await playground.say(playground.cleo, playground.lounge, "look", [PICTURE])
    return await playground.forward(playground.cleo, first, playground.pictures)


async def forwarded_link(live: Live) -> Message:
    message = await shown_of_a_link(live)
    return await live.playground.forward(live.playground.cleo, message, live.playground.pictures)


async def in_layout(live: Live, *components: dict[str, Any]) -> Message:
    playground = live.playground
    flags = int(MessageFlag.COMPONENTS_V2)
    return await playground.say(
        playground.cleo, playground.pictures, "", [PICTURE], flags=flags, components=[*components]
    )


async def in_a_gallery(live: Live) -> Message:
    item = {"media": {"url": "attachment://boat.png"}}
    gallery = {"type": MEDIA_GALLERY, "items": [item]}
    return await in_layout(live, {"type": CONTAINER, "components": [gallery]})


async def beside_a_text(live: Live) -> Message:
    beside = {"type": THUMBNAIL, "media": {"url": "attachment://boat.png"}}
    text = {"type": TEXT, "content": "look"}
    return await in_layout(live, {"type": SECTION, "components": [text], "accessory": beside})


async def animated(live: Live, message: Message) -> Interaction:
    playground = live.playground
    asked = await playground.message_command(playground.ben, message, ENTRY)
    await live.sees(lambda: asked.modal)
    return await playground.submit_modal(asked, {"prompt": "the boat rocks", "seconds": "1"})


WAYS = (shown_of_a_link, forwarded, forwarded_link, in_a_gallery, beside_a_text)


async def test_a_picture_is_animated_however_a_message_shows_it(live: Live) -> None:
    async with live.running():
        for number, way in enumerate(WAYS, start=1):
            submitted = await animated(live, await way(live))
            await live.answer_says(submitted, "https://discord.com/channels/")
            await live.sees(lambda wanted=number: len(live.videos()) == wanted)
    assert len(live.jobs()) == len(WAYS)


async def only_a_link(live: Live) -> Message:
    return await live.playground.say(
        live.playground.cleo, live.playground.pictures, "https://example.org/boat.png"
    )


async def without_a_copy(live: Live) -> Message:
    return await linked(live, {"image": {"url": "http://169.254.169.254/boat.png"}})


async def only_words_forwarded(live: Live) -> Message:
    playground = live.playground
    first = await playground.say(playground.cleo, playground.lounge, "no picture")
    return await playground.forward(playground.cleo, first, playground.pictures)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (only_a_link, "I open no links. Save the picture and attach it."),
        (without_a_copy, "I open no links. Save the picture and attach it."),
        (only_words_forwarded, "This message has no picture."),
    ],
)
async def test_why_a_message_has_no_picture_for_it_is_said(
    live: Live, way: Callable[[Live], Any], words: str
) -> None:
    async with live.running():
        playground, message = live.playground, await way(live)
        asked = await playground.message_command(playground.ben, message, ENTRY)
        await live.answer_says(asked, words)


async def test_a_copy_that_is_not_discords_is_not_fetched(live: Live) -> None:
    elsewhere = {"url": "https://a.org/boat.png", "proxy_url": "http://127.0.0.1:9/boat.png"}
    message = await linked(live, {"type": "image", "thumbnail": elsewhere})
    async with live.running():
        submitted = await animated(live, message)
        await live.answer_says(submitted, "Discord")
    assert live.jobs() == [] and live.folders() == []
