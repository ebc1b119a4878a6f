"""What a person is told over real sockets, in one sentence: out of range, too much, no space."""

from __future__ import annotations

from pathlib import Path

import pytest
from live import SLOW, Live, with_limits

from bot.playground import Upload

OUT_OF_RANGE: list[tuple[dict[str, object], str]] = [
    ({"prompt": "   "}, "Your prompt is empty"),
    ({"prompt": "x" * 5000}, "5,000 characters; at most 2,000"),
    ({"seconds": 100.0}, "You asked for 100 seconds; here at most 20"),
    ({"seconds": 0.01}, "seconds is 0.01; it must be between 0.1 and 120"),
    ({"steps": 0}, "steps is 0; it must be between 1 and 100"),
    ({"seed": -1}, "seed is -1"),
]


async def test_what_is_out_of_range_is_one_sentence(live: Live) -> None:
    async with live.running():
        for command in live.playground.api.commands.usable():  # a client that checks nothing
            for option in command.get("options", ()):
                for key in ("min_value", "max_value", "min_length", "max_length"):
                    option.pop(key, None)
        for options, words in OUT_OF_RANGE:
            asked = await live.animate(**options)
            await live.answer_says(asked, words)
            assert asked.response is not None and asked.response.ephemeral_for
    assert live.jobs() == []
    assert live.folders() == []


async def test_a_file_that_is_no_picture_is_one_sentence(live: Live) -> None:
    async with live.running():
        asked = await live.animate(picture=Upload(filename="a.png", data=b"%PDF-1.7 not one"))
        await live.sees(
            lambda: asked.response and "looking at your picture" not in asked.response.content
        )
        assert asked.response is not None
        assert asked.response.content.endswith(".")
    assert live.jobs() == []
    assert live.folders() == []


async def test_one_person_gets_a_fair_share(live: Live) -> None:
    async with live.running(*SLOW, config=with_limits(live.config, max_waiting_per_user=1)):
        await live.animate()
        await live.status_says("step ")
        asked = await live.animate()
        await live.answer_says(asked, "You already have 1 unfinished jobs")
        await live.animate(live.playground.cleo)
        await live.until(lambda: len(live.jobs()) == 2)


@pytest.mark.parametrize("limit", ["max_waiting_per_user", "max_per_day"])
async def test_who_asks_for_much_at_once_gets_no_more_than_others(live: Live, limit: str) -> None:
    limits = {"max_waiting_per_user": 9, limit: 2}
    async with live.running(*SLOW, config=with_limits(live.config, **limits)):
        asked = [await live.animate() for _ in range(6)]

        def decided() -> list[str]:
            texts = [one.response.content for one in asked if one.response is not None]
            return [text for text in texts if "in the queue: " in text or " is the most" in text]

        await live.sees(lambda: len(decided()) == len(asked))
        refused = [text for text in decided() if "and 2 is the most" in text]
        assert (len(refused), len(live.jobs()), len(live.folders())) == (4, 2, 2), decided()


async def test_a_full_disk_is_one_sentence(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    from bot.intake import Intake

    async def full(self: Intake, raw: bytes, destination: Path, small: Path | None) -> None:
        destination.parent.mkdir(parents=True)
        destination.with_suffix(".part").write_bytes(raw[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Intake, "accept", full)
    async with live.running():
        asked = await live.animate()
        await live.answer_says(asked, "My disk is full")
        assert live.folders() == []
        monkeypatch.undo()
    assert live.jobs() == []


async def test_an_error_nobody_foresaw_has_a_number_in_answer_and_log(
    live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from bot.orders import Orders

    async def broken(self: Orders, wish: object, admit: object) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    monkeypatch.setattr(Orders, "take", broken)
    async with live.running():
        asked = await live.animate()
        answer = await live.answer_says(asked, "the number `")
    number = answer.split("`")[1]
    [record] = [r for r in caplog.records if number in r.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
