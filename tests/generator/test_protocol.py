"""Messages and ranges: what passes, and what is refused with which words."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from generator import protocol
from generator.protocol import (
    Cancel,
    Failed,
    Finished,
    Generate,
    JobRequest,
    Progress,
    RequestError,
    Stage,
    decode_from_generator,
    decode_to_generator,
    encode_line,
    job_request,
    limits,
)

REQUEST = JobRequest(prompt="a cat\nwalks\u2028 🐈", seed=2**53 - 1, references=("a.png", "b.png"))
TO_GENERATOR = [
    Generate(job_id="a", folder="C:\\jobs\\a", request=REQUEST),
    Generate(job_id="a", folder="C:\\jobs\\a", request=REQUEST, only_finished=True),
    *(kind(job_id="a") for kind in (protocol.Cancel, protocol.Suspend, protocol.Finish)),
    protocol.Unload(),
    protocol.Measure(),
]
EXAMPLES: dict[str, Any] = {
    "job_id": "a",
    "message": "One\nsentence.",
    "kind": protocol.ErrorKind.DISK,
    "protocol_version": 1,
    "stage": Stage.SAMPLING,
    "stage_s": {Stage.SAMPLING: 1.5},
    "versions": {"torch": "2"},
    "elapsed_s": 1.25,
    "frames": 9,
    "width": 64,
    "height": 64,
    "fps": 30,
    "size_bytes": 10,
    "sections_made": 2,
    "sections": 5,
    "ram_used": 1 << 30,
    "ram_free": 1 << 34,
}


def example(kind: type[Any]) -> Any:
    fields = msgspec.structs.fields(kind)
    return kind(**{f.name: EXAMPLES.get(f.name, "text") for f in fields if f.required})


FROM_GENERATOR = [example(kind) for kind in typing.get_args(protocol.FromGenerator)]


@pytest.mark.parametrize("message", TO_GENERATOR, ids=lambda m: type(m).__name__)
def test_what_the_bot_says_arrives(message: Any) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert decode_to_generator(line) == message


@pytest.mark.parametrize("message", FROM_GENERATOR, ids=lambda m: type(m).__name__)
def test_what_the_generator_says_arrives(message: Any) -> None:
    line = encode_line(message)
    assert line.count(b"\n") == 1
    assert decode_from_generator(line) == message


def test_every_job_ends_with_one_of_these() -> None:
    events = set(typing.get_args(protocol.Event))
    assert set(protocol.TERMINAL) == events - {Progress}
    assert {Finished, Failed} <= events


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"type": "generate"}',
        b'{"type": "unknown", "job_id": "a"}',
        b'{"type": "cancel", "job_id": 3}',
        b"\xff\xfe",
    ],
)
def test_garbage_is_refused(line: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        decode_to_generator(line)


def test_a_message_of_the_wrong_direction_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_from_generator(encode_line(Cancel(job_id="a")))


def test_ranges_hold_on_the_wire_too() -> None:
    line = encode_line(TO_GENERATOR[0])
    with pytest.raises(msgspec.ValidationError, match="steps"):
        decode_to_generator(line.replace(b'"steps":25', b'"steps":101'))
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        decode_to_generator(line.replace(b'"steps":25', b'"stepz":25'))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0; it must be between 1 and 100"),
        ({"steps": 101}, "steps is 101; it must be between 1 and 100"),
        ({"seconds": 120.5}, "seconds is 120.5; it must be between 0.1 and 120"),
        ({"seconds": float("nan")}, "seconds is nan; it must be between 0.1 and 120"),
        ({"seconds": float("inf")}, "seconds is inf; it must be between 0.1 and 120"),
        ({"seed": -1}, "seed is -1; it must be between 0 and 9,007,199,254,740,991"),
        ({"seed": 2**53}, "seed is 9,007,199,254,740,992; it must be between 0 and"),
        ({"motion_bias": 0.4}, "motion_bias is 0.4; it must be between 0.5 and 25"),
        ({"consistency_boost": 2.1}, "consistency_boost is 2.1; it must be between 1 and 2"),
        ({"references": ("a",) * 17}, "references has 17 entries; 0 to 16 are allowed"),
        ({"prompt": "x" * 2001}, "prompt has 2,001 characters; 1 to 2,000 are allowed"),
        ({"negative_prompt": "x" * 2001}, "negative_prompt has 2,001 characters; 0 to 2,000"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t "}, "prompt is empty"),
        ({"prompt": "\ud800"}, "not valid Unicode"),
        ({"negative_prompt": "a \udfff"}, "not valid Unicode"),
        ({"variant": "i3v"}, "variant"),
        ({"step_cache": "tea"}, "step_cache"),
        ({"steps": "25"}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"fps": 0}, "fps is 0; it must be between 1 and 60"),
        ({"crf": 52}, "crf is 52; it must be between 0 and 51"),
    ],
    ids=str,
)
def test_a_request_is_refused_by_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        job_request(**{"prompt": "a cat", "seed": 1, **settings})
    assert words in str(caught.value)


@pytest.mark.parametrize("setting", sorted(protocol._LIMITS))
def test_both_ends_of_every_range_are_allowed(setting: str) -> None:
    low, high = limits(setting)
    for end in (low, high):
        value: Any = end
        if setting in ("prompt", "negative_prompt"):
            value = "x" * int(end)
        elif setting == "references":
            value = ("x.png",) * int(end)
        elif isinstance(end, int):
            value = int(end)
        request = job_request(**{"prompt": "a cat", "seed": 1, setting: value})
        assert getattr(request, setting) == value


def test_defaults_lie_in_their_ranges() -> None:
    request = job_request(prompt="a cat", seed=1)
    assert request == JobRequest(prompt="a cat", seed=1)
    for setting, (low, high) in protocol._LIMITS.items():
        value = getattr(request, setting)
        if isinstance(value, int | float):
            assert low <= value <= high


def test_a_setting_without_a_range_has_no_limits() -> None:
    with pytest.raises(KeyError):
        limits("variant")


def test_a_request_can_not_be_changed() -> None:
    with pytest.raises(AttributeError):
        REQUEST.seed = 3  # type: ignore[misc]
