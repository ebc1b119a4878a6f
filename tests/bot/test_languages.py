"""The table of texts in every language: complete, fillable, within Discord's limits, and spoken."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from live import Live

from bot import publisher
from bot.buttons import LABELS
from bot.client import Client
from bot.commands import build_commands
from bot.playground import Playground, Upload, User, plain_text
from bot.speech import ENGLISH, Language, Table, languages, listen, say, speaking
from bot.texts import Text
from bot.translator import Translator
from bot.words import Word

TEXTS: dict[str, Table] = {text.name: text for part in (Text, Word) for text in part}
OPTION_NAME = re.compile(r"[-_\w]{1,32}")
LONGEST_DESCRIPTION, LONGEST_CHOICE, LONGEST_COMMAND, LONGEST_LABEL = 100, 100, 8000, 80
LONGEST_FORM_TEXT = 45
SUB_COMMANDS = (1, 2)
every_language = pytest.mark.parametrize("locale", sorted(languages()))


def holes(pattern: str) -> list[tuple[str, str]]:
    """What a text has to be filled with, and in which form."""
    parsed = string.Formatter().parse(pattern)
    return sorted((name, form or "") for _, name, form, _ in parsed if name is not None)


def test_a_key_is_in_one_part_of_the_table_only() -> None:
    assert len(TEXTS) == len(Text) + len(Word)
    assert "de" in languages()


@every_language
def test_a_language_has_every_text_and_no_other(locale: str) -> None:
    assert set(languages()[locale].texts) == set(TEXTS)


@every_language
def test_a_translation_is_filled_with_the_same_values(locale: str) -> None:
    for key, pattern in languages()[locale].texts.items():
        assert holes(pattern) == holes(TEXTS[key].value), key
        assert pattern.strip() and pattern.count("`") % 2 == 0, key


@every_language
def test_what_discord_limits_is_short_enough(locale: str) -> None:
    with speaking(languages()[locale]):
        assert all(len(say(label)) <= LONGEST_LABEL for label in LABELS.values())
        for key in Text.__members__:
            if key.startswith(("EDIT_", "MENU_")) and key != "MENU_NO_PICTURE":
                assert len(say(Text[key])) <= LONGEST_FORM_TEXT, key
        assert len(say(Text.MENU)) <= 32
        assert len(say(Text.HELP_TEXT)) <= 2000
        assert len(say(Text.PRIVACY_KEPT)) <= 2000


def parts(payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A command and everything under it."""
    yield payload
    for option in payload.get("options", ()):
        yield from parts(option)


async def registered(client: Client) -> list[dict[str, Any]]:
    """The commands as discord.py hands them to Discord, with all translations."""
    for command in build_commands(client.desk):
        client.tree.add_command(command)
    translator = Translator()
    return [
        await command.get_translated_payload(client.tree, translator)
        for command in client.tree.get_commands()
    ]


@pytest.fixture
async def commands(simcord_bot: Client) -> list[dict[str, Any]]:
    return await registered(simcord_bot)


@every_language
async def test_every_command_is_described_in_every_language(
    commands: list[dict[str, Any]], locale: str
) -> None:
    for command in commands:
        if command["type"] == 3:  # the menu's entry has a name only
            assert command["name_localizations"][locale] != command["name"]
            continue
        for part in parts(command):
            where = f"{command['name']} … {part['name']}"
            texts = [part["description"], part["description_localizations"][locale]]
            assert all(1 < len(text) <= LONGEST_DESCRIPTION for text in texts), where
            assert texts[0] != texts[1], where
            for choice in part.get("choices", ()):
                assert len(choice["name"]) <= LONGEST_CHOICE
                if "name_localizations" in choice:
                    assert len(choice["name_localizations"][locale]) <= LONGEST_CHOICE


@every_language
async def test_options_have_valid_names_and_none_twice(
    commands: list[dict[str, Any]], locale: str
) -> None:
    known = set()
    for command in commands:
        for part in parts(command) if command["type"] != 3 else ():
            fields = [o for o in part.get("options", ()) if o["type"] not in SUB_COMMANDS]
            names = [option["name_localizations"][locale] for option in fields]
            assert len(set(names)) == len(names), part["name"]
            for name in names:
                assert OPTION_NAME.fullmatch(name) and name == name.lower(), name
            known |= {option["name"] for option in fields}
    assert set(languages()[locale].options) == known


async def test_no_command_is_longer_than_discord_takes(commands: list[dict[str, Any]]) -> None:
    """Discord counts names, descriptions and values, of translations the longest."""
    for command in commands:
        length = 0
        for part in parts(command):
            for field in ("name", "description"):
                found = [part.get(field, ""), *part.get(f"{field}_localizations", {}).values()]
                length += max(map(len, found))
            for choice in part.get("choices", ()):
                found = [choice["name"], *choice.get("name_localizations", {}).values()]
                length += max(map(len, found)) + len(str(choice["value"]))
        assert length <= LONGEST_COMMAND, f"{command['name']}: {length}"


def test_a_value_that_is_a_text_is_said_in_the_same_language() -> None:
    values = {"job_id": "abc", "state": Word.STATE_RUNNING}
    assert say(Text.SHOW_NOT_YET, **values) == "Job `abc` has no video (running)."
    with speaking(languages()["de"]):
        assert say(Text.SHOW_NOT_YET, **values) == "Zum Auftrag `abc` gibt es kein Video (läuft)."


def test_what_a_language_lacks_is_said_in_english() -> None:
    with speaking(Language(texts={"CANCEL_NOTHING": "Rien."})):
        assert say(Text.CANCEL_NOTHING) == "Rien."
        assert say(Text.GUILD_ONLY) == Text.GUILD_ONLY.value
    listen("xx")
    assert say(Text.CANCEL_NOTHING) == Text.CANCEL_NOTHING.value


# spoken on the playground


@pytest.fixture
def live(
    points_at_playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Live]:
    monkeypatch.setattr(publisher, "EDIT_GAP_S", 0.5)
    yield Live(points_at_playground, tmp_path)


@pytest.fixture
def ben(live: Live) -> User:
    """Ben, whose Discord is German."""
    world, user = live.playground.world, live.playground.ben
    world.users[user.id] = msgspec.structs.replace(user, locale="de")
    return world.users[user.id]


async def test_who_reads_german_is_answered_in_german_and_everybody_else_as_before(
    live: Live, ben: User
) -> None:
    playground = live.playground
    async with live.running("--steps", "1000", "--step-s", "0.1"):
        asked = await live.animate(ben)
        await live.answer_says(asked, "Dein Video ist in der Schlange")
        status = await live.status_says("Making the video")
        assert "For <@" in plain_text(status)
        pdf = Upload(filename="boat.png", data=b"%PDF-1.7 " + bytes(100))
        refused = await live.animate(ben, picture=pdf)
        await live.answer_says(refused, "Das ist ein PDF-Dokument, kein Bild; schick ein Bild als")
        refused = await live.animate(playground.cleo, picture=pdf)
        await live.answer_says(refused, "This is a PDF document, not a picture; send a picture as")
        found = await playground.slash(ben, playground.pictures, "cancel", {"job": "all"})
        await live.answer_says(found, "; das dauert einen Schritt.")


async def test_discord_is_told_the_translations(live: Live) -> None:
    async with live.running():
        found = next(c for c in live.playground.api.commands.usable() if c["name"] == "animate")
    german = languages()["de"]
    assert found["description_localizations"] == {"de": german.texts["ANIMATE"]}
    names = {option["name"]: option["name_localizations"]["de"] for option in found["options"]}
    assert names["image"] == "bild"
    assert ENGLISH.texts == {}
