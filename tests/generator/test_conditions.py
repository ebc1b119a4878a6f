"""What is encoded is encoded once, and what is kept on disk can be lost at any time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from small_jobs import names_in, run_job, sampled, small_request, small_workshop
from torch import Tensor

from generator import conditions
from generator.conditions import Conditions, EncodingCache, TextEmbeds
from generator.tiny import make_tiny_model
from generator.workshop import Workshop

ENCODERS = ("text_encoder", "text_encoder_2", "image_encoder", "vae")


def loaded(workshop: Workshop) -> set[str]:
    return {part for part in ENCODERS if workshop.placement.is_loaded(part)}


@pytest.fixture(scope="module")
def filled(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder after the small job."""
    folder = tmp_path_factory.mktemp("filled")
    sampled(small_workshop(tiny_model, folder / "cache"), folder, small_request())
    return folder / "cache"


# ---- encoded once


def test_a_re_roll_loads_no_encoder(tiny_model: Path, filled: Path, tmp_path: Path) -> None:
    workshop = small_workshop(tiny_model, filled)
    sampled(workshop, tmp_path, small_request(seed=1234, steps=3, variant="f1"))
    assert loaded(workshop) == set()


def test_another_prompt_loads_the_text_encoders_only(
    tiny_model: Path, filled: Path, tmp_path: Path
) -> None:
    workshop = small_workshop(tiny_model, filled)
    sampled(workshop, tmp_path, small_request(prompt="a dog sleeps"))
    assert loaded(workshop) == {"text_encoder", "text_encoder_2"}


def test_another_size_loads_the_image_encoders_only(
    tiny_model: Path, filled: Path, tmp_path: Path
) -> None:
    workshop = small_workshop(tiny_model, filled)
    sampled(workshop, tmp_path, small_request(resolution=96))
    assert loaded(workshop) == {"image_encoder", "vae"}


def test_a_negative_prompt_is_kept_too(tiny_model: Path, filled: Path, tmp_path: Path) -> None:
    request = small_request(true_cfg_scale=2.0, negative_prompt="blurry")
    sampled(small_workshop(tiny_model, filled), tmp_path, request)
    workshop = small_workshop(tiny_model, filled)
    sampled(workshop, tmp_path, request)
    assert loaded(workshop) == set()


def test_one_process_without_a_folder_encodes_each_time(tiny_model: Path, tmp_path: Path) -> None:
    workshop = small_workshop(tiny_model, None)
    first = sampled(workshop, tmp_path, small_request())["latents"]
    assert loaded(workshop) == set(ENCODERS)
    assert torch.equal(sampled(workshop, tmp_path, small_request())["latents"], first)


def test_another_model_finds_nothing_of_this_one(
    tiny_model: Path, filled: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    make_tiny_model(other, seed=5)
    plain = sampled(small_workshop(other), tmp_path, small_request())["latents"]
    workshop = small_workshop(other, filled)
    assert torch.equal(sampled(workshop, tmp_path, small_request())["latents"], plain)
    assert loaded(workshop) == set(ENCODERS)


# ---- the folder


def ones(size: int = 100) -> Callable[[], Tensor]:
    return lambda: torch.ones(size)


def never() -> Tensor:
    raise AssertionError("this was to be kept")


def test_what_was_kept_comes_back_equal(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path / "new" / "folder")
    value = torch.randn(1, 7, 5)
    assert torch.equal(cache.get(("a", b"b"), lambda: value), value)
    again = EncodingCache(tmp_path / "new" / "folder").get(("a", b"b"), never)
    assert torch.equal(again, value)
    assert again.dtype == value.dtype


def test_keys_do_not_run_into_each_other(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path)
    cache.get(("ab", "c"), ones(1))
    assert len(cache.get(("a", "bc"), ones(2))) == 2
    assert len(cache.get(("abc",), ones(3))) == 3


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, "half", "other name"])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, content: bytes | str) -> None:
    cache = EncodingCache(tmp_path)
    cache.get(("key",), ones())
    (file,) = tmp_path.iterdir()
    if content == "half":
        file.write_bytes(file.read_bytes()[:-50])
    elif content == "other name":
        save_file({"y": torch.zeros(3)}, file)
    else:
        file.write_bytes(content)  # type: ignore[arg-type]
    assert torch.equal(cache.get(("key",), ones()), torch.ones(100))
    assert torch.equal(cache.get(("key",), never), torch.ones(100))


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    size = 1000 * 4 + 100
    cache = EncodingCache(tmp_path, keep_bytes=3 * size)
    for age, key in ((40, "a"), (30, "b"), (20, "c")):
        before = names_in(tmp_path)
        cache.get((key,), ones(1000))
        (name,) = names_in(tmp_path) - before
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    cache.get(("a",), never)  # now b is the longest unused
    cache.get(("d",), ones(1000))
    for key in "acd":
        cache.get((key,), never)
    calls = []
    cache.get(("b",), lambda: calls.append("b") or torch.ones(1000))
    assert calls == ["b"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * size


def test_something_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = EncodingCache(tmp_path, keep_bytes=1000)
    assert len(cache.get(("big",), ones(1000))) == 1000
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space left")]
)
def test_a_full_disk_costs_the_memory_not_the_job(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def refuse(_: object, file: Path) -> None:
        file.touch()
        raise error

    monkeypatch.setattr(conditions, "save_file", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(EncodingCache(tmp_path).get(("key",), ones())) == 100
    assert "not kept" in caplog.text
    assert names_in(tmp_path) == set()


def test_a_folder_that_can_not_be_costs_the_memory_not_the_job(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    workshop = small_workshop(tiny_model, tmp_path / "file" / "cache")
    run_job(workshop, tmp_path / "job", small_request(steps=1, seconds=0.1))


def test_nothing_half_written_stays(filled: Path) -> None:
    assert {path.suffix for path in filled.iterdir()} == {".safetensors"}


# ---- the end frame's share of the image features


def with_end(strength: float, *, end: bool = True) -> Conditions:
    text = TextEmbeds(prompt_embeds=torch.zeros(1), pooled_projections=torch.zeros(1))
    return Conditions(
        positive=text,
        negative=None,
        image_embeds=torch.tensor([10.0]),
        start=torch.zeros(1),
        end_image_embeds=torch.tensor([20.0]) if end else None,
        end_strength=strength,
    )


@pytest.mark.parametrize(
    ("strength", "sections", "expected"),
    [
        (1.0, 5, [20.0, 17.5, 15.0, 12.5, 10.0]),  # sampled first is the video's end
        (0.5, 5, [15.0, 13.75, 12.5, 11.25, 10.0]),
        (0.0, 3, [10.0, 10.0, 10.0]),
        (1.0, 1, [15.0]),  # one section stands between the two
    ],
)
def test_image_features_go_from_end_to_start(
    strength: float, sections: int, expected: list[float]
) -> None:
    conditions = with_end(strength)
    assert [conditions.image_embeds_of(i, sections).item() for i in range(sections)] == expected


def test_without_an_end_they_stay() -> None:
    conditions = with_end(1.0, end=False)
    assert [conditions.image_embeds_of(i, 2).item() for i in range(2)] == [10.0, 10.0]
