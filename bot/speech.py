"""In which language somebody is spoken to, and how a text of the table becomes a sentence.

Decides: which languages there are (the files `languages/LOCALE.toml`), that what one person asked
for is answered in that person's language, that everything else is English. Refuses to know: the
texts (`bot.texts`, `bot.words`), Discord. A language that lacks a text says it in English.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from functools import cache
from pathlib import Path

import msgspec

LANGUAGES_DIR = Path(__file__).resolve().parent / "languages"


class Table(StrEnum):
    """A part of the table of texts: a text's name is its key, its value the English."""


class Language(msgspec.Struct, frozen=True, kw_only=True):
    """A translation: `texts` by their keys, and what the options of commands are called."""

    texts: dict[str, str] = {}
    options: dict[str, str] = {}


ENGLISH = Language()
_spoken: ContextVar[Language] = ContextVar("spoken", default=ENGLISH)


@cache
def languages() -> Mapping[str, Language]:
    """Every translation by Discord's name for its locale."""
    return {
        file.stem: msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Language)
        for file in sorted(LANGUAGES_DIR.glob("*.toml"))
    }


def listen(locale: str) -> None:
    """Whatever is said from now on in this asyncio task is said in the language of this locale."""
    _spoken.set(languages().get(locale, ENGLISH))


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """What is said in the block is said in this language."""
    token = _spoken.set(language)
    try:
        yield
    finally:
        _spoken.reset(token)


def say(text: Table, **values: object) -> str:
    """The text with its values filled in. KeyError when one is missing.

    A value that is itself a text is said in the same language.
    """
    pattern = _spoken.get().texts.get(text.name, text.value)
    said = {name: say(v) if isinstance(v, Table) else v for name, v in values.items()}
    return pattern.format(**said)
