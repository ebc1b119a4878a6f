"""The shipped model at work: any picture, any words, and a pan that goes the told way."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from generator.protocol import Variant
from training.captions import Motion
from training.evaluate import Studio
from training.scenes import panoramas


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Studio:
    return Studio("demo", tmp_path_factory.mktemp("studio"))


def pictures() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(panoramas(held_back=True)[0])
    return {
        "portrait": photo.crop((0, 0, 90, 196)),
        "panorama of 10:1": photo.resize((1280, 128)),
        "1-bit": photo.convert("1").convert("RGB"),
        "drawing": Image.new("RGB", (200, 200), "white"),
        "noise": Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)),
    }


@pytest.mark.parametrize("name", pictures())
def test_any_picture_becomes_a_video(studio: Studio, name: str) -> None:
    frames, _ = studio.film(pictures()[name], "pan left", seconds=1.2, steps=3, resolution=64)
    assert len(frames) == 37
    assert (frames.std((1, 2, 3)) > 0).any() or name == "drawing"


@pytest.mark.parametrize("prompt", ["?", "she tells a joke 🙂", "قطة تمشي", "x" * 2000])
def test_words_outside_the_grammar_are_no_error(studio: Studio, prompt: str) -> None:
    photo = pictures()["portrait"]
    frames, _ = studio.film(photo, prompt, seconds=1.2, steps=3, resolution=64)
    assert len(frames) == 37


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "variant"), [(Motion.LEFT, Variant.I2V), (Motion.RIGHT, Variant.F1)]
)
def test_a_pan_goes_the_told_way(studio: Studio, told: Motion, variant: Variant) -> None:
    photo = Image.fromarray(panoramas(held_back=True)[1][:, 100:300])
    words = f"the camera {told.replace('pan', 'pans')}"
    score = studio.judge(photo, words, told, variant=variant, resolution=96, seconds=1.2)
    assert score.seen is told
    assert score.section_shares[0] > 0.4
