"""Pictures and prompts from the real world, lengths and rates: what works, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from small_jobs import (
    VIDEO,
    comment_of,
    draw_picture,
    frames_in,
    names_in,
    run_job,
    sampled,
    small_request,
)

from generator.errors import InputError
from generator.pipeline import generate
from generator.protocol import RequestError, job_request
from generator.workshop import Workshop


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1), (1, 1), (3, 2)])
def test_odd_pictures_work(workshop: Workshop, tmp_path: Path, width: int, height: int) -> None:
    draw_picture(tmp_path / "input.png", width, height)
    _, finished = run_job(workshop, tmp_path, small_request(steps=1, seconds=0.1))
    assert (finished.height > finished.width) == (height > width)
    assert finished.height % 16 == finished.width % 16 == 0


@pytest.mark.parametrize(
    "prompt",
    ["🐈‍⬛🏃‍♀️ 🇺🇦", "قطة تمشي في الغرفة", "a\tcat\nwalks\x00", "{} {0} %s <|eot_id|>", "x" * 2000],
    ids=["emoji", "right to left", "control characters", "braces", "long"],
)
def test_odd_prompts_work(workshop: Workshop, tmp_path: Path, prompt: str) -> None:
    run_job(workshop, tmp_path, small_request(prompt=prompt, steps=1, seconds=0.1))
    assert comment_of(tmp_path / VIDEO)["request"]["prompt"] == prompt


def test_twenty_thousand_tokens_are_refused_by_length() -> None:
    with pytest.raises(RequestError, match="prompt has 40,000 characters; 1 to 2,000 are allowed"):
        job_request(prompt="a " * 20_000, seed=1)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no picture input.png"),
        (b"", "input.png could not be read as a picture"),
        (b"GIF89a" + b"\0" * 10, "input.png could not be read as a picture"),
        (b"\x89PNG\r\n\x1a\n" + b"rubbish" * 20, "input.png could not be read as a picture"),
    ],
)
def test_what_is_no_picture_is_refused(
    workshop: Workshop, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "input.png").write_bytes(content)
    before = names_in(tmp_path)
    with pytest.raises(InputError, match=sentence):
        next(iter(generate("job", small_request(), tmp_path, workshop)))
    assert names_in(tmp_path) == before


def test_a_cut_off_picture_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("whole.png", "whole.jpg"):
        whole = draw_picture(tmp_path / name, 200, 200).read_bytes()
        (tmp_path / "input.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match=r"input\.png could not be read as a picture"):
            next(iter(generate("job", small_request(), tmp_path, workshop)))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow's own advice
def test_a_transparent_palette_picture_works(workshop: Workshop, tmp_path: Path) -> None:
    Image.new("P", (40, 40), 3).save(tmp_path / "input.png", transparency=3)
    run_job(workshop, tmp_path, small_request(steps=1, seconds=0.1))


def test_two_minutes_are_sampled(workshop: Workshop, tmp_path: Path) -> None:
    request = small_request(seconds=120, latent_window_size=9, steps=2)
    latents = sampled(workshop, tmp_path, request)["latents"]
    assert latents.shape == (1, 16, 1 + 100 * 9, 8, 8)
    assert latents.isfinite().all()


@pytest.mark.parametrize(("fps", "frames"), [(1, 1), (12, 4), (24, 7), (30, 9), (60, 18)])
def test_another_rate_keeps_the_seconds(
    workshop: Workshop, tmp_path: Path, fps: int, frames: int
) -> None:
    progress, finished = run_job(workshop, tmp_path, small_request(steps=1, fps=fps))
    assert (finished.frames, finished.fps) == (frames, fps)
    assert len(frames_in(tmp_path / VIDEO, 64, 64)) == frames
    assert progress[-1].fraction == 1
    assert all(event.remaining_s is None or event.remaining_s >= 0 for event in progress)
