"""Pixels on their way to the file: fades, rounding, rates, the encoder, previews."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from small_jobs import frames_in, names_in, sha256
from torch import Tensor

from generator.errors import DiskError, GeneratorError, ModelError
from generator.preview import Previews
from generator.protocol import Resampling
from generator.video import (
    Mp4Writer,
    cross_fade,
    frame_total,
    preview_map,
    preview_rgb,
    quantise,
    resample,
    write_preview,
)


def chunk(*values: float) -> Tensor:
    """One frame of one pixel for each value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def values(pieces: Iterator[Tensor]) -> list[float]:
    return torch.cat(list(pieces))[:, 0, 0, 0].tolist()


# ---- the cross-fade


def test_neighbours_fade_by_hand() -> None:
    chunks = [chunk(0, 1, 2, 3, 4), chunk(12, 13, 14, 15, 16), chunk(24, 25, 26, 27)]
    # of three shared frames the earlier chunk has 1, 1/2, 0
    faded = [0, 1, 2, (3 + 13) / 2, 14, (15 + 25) / 2, 26, 27]
    expected = [*faded[:5], 15 * 0.5 + 25 * 0.5, 26, 27]
    assert values(cross_fade([chunks[0], chunks[1]], 3)) == [0, 1, 2, 8, 14, 15, 16]
    assert values(cross_fade(chunks, 3)) == expected


def test_one_shared_frame_is_the_earlier_chunks() -> None:
    assert values(cross_fade([chunk(1, 2, 3), chunk(30, 40)], 1)) == [1, 2, 3, 40]


def test_a_single_chunk_passes(overlap: int = 3) -> None:
    assert values(cross_fade([chunk(1, 2, 3, 4)], overlap)) == [1, 2, 3, 4]
    assert values(cross_fade([chunk(1, 2, 3)], overlap)) == [1, 2, 3]


def test_no_chunk_is_asked_for_before_its_time() -> None:
    asked = []

    def chunks() -> Iterator[Tensor]:
        for number in range(3):
            asked.append(number)
            yield chunk(*range(5))

    pieces = cross_fade(chunks(), 2)
    next(pieces)
    assert asked == [0]
    next(pieces)
    assert asked == [0, 1]


# ---- rounding


def test_quantising_truncates() -> None:
    pixels = [-9.0, -1.0, -0.9999, 0.0, 0.0039, 0.5, 0.9999, 1.0, 9.0]
    #                    0.013 127.5 127.997 191.25  254.98
    assert quantise(chunk(*pixels))[:, 0, 0, 0].tolist() == [0, 0, 0, 127, 127, 191, 254, 255, 255]


def test_quantising_turns_channels_last() -> None:
    pixels = torch.rand(2, 3, 4, 5)
    frames = quantise(pixels)
    assert frames.shape == (2, 4, 5, 3)
    assert frames.dtype == np.uint8
    assert frames[1, 3, 2, 0] == int(pixels[1, 0, 3, 2] * 127.5 + 127.5)


# ---- another rate


def frames(*levels: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), level, np.uint8) for level in levels]


def resampled(levels: list[int], fps: int, how: Resampling) -> list[int]:
    source = iter(frames(*levels))
    got = [int(frame[0, 0, 0]) for frame in resample(source, len(levels), fps, how)]
    assert next(source, None) is None  # the decoder was drawn to its end
    return got


@pytest.mark.parametrize(
    ("levels", "fps", "nearest", "blend"),
    [
        ([0, 100, 200], 30, [0, 100, 200], [0, 100, 200]),
        # middles at −1/4, 1/4, 3/4, 5/4, 7/4, 9/4 of a source frame
        ([0, 100, 200], 60, [0, 0, 100, 100, 200, 200], [0, 25, 75, 125, 175, 200]),
        # middles between two frames
        ([0, 40, 80, 120], 15, [40, 120], [20, 100]),
        # each fifth: 2 and 7
        (list(range(0, 100, 10)), 6, [20, 70], [20, 70]),
        (list(range(31)), 1, [15], [15]),
        ([7], 60, [7, 7], [7, 7]),
        ([7], 1, [7], [7]),
    ],
)
def test_rates_by_hand(levels: list[int], fps: int, nearest: list[int], blend: list[int]) -> None:
    assert resampled(levels, fps, Resampling.NEAREST) == nearest
    assert resampled(levels, fps, Resampling.BLEND) == blend


@pytest.mark.parametrize("how", list(Resampling))
@pytest.mark.parametrize("fps", [1, 12, 24, 25, 29, 30, 31, 60])
@pytest.mark.parametrize("count", [5, 37, 145])
def test_the_video_keeps_its_seconds(count: int, fps: int, how: Resampling) -> None:
    levels = [round(255 * i / (count - 1)) for i in range(count)]
    got = resampled(levels, fps, how)
    assert len(got) == frame_total(count, fps)
    assert abs(len(got) / fps - count / 30) <= 0.5 / fps or len(got) == 1
    assert got == sorted(got)  # nothing jumps back
    assert abs(np.mean(got) - 127.5) < 128 / len(got) + 2  # nor runs ahead


def test_a_mixture_does_not_overflow() -> None:
    assert resampled([255, 255, 254], 60, Resampling.BLEND) == [255, 255, 255, 255, 254, 254]


# ---- the file


def write(path: Path, fps: int = 30, crf: int = 16, count: int = 10) -> Path:
    writer = Mp4Writer(path, (32, 48), fps, crf, {"prompt": "ümlaut = 1; # 2\\"})
    try:
        for number in range(count):
            frame = np.zeros((32, 48, 3), np.uint8)
            frame[:, : 4 * number, number % 3] = 200
            writer.write(frame)
        return writer.close()
    finally:
        writer.abort()


def described(path: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def test_the_file_is_what_every_player_takes(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", fps=24)
    text = described(path)
    for words in ("h264", "yuv420p(tv", "48x32", "24 fps", "Duration: 00:00:00.42"):
        assert words in text
    raw = path.read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")  # plays before it has arrived whole
    assert len(frames_in(path, 48, 32)) == 10
    assert names_in(tmp_path) == {"v.mp4"}


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    assert sha256(write(tmp_path / "a.mp4")) == sha256(write(tmp_path / "b.mp4"))


def test_crf_decides_the_size(tmp_path: Path) -> None:
    best, worst = write(tmp_path / "a.mp4", crf=0), write(tmp_path / "b.mp4", crf=51)
    assert best.stat().st_size > worst.stat().st_size


def test_colours_come_back(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    writer = Mp4Writer(path, (32, 48), 30, 1, {})
    colour = np.array([200, 60, 30], np.uint8)
    for _ in range(3):
        writer.write(np.broadcast_to(colour, (32, 48, 3)))
    writer.close()
    assert np.abs(frames_in(path, 48, 32).astype(int) - colour).max() <= 4


def test_an_aborted_file_is_gone(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "v.mp4", (32, 48), 30, 16, {})
    writer.write(np.zeros((32, 48, 3), np.uint8))
    writer.abort()
    writer.abort()
    assert names_in(tmp_path) == set()


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match=r"ffmpeg could not write the video: .*No such file"):
        write(tmp_path / "nowhere" / "v.mp4")


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    (tmp_path / "v.mp4.part").symlink_to("/dev/full")
    with pytest.raises(DiskError, match="disk is full"):
        write(tmp_path / "v.mp4", crf=0, count=200)
    assert names_in(tmp_path) == set()


# ---- previews


def latents(size: tuple[int, ...] = (1, 16, 3, 4, 5)) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def test_the_published_map_by_hand() -> None:
    x0 = torch.zeros(1, 16, 1, 1, 2)
    x0[0, 10, 0, 0, 1] = 2.0  # row 11 of the table
    rgb = preview_rgb(x0, *preview_map(None))
    assert rgb.shape == (1, 1, 2, 3)
    assert rgb[0, 0, 0].tolist() == pytest.approx([0.0259, 0.0, 0.0])  # negative is black
    expected = [0.0259 + 2 * 0.1166, -0.0192 + 2 * 0.1627, -0.0761 + 2 * 0.0962]
    assert rgb[0, 0, 1].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_models_own_map() -> None:
    factors = [[0.0, 0.0, 0.0] for _ in range(16)]
    factors[3] = [1.0, 0.0, -1.0]
    rgb = preview_rgb(latents(), *preview_map({"factors": factors, "bias": [0.5, 0.25, 0.5]}))
    assert torch.allclose(rgb[..., 0], (latents()[0, 3] + 0.5).clamp(0, 1))
    assert torch.equal(rgb[..., 1], torch.full((3, 4, 5), 0.25))
    assert torch.allclose(rgb[..., 2], (0.5 - latents()[0, 3]).clamp(0, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"factors": [[0.0] * 3] * 15, "bias": [0.0] * 3},
        {"factors": [[0.0] * 3] * 16, "bias": [0.0]},
        {"factors": [[0.0] * 3] * 16},
        {"factors": "x", "bias": [0.0] * 3},
        {"factors": [[0.0], [0.0, 1.0]], "bias": [0.0] * 3},
        [1, 2],
    ],
    ids=["15 rows", "short bias", "no bias", "text", "ragged", "a list"],
)
def test_a_map_that_is_none_is_refused(settings: object) -> None:
    with pytest.raises(ModelError, match=r"preview\.json"):
        preview_map(settings)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_preview_is_a_moving_picture(tmp_path: Path, count: int) -> None:
    path = tmp_path / "p.webp"
    rgb = torch.rand(count, 6, 8, 3)
    write_preview(path, rgb)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("WEBP", (8, 6))
        assert getattr(image, "n_frames", 1) == count
        if count > 1:
            image.seek(1)
            image.load()
            assert image.info["duration"] == 133


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_previews_come_every_two_seconds_and_at_the_end(tmp_path: Path) -> None:
    clock = Clock()
    previews = Previews(tmp_path, preview_map(None), clock)
    names = []
    for now, at_once in ((1.9, False), (2.0, False), (3.9, False), (3.95, True), (5.9, False)):
        clock.now = now
        names.append(previews.show(latents(), at_once=at_once))
    assert names == [None, "preview-1.webp", None, "preview-2.webp", None]
    clock.now = 6.0
    assert previews.show(latents()) == "preview-3.webp"
    assert names_in(tmp_path) == {"preview-2.webp", "preview-3.webp"}  # the older may be on its way
    previews.close()
    assert names_in(tmp_path) == set()


def test_a_preview_that_somebody_removed_is_no_error(tmp_path: Path) -> None:
    previews = Previews(tmp_path, preview_map(None), Clock())
    for _ in range(3):
        name = previews.show(latents(), at_once=True)
        assert name is not None
        (tmp_path / name).unlink()
    previews.close()
