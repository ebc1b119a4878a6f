"""Section plan, index layout and history against tables written by hand.

A latent frame is a number here: S is the start, a0…a8 the first sampled section, b0… the second.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from generator.protocol import Variant
from generator.sections import (
    Context,
    History,
    frame_count,
    section_count,
    section_plan,
    time_indices,
)

I2V, F1 = Variant.I2V, Variant.F1
S, ZERO, END = 1000.0, 0.0, 2000.0


def latent(*values: float) -> Tensor:
    """One latent frame for each value, (1, 2, T, 1, 1)."""
    return torch.tensor(values).view(1, 1, -1, 1, 1).expand(1, 2, -1, 1, 1)


def section(letter: str, window: int) -> Tensor:
    return latent(*frames(letter, range(window)))


def frames(letter: str, numbers: range) -> list[float]:
    return [100.0 * (ord(letter) - ord("a") + 1) + number for number in numbers]


def values(tensor: Tensor) -> list[float]:
    assert torch.equal(tensor[:, 0], tensor[:, 1])
    return tensor[0, 0, :, 0, 0].tolist()


def seen(context: Context) -> tuple[list[float], list[float], list[float]]:
    clean = values(context.latents_clean)
    return clean, values(context.latents_history_2x), values(context.latents_history_4x)


def reference(image: int) -> float:
    return -1.0 - image


# ---- how many, in what order


@pytest.mark.parametrize(
    ("seconds", "window", "sections"),
    [
        (5, 9, 4),  # 150 / 36 = 4.17
        (120, 9, 100),
        (0.1, 9, 1),  # never none
        (0.6, 9, 1),  # 0.5 rounds to 0
        (1.8, 9, 2),  # 1.5 rounds to 2
        (3, 9, 2),  # 2.5 rounds to 2: half to even
        (4.2, 9, 4),  # 3.5 rounds to 4
        (1, 1, 8),  # 7.5 rounds to 8
        (120, 1, 900),
        (120, 33, 27),
    ],
)
def test_sections_of_a_video(seconds: float, window: int, sections: int) -> None:
    assert section_count(seconds, window) == sections


@pytest.mark.parametrize(
    ("sections", "plan"),
    [
        (1, (0,)),
        (2, (1, 0)),
        (3, (2, 1, 0)),
        (4, (3, 2, 1, 0)),
        (5, (3, 2, 2, 1, 0)),
        (6, (3, 2, 2, 2, 1, 0)),
        (7, (3, 2, 2, 2, 2, 1, 0)),
        (50, (3,) + (2,) * 47 + (1, 0)),
    ],
)
def test_i2v_counts_paddings_down_and_f1_has_none(sections: int, plan: tuple[int, ...]) -> None:
    assert section_plan(I2V, sections) == plan
    assert section_plan(F1, sections) == (0,) * sections


@pytest.mark.parametrize(
    ("window", "sections", "count"), [(9, 1, 37), (9, 4, 145), (1, 1, 5), (9, 100, 3601)]
)
def test_frames_of_a_video(window: int, sections: int, count: int) -> None:
    assert frame_count(sections, window) == count


# ---- positions on the time axis


@pytest.mark.parametrize(
    ("padding", "window", "one", "two", "four"),
    [
        (0, (1, 9), 10, (11, 12), (13, 28)),
        (1, (10, 18), 19, (20, 21), (22, 37)),
        (2, (19, 27), 28, (29, 30), (31, 46)),
        (3, (28, 36), 37, (38, 39), (40, 55)),
    ],
)
def test_i2v_places_history_behind_the_window(
    padding: int, window: tuple[int, int], one: int, two: tuple[int, int], four: tuple[int, int]
) -> None:
    positions = time_indices(I2V, padding, 9)
    assert positions["start"].tolist() == [0]
    assert positions["blank"].tolist() == list(range(1, window[0]))
    assert positions["window"].tolist() == list(range(window[0], window[1] + 1))
    assert positions["1x"].tolist() == [one]
    assert positions["2x"].tolist() == list(two)
    assert positions["4x"].tolist() == list(range(four[0], four[1] + 1))


def test_f1_places_history_before_the_window() -> None:
    positions = time_indices(F1, 0, 9)
    assert positions["start"].tolist() == [0]
    assert positions["4x"].tolist() == list(range(1, 17))
    assert positions["2x"].tolist() == [17, 18]
    assert positions["1x"].tolist() == [19]
    assert positions["window"].tolist() == list(range(20, 29))


@pytest.mark.parametrize(("variant", "clean"), [(I2V, [0, 19]), (F1, [0, 19])])
def test_a_context_carries_its_positions(variant: Variant, clean: list[int]) -> None:
    padding = 1 if variant is I2V else 0
    context = History(variant, 9, latent(S)).context(padding)
    positions = time_indices(variant, padding, 9)
    assert context.indices_latents_clean.tolist() == clean
    assert torch.equal(context.indices_latents, positions["window"])
    assert torch.equal(context.indices_latents_history_2x, positions["2x"])
    assert torch.equal(context.indices_latents_history_4x, positions["4x"])


# ---- what each section sees

A, B, C, D = ((lambda numbers, letter=letter: frames(letter, numbers)) for letter in "abcd")

I2V_STAGES = [
    # clean = start, 1x       2x                 4x, the nearest first
    ([S, ZERO], [ZERO] * 2, [ZERO] * 16),
    ([S, 100.0], [101.0, 102.0], [*A(range(3, 9)), *[ZERO] * 10]),
    ([S, 200.0], [201.0, 202.0], [*B(range(3, 9)), *A(range(9)), ZERO]),
    ([S, 300.0], [301.0, 302.0], [*C(range(3, 9)), *B(range(9)), 100.0]),
    ([S, 400.0], [401.0, 402.0], [*D(range(3, 9)), *C(range(9)), 200.0]),
]
F1_STAGES = [
    #                          4x, the farthest first
    ([S, S], [ZERO] * 2, [ZERO] * 16),
    ([S, 108.0], [106.0, 107.0], [*[ZERO] * 9, S, *A(range(6))]),
    ([S, 208.0], [206.0, 207.0], [S, *A(range(9)), *B(range(6))]),
    ([S, 308.0], [306.0, 307.0], [108.0, *B(range(9)), *C(range(6))]),
    ([S, 408.0], [406.0, 407.0], [208.0, *C(range(9)), *D(range(6))]),
]


@pytest.mark.parametrize(("variant", "stages"), [(I2V, I2V_STAGES), (F1, F1_STAGES)])
def test_every_section_sees_its_neighbours(variant: Variant, stages: list[tuple]) -> None:
    history = History(variant, 9, latent(S))
    for letter, expected in zip("abcde", stages, strict=True):
        assert seen(history.context(0)) == expected
        history.push(section(letter, 9))


@pytest.mark.parametrize("window", [1, 2, 4, 9, 16, 33])
def test_contexts_equal_the_history_written_out_as_one_tensor(window: int) -> None:
    """The reference keeps zeros in the history itself and cuts; so does this oracle."""
    backward = torch.zeros(1, 2, 19, 1, 1)
    forward = torch.cat([torch.zeros(1, 2, 19, 1, 1), latent(S)], dim=2)
    i2v, f1 = History(I2V, window, latent(S)), History(F1, window, latent(S))
    for letter in "abcdefg":
        one, two, four = backward[:, :, :19].split([1, 2, 16], dim=2)
        assert seen(i2v.context(0)) == ([S, *values(one)], values(two), values(four))
        four, two, one = forward[:, :, -19:].split([16, 2, 1], dim=2)
        assert seen(f1.context(0)) == ([S, *values(one)], values(two), values(four))
        piece = section(letter, window)
        backward = torch.cat([piece, backward], dim=2)
        forward = torch.cat([forward, piece], dim=2)
        i2v.push(piece)
        f1.push(piece)


# ---- additional pictures


@pytest.mark.parametrize(
    ("count", "slots"),
    [
        (1, [0] * 16),
        (2, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]),
        (3, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0]),
        (4, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]),
        (5, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]),
        (16, list(range(16))),
    ],
)
def test_references_fill_the_4x_slots(count: int, slots: list[int]) -> None:
    images = tuple(latent(reference(image)) for image in range(count))
    expected = [reference(image) for image in slots]
    i2v = History(I2V, 9, latent(S), references=images).context(0)
    assert seen(i2v) == ([S, ZERO], [ZERO] * 2, expected)
    f1 = History(F1, 9, latent(S), references=images).context(0)
    assert seen(f1) == ([S, S], [ZERO] * 2, expected[::-1])


def test_history_pushes_references_out_the_farthest_last() -> None:
    images = tuple(latent(reference(image)) for image in range(16))
    history = History(I2V, 9, latent(S), references=images)
    history.push(section("a", 9))
    assert seen(history.context(0))[2] == [*A(range(3, 9)), *map(reference, range(6, 16))]
    history.push(section("b", 9))
    assert seen(history.context(0))[2] == [*B(range(3, 9)), *A(range(9)), reference(15)]
    history.push(section("c", 9))
    assert seen(history.context(0))[2] == [*C(range(3, 9)), *B(range(9)), 100.0]


def test_in_f1_the_start_counts_as_sampled() -> None:
    images = tuple(latent(reference(image)) for image in range(16))
    history = History(F1, 1, latent(S), references=images)
    for letter in "abc":
        history.push(section(letter, 1))
    clean, two, four = seen(history.context(0))
    assert (clean, two) == ([S, 300.0], [100.0, 200.0])
    assert four == [*map(reference, range(15, 0, -1)), S]  # S took slot 0


# ---- the end frame


def test_the_end_takes_the_1x_slot_of_the_first_section_only() -> None:
    images = (latent(reference(0)),)
    history = History(I2V, 9, latent(S), references=images, end=latent(END))
    assert seen(history.context(0)) == ([S, END], [ZERO] * 2, [reference(0)] * 16)
    history.push(section("a", 9))
    clean, two, four = seen(history.context(0))
    assert (clean, two) == ([S, 100.0], [101.0, 102.0])
    assert END not in four


def test_the_end_is_no_part_of_the_video() -> None:
    history = History(I2V, 2, latent(S), end=latent(END))
    history.push(section("a", 2))
    assert values(history.latents()) == [S, 100.0, 101.0]


# ---- what comes out


@pytest.mark.parametrize(
    ("sections", "i2v", "f1"),
    [
        (1, [10], [10]),
        (2, [19, 9], [10, 18]),
        (3, [19, 18, 9], [10, 18, 18]),
        (4, [19, 18, 18, 9], [10, 18, 18, 18]),
        (7, [19, 18, 18, 18, 18, 18, 9], [10, 18, 18, 18, 18, 18, 18]),
        (50, [19, *[18] * 48, 9], [10, *[18] * 49]),
    ],
)
def test_chunk_lengths(sections: int, i2v: list[int], f1: list[int]) -> None:
    for variant, lengths in ((I2V, i2v), (F1, f1)):
        history = History(variant, 9, latent(S))
        for _ in range(sections):
            history.push(section("a", 9))
        found = [chunk.shape[2] for chunk in history.chunks()]
        assert found == lengths
        shared = (len(found) - 1) * (4 * 9 - 3)
        assert sum(4 * length - 3 for length in found) - shared == frame_count(sections, 9)


def test_chunks_are_in_time_order_and_share_a_section_with_the_next() -> None:
    i2v, f1 = History(I2V, 2, latent(S)), History(F1, 2, latent(S))
    for letter in "abc":
        i2v.push(section(letter, 2))
        f1.push(section(letter, 2))
    a, b, c = ([*frames(letter, range(2))] for letter in "abc")
    assert [values(chunk) for chunk in i2v.chunks()] == [[S, *c, *b], [*b, *a], a]
    assert [values(chunk) for chunk in f1.chunks()] == [[S, *a], [*a, *b], [*b, *c]]
    assert values(i2v.latents()) == [S, *c, *b, *a]
    assert values(f1.latents()) == [S, *a, *b, *c]
