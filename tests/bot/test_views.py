"""How a job looks, state by state. Pure: no Discord, no clock."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import bot
from bot.buttons import Action, JobButton, to_view
from bot.texts import Text
from bot.views import (
    Place,
    cancel_choice,
    clock,
    failure_sentence,
    part_sentence,
    plain,
    queue_embed,
    shorten,
    status_card,
    to_embed,
    without_paths,
)
from bot.words import FAILURES, PERMISSIONS, STAGES, STATES
from generator.protocol import ErrorKind, Progress, Stage, job_request
from storage.jobs import Delivery, Job, JobState

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BEGAN = int(NOW.timestamp())
SOON = BEGAN + 121


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "abcdefgh23",
        "interaction_id": 1,
        "ordinal": 0,
        "guild_id": 2,
        "channel_id": 3,
        "user_id": 4,
        "request": job_request(prompt=changes.pop("prompt", "a cat"), seed=11),
        "input_note": "",
        "state": JobState.QUEUED,
        "delivery": Delivery.NONE,
        "cancel_requested": False,
        "status_message_id": 5,
        "result_message_id": None,
        "created_at": NOW,
        "started_at": NOW,
        "ended_at": None,
        "error_kind": None,
        "error": None,
        "video": None,
        "attempts": 0,
        "delivery_attempts": 0,
    }
    return Job(**{**values, **changes})


def sampling(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "job_id": "abcdefgh23",
        "stage": Stage.SAMPLING,
        "section": 1,
        "sections": 3,
        "step": 12,
        "steps": 25,
        "fraction": 0.455,
        "step_s": 3.61,
        "remaining_s": 130.0,
    }
    return Progress(**{**values, **changes})


def test_a_running_job_shows_stage_section_step_bar_and_times(tmp_path: Path) -> None:
    card = status_card(
        job(state=JobState.RUNNING),
        NOW + timedelta(seconds=83),
        progress=sampling(preview="p-1.webp"),
        folder=tmp_path,
    )
    assert card.title == "Making the video"
    assert card.text == (
        "Making it move · section 1 of 3 · step 12 of 25\n"
        "█████████░░░░░░░░░░░ 45 %\n"
        f"done <t:{BEGAN + 83 + 130}:R> · 3.6 s a step · started <t:{BEGAN}:R>\n\n"
        "“a cat”\n-# For <@4> · 5 s · 25 steps · seed 11"
    )
    assert card.picture == tmp_path / "p-1.webp"
    assert (card.actions, card.job_id) == ((Action.CANCEL,), "abcdefgh23")
    assert card.footer == "job abcdefgh23"


def test_outside_sampling_no_section_or_step_is_named() -> None:
    progress = sampling(stage=Stage.DECODING, section=0, step=0)
    text = status_card(job(state=JobState.RUNNING), NOW, progress=progress).text
    assert text.startswith("Drawing the frames\n")


@pytest.mark.parametrize("asked", ["cancel_requested", "finish_requested"])
def test_who_stops_a_job_is_told_no_time_that_will_not_come(asked: str) -> None:
    stopped = job(state=JobState.RUNNING, sections=3, sections_made=2, **{asked: True})
    text = status_card(stopped, NOW, progress=sampling()).text
    assert "done <t:" not in text
    assert ("2 of 3 sections become the video" in text) is (asked == "finish_requested")


@pytest.mark.parametrize(
    ("changes", "title", "words", "buttons"),
    [
        (
            {},
            "Waiting in the queue",
            f"Position 3 in the queue · starts <t:{BEGAN + 121}:R>",
            "Cancel",
        ),
        ({"attempts": 1}, "Waiting in the queue", "this is attempt 2", "Cancel"),
        ({"state": JobState.RUNNING, "cancel_requested": True}, "Stopping", "started <t:", ""),
        (
            {"state": JobState.RUNNING, "finish_requested": True, "sections_made": 2},
            "Sending what is done",
            "started <t:",
            "Cancel",
        ),
        (
            {"turns": 1, "finish_requested": True, "sections_made": 2, "sections": 5},
            "Waiting for its next turn",
            "2 of 5 sections become the video at the next turn",
            "Cancel",
        ),
        ({"state": JobState.CANCELLED}, "Cancelled", "a cat", "Again Edit Delete"),
        (
            {"state": JobState.FAILED, "error_kind": ErrorKind.MEMORY, "error": "ask for less"},
            "No video",
            "There was not enough memory: ask for less",
            "Again Edit Delete",
        ),
        (
            {"state": JobState.FINISHED, "delivery": Delivery.PENDING},
            "Finished; the video is on its way",
            "",
            "",
        ),
        (
            {
                "state": JobState.FINISHED,
                "delivery": Delivery.DELIVERED,
                "ended_at": NOW + timedelta(seconds=3661),
            },
            "Finished",
            "Took 1:01:01",
            "Again Edit Delete",
        ),
        (
            {
                "state": JobState.FINISHED,
                "delivery": Delivery.DELIVERED,
                "ended_at": NOW,
                "result_message_id": 9,
                "sections_made": 2,
                "sections": 5,
            },
            "Finished",
            "Only its end: the last 2 of 5 sections, 2.0 of 5 s. "
            "It does not begin at the picture.\nTook 0:00 · [open](https://discord.com/channels/2/3/9)",
            "Again Edit Delete",
        ),
        (
            {"state": JobState.FINISHED, "delivery": Delivery.UNDELIVERABLE, "error": "too big"},
            "Finished, but the video could not be posted",
            "Too big",
            "Again Edit Delete",
        ),
    ],
)
def test_every_state_has_its_words(
    changes: dict[str, Any], title: str, words: str, buttons: str
) -> None:
    place = Place(position=3, starts_at=NOW + timedelta(seconds=121))
    card = status_card(job(**changes), NOW + timedelta(seconds=5), place=place)
    assert card.title == title
    assert words in card.text
    view = to_view(card.actions, card.job_id)
    labels = [item.item.label for item in view.children] if view else []
    assert " ".join(labels) == buttons


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (ErrorKind.INTERNAL, "The generator broke down"),
        (None, "The generator broke down"),
        (ErrorKind.DISK, "There is a problem with the disk on my side"),
    ],
)
def test_a_job_that_is_tried_again_says_what_was(kind: ErrorKind | None, what: str) -> None:
    card = status_card(job(attempts=2, error_kind=kind), NOW)
    assert f"{what}; this is attempt 3" in card.text


def test_the_next_job_is_called_so() -> None:
    assert "Next in the queue" in status_card(job(), NOW, place=Place(position=1)).text


def test_a_prompt_is_shown_and_not_obeyed() -> None:
    nasty = "**loud** `code` <@1> @everyone [x](http://y) ||s||\n# title\n> quote " + "x" * 3000
    card = status_card(job(prompt=nasty[:2000]), NOW)
    first = card.text.splitlines()[0]
    assert r"\*\*loud\*\* \`code\` \<\@1\> \@everyone \[x\](http://y)" in first
    assert len(card.text) < 2000
    assert first.endswith("…”")


def test_the_prompt_can_be_left_out() -> None:
    assert "a cat" not in status_card(job(), NOW, show_prompt=False).text


def test_the_note_about_the_picture_is_shown() -> None:
    card = status_card(job(input_note="first frame of an animation"), NOW)
    assert "Note: first frame of an animation" in card.text


def test_an_embed_stays_within_discords_limits() -> None:
    nasty = job(prompt="*" * 2000, input_note="_" * 300)
    embed = to_embed(status_card(nasty, NOW, place=Place(position=10**6, starts_at=NOW)))
    assert len(embed) < 6000
    assert len(embed.description or "") < 4096


def test_the_picture_is_referred_to_by_name(tmp_path: Path) -> None:
    card = status_card(
        job(state=JobState.RUNNING), NOW, progress=sampling(preview="../x/p.webp"), folder=tmp_path
    )
    assert card.picture == tmp_path / "p.webp"
    assert to_embed(card).image.url == "attachment://p.webp"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("can not write /data/jobs/abc/frame.png", "can not write frame.png"),
        (r"can not read C:\Users\me\in.png, sorry", "can not read in.png, sorry"),
        ("no space in /data/jobs/abc/", "no space in …"),
        ("13/25 steps and 4:3 are fine", "13/25 steps and 4:3 are fine"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
    ],
)
def test_paths_are_cut_to_their_last_part(message: str, shown: str) -> None:
    assert without_paths(message) == shown


def test_a_failure_says_whose_business_it_is() -> None:
    assert failure_sentence(ErrorKind.DISK, "/a/b full") == (
        "There is a problem with the disk on my side: b full"
    )


def test_the_queue_shows_everybody_and_no_prompts() -> None:
    waiting = [
        (
            job(user_id=number, prompt="secret"),
            Place(position=number, starts_at=NOW + timedelta(minutes=number)),
        )
        for number in range(1, 41)
    ]
    embed = queue_embed([(job(state=JobState.RUNNING), sampling())], waiting, NOW)
    text = embed.description or ""
    assert text.startswith(f"▶ <@4> · 5 s of video · 45 % · done <t:{BEGAN + 130}:R>")
    assert f"15. <@15> · 5 s of video · starts <t:{BEGAN + 900}:R>" in text
    assert "… and 25 more" in text
    assert "secret" not in text
    assert len(text) < 4096


def test_a_choice_fits() -> None:
    choice = cancel_choice(job(prompt="p" * 500))
    assert choice.startswith("abcdefgh23 · waiting · ppp")
    assert len(choice) == 100


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (7.4, "0:07"), (83, "1:23"), (3661, "1:01:01"), (-5, "0:00")],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("moved_s", "wait_s", "steady"),
    [(40, 200, True), (-40, 200, True), (60, 200, False), (300, 3600, True), (400, 3600, False)],
)
def test_an_estimate_stands_until_it_clearly_changes(
    moved_s: float, wait_s: float, steady: bool
) -> None:
    before = Place(position=2, starts_at=NOW + timedelta(seconds=wait_s - moved_s))
    after = Place(position=2, starts_at=NOW + timedelta(seconds=wait_s))
    assert after.steadied(before, NOW) == (before if steady else after)
    assert Place(position=1, starts_at=after.starts_at).steadied(before, NOW).position == 1


def test_an_estimate_that_has_passed_gives_way() -> None:
    before = Place(position=1, starts_at=NOW - timedelta(seconds=1))
    after = Place(position=1, starts_at=NOW + timedelta(seconds=20))
    assert after.steadied(before, NOW) == after
    assert after.steadied(Place(position=1), NOW) == after
    assert Place(position=1).steadied(after, NOW) == Place(position=1)


def test_while_the_queue_is_paused_it_says_so_and_no_time() -> None:
    place = Place(position=2, paused=True)
    assert (
        "Position 2 in the queue · the queue is paused" in status_card(job(), NOW, place=place).text
    )
    text = queue_embed([], [(job(), place)], NOW).description or ""
    assert text.startswith("Paused: nothing starts until an admin resumes the queue.\n2. <@4>")


def test_who_waits_for_a_generator_that_does_not_start_is_told_whose_business_it_is() -> None:
    place = Place(position=1, no_generator=True)
    words = "the generator can not be started at the moment; whoever runs me finds the reason"
    assert f"Next in the queue · {words}" in status_card(job(), NOW, place=place).text
    text = queue_embed([], [(job(), place)], NOW).description or ""
    assert text.startswith("T" + words[1:])


def test_f1s_part_is_its_beginning() -> None:
    request = job_request(prompt="a cat", seed=1, seconds=6, variant="f1")
    part = job(request=request, state=JobState.FINISHED, sections_made=2, sections=5)
    assert part_sentence(part) == "Only its beginning: the first 2 of 5 sections, 2.4 of 6 s."
    assert part_sentence(job(state=JobState.FINISHED, sections_made=5, sections=5)) == ""


def test_the_askers_picture_is_small_in_the_corner_unless_the_video_is_a_spoiler(
    tmp_path: Path,
) -> None:
    card = status_card(job(), NOW, folder=tmp_path)
    assert card.files == (tmp_path / "input-small.jpg",)
    assert to_embed(card).thumbnail.url == "attachment://input-small.jpg"
    hidden = status_card(
        job(state=JobState.RUNNING, spoiler=True),
        NOW,
        progress=sampling(preview="p.webp"),
        folder=tmp_path,
    )
    assert hidden.files == ()


def test_shorten_and_plain() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert plain("a\n\n b") == "a b"


def test_a_prompt_stays_in_its_line() -> None:
    assert plain("a \u202ecat\u202c \u2067runs\u2069") == "a cat runs"
    assert plain("c" + "\u0301" * 300 + "at") == "c\u0301\u0301at"
    for text in ("Việt e\u0302\u0301", "שלום", "👩\u200d🚀", "日本"):
        assert plain(text) == text


def test_the_buttons_id_holds_the_job() -> None:
    button = JobButton(Action.CANCEL, "abcdefgh23")
    template = JobButton.__discord_ui_compiled_template__
    match = template.fullmatch(button.custom_id)
    assert match is not None
    assert match["job"] == "abcdefgh23"


def test_every_stage_state_and_failure_has_words() -> None:
    assert set(STAGES) == set(Stage)
    assert set(STATES) == set(JobState)
    assert set(FAILURES) == set(ErrorKind)
    assert PERMISSIONS["attach_files"] == "Attach Files"


def test_every_text_is_said_somewhere() -> None:
    code = "".join(
        path.read_text(encoding="utf-8") for path in Path(bot.__file__).parent.glob("*.py")
    )
    unused = [text.name for text in Text if f"Text.{text.name}" not in code]
    assert unused == []
