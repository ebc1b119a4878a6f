"""Pictures and clips: the same for the same seed, and moving as they claim to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.captions import OPPOSITE, TEST_SUBJECTS, TOLD, Motion, caption, phrases
from training.data import PAN_PX, Pictures, draw_pictures, render, view_at
from training.flow import track
from training.scenes import (
    HELD_BACK,
    PANORAMAS,
    PHOTOGRAPHS,
    SIDE,
    panoramas,
    photographs,
    picture,
)

SIZE = (96, 96)


def as_bytes(clip: torch.Tensor) -> np.ndarray:
    return (clip.permute(0, 2, 3, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()


def test_a_seed_decides_a_picture() -> None:
    first = picture(7)
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, picture(7))
    assert not np.array_equal(first, picture(8))


def test_held_back_pictures_are_never_trained_on() -> None:
    names = {path.stem for folder in (PANORAMAS, PHOTOGRAPHS) for path in folder.glob("*.webp")}
    assert set(HELD_BACK) < names
    trained = [image.tobytes() for image in panoramas() + photographs()]
    held_back = panoramas(held_back=True) + photographs(held_back=True)
    assert len(trained) == len(names) - len(HELD_BACK)
    assert len(held_back) == len(HELD_BACK)
    assert all(image.tobytes() not in trained for image in held_back)


def test_every_picture_has_its_source_listed() -> None:
    sources = (PANORAMAS / "SOURCES.md").read_text("utf-8")
    assert all(path.stem in sources for path in PHOTOGRAPHS.glob("*.webp"))


@pytest.mark.parametrize("motion", TOLD)
def test_a_clip_moves_as_its_name_says(motion: Motion) -> None:
    clip = render(panoramas()[4], motion, range(37), SIZE, np.random.default_rng(1))
    (seen,) = track(as_bytes(clip), [0, 36])
    true = view_at(motion, 36)
    assert seen.x == pytest.approx(true.x, abs=0.8)
    assert seen.y == pytest.approx(true.y, abs=0.8)
    assert seen.log_zoom == pytest.approx(true.log_zoom, abs=0.02)


def test_a_clip_is_decided_by_its_seed() -> None:
    clips = [
        render(panoramas()[0], Motion.LEFT, range(3), SIZE, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(clips[0], clips[1])
    assert not torch.equal(clips[0], clips[2])


def test_motion_starts_fast_and_eases_out() -> None:
    steps = [view_at(Motion.RIGHT, t + 1).x - view_at(Motion.RIGHT, t).x for t in range(200)]
    assert steps[0] == pytest.approx(0.8, rel=0.02)
    assert steps == sorted(steps, reverse=True)
    assert view_at(Motion.RIGHT, 1000).x == pytest.approx(PAN_PX)


def test_every_motion_has_wordings_that_no_other_has() -> None:
    said = [phrase.lower() for motion in TOLD for phrase in phrases(motion)]
    assert len(said) == len(set(said))
    assert all(OPPOSITE[OPPOSITE[motion]] is motion for motion in OPPOSITE)


def test_captions_name_their_motion_whatever_surrounds_it() -> None:
    rng = np.random.default_rng(0)
    for motion in TOLD:
        for _ in range(40):
            text = caption(rng, motion, TEST_SUBJECTS).lower()
            assert any(phrase in text for phrase in phrases(motion)), text


def test_drawing_goes_on_where_it_was_stopped(tmp_path, monkeypatch) -> None:
    kept = np.zeros((25, SIDE, SIDE, 3), np.uint8)
    np.save(tmp_path / "00000.npy", kept)
    draw_pictures(tmp_path, 25, processes=1)
    assert np.array_equal(np.load(tmp_path / "00000.npy"), kept)
    monkeypatch.setattr("training.data.panoramas", lambda: [np.ones((4, 8, 3), np.uint8)])
    drawn = Pictures(tmp_path, shares=(0.0, 0.0)).draw(np.random.default_rng(0))
    assert drawn.shape == (SIDE, SIDE, 3)
