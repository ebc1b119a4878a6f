"""Buckets, crops and prompts, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_jobs import draw_picture

from generator.encoders import bucket_size, cover_crop, encode_prompt, open_picture, video_size
from generator.errors import InputError
from generator.models import ModelFolder
from generator.protocol import Shape


@pytest.mark.parametrize(
    ("height", "width", "resolution", "bucket"),
    [
        (1080, 1920, 640, (480, 832)),
        (1920, 1080, 640, (832, 480)),
        (1000, 1000, 640, (640, 608)),  # as far from both neighbours: the later entry
        (608, 640, 640, (608, 640)),
        (1, 1000, 640, (416, 960)),
        (1000, 1, 640, (960, 416)),
        (500, 500, 64, (64, 64)),
        (1080, 1920, 320, (240, 416)),
        (1080, 1920, 1280, (960, 1664)),
    ],
)
def test_the_bucket_of_a_picture(
    height: int, width: int, resolution: int, bucket: tuple[int, int]
) -> None:
    assert bucket_size(height, width, resolution) == bucket


@pytest.mark.parametrize("resolution", range(64, 1281, 37))
def test_every_side_is_a_multiple_of_16(resolution: int) -> None:
    for height, width in ((1, 1), (9, 16), (16, 9), (1, 99)):
        assert all(side % 16 == 0 and side > 0 for side in bucket_size(height, width, resolution))


def two_steps(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The reference's way: the whole picture is scaled, then cut."""
    scale = max(width / image.width, height / image.height)
    large = image.resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    left, top = (large.width - width) / 2, (large.height - height) / 2
    return np.asarray(large.crop((left, top, left + width, top + height)))


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((64, 48), (48, 64)),
        ((100, 75), (64, 64)),
        ((37, 91), (80, 48)),
        ((91, 37), (48, 80)),
        ((640, 480), (64, 80)),
        ((333, 777), (96, 48)),
        ((7, 5), (64, 64)),
        ((3, 50), (96, 48)),
        ((1, 40), (96, 48)),
    ],
)
def test_the_crop_equals_scaling_and_cutting(
    tmp_path: Path, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    image = open_picture(draw_picture(tmp_path / "p.png", *picture))
    assert np.array_equal(cover_crop(image, size), two_steps(image, *size))


@pytest.mark.parametrize(("picture", "size"), [((1, 1000), (96, 48)), ((1000, 2), (48, 96))])
def test_a_narrow_picture_is_cut_before_it_is_scaled(
    tmp_path: Path, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    image = open_picture(draw_picture(tmp_path / "p.png", *picture))
    ours, theirs = cover_crop(image, size).astype(int), two_steps(image, *size).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_a_narrow_picture_is_not_blown_up_whole(tmp_path: Path) -> None:
    """1 × 1000 to cover 960 × 416 would be 416 × 416,000 pixels: 519 MB."""
    image = open_picture(draw_picture(tmp_path / "p.png", 1, 1000))
    before = _peak_rss_mib()
    assert cover_crop(image, (960, 416)).shape == (960, 416, 3)
    assert _peak_rss_mib() - before < 100


def _peak_rss_mib() -> float:
    resource = pytest.importorskip("resource", reason="Windows keeps no such figure")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="could not be read as a picture"):
        open_picture(draw_picture(tmp_path / "p.png", 64, 64))


class Recorder(torch.nn.Module):
    """Stands for Llama: gives each token's number back as its features."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, ids: torch.Tensor, **_: object) -> object:
        self.ids = ids
        states = tuple(ids[..., None].float() + 1000 * layer for layer in range(5))
        return type("Output", (), {"hidden_states": states})()


def test_a_prompt_is_cut_from_its_template(tiny_model: Path) -> None:
    tokenizer, llama = ModelFolder(tiny_model).load_tokenizer("tokenizer"), Recorder()
    features = encode_prompt(tokenizer, llama, "a cat")
    assert features.shape == (1, llama.ids.shape[1] - 95, 1)
    assert tokenizer.decode(features[0, :5, 0].long() - 2000) == "a cat"  # hidden_states[-3]


def test_a_long_prompt_is_cut_at_256_tokens(tiny_model: Path) -> None:
    tokenizer, llama = ModelFolder(tiny_model).load_tokenizer("tokenizer"), Recorder()
    assert encode_prompt(tokenizer, llama, "x" * 2000).shape == (1, 256, 1)
    assert llama.ids.shape == (1, 351)


@pytest.mark.parametrize(
    ("shape", "resolution", "size"),
    [
        (Shape.PICTURE, 640, (416, 960)),
        (Shape.SQUARE, 640, (640, 640)),
        (Shape.SQUARE, 250, (256, 256)),
        (Shape.PORTRAIT, 640, (832, 480)),
        (Shape.LANDSCAPE, 640, (480, 832)),
        (Shape.PORTRAIT, 320, (416, 240)),
    ],
)
def test_a_shape_is_the_pictures_or_as_named(
    shape: Shape, resolution: int, size: tuple[int, int], tmp_path: Path
) -> None:
    picture = draw_picture(tmp_path / "wide.png", width=96, height=40)
    assert video_size(picture, shape, resolution) == size
    assert cover_crop(open_picture(picture), size).shape == (*size, 3)
