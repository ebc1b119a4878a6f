"""Whatever stops a job leaves the picture only: a person, a broken model, a disk, an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from small_jobs import VIDEO, draw_picture, names_in, run_job, small_request, small_workshop

from generator import preview
from generator.errors import DiskError, GeneratorError, ModelError
from generator.pipeline import generate
from generator.protocol import ErrorKind, Progress, Stage
from generator.resume import discard
from generator.workshop import Workshop

# ---- stopping


def test_stopping_anywhere_leaves_the_picture_only(workshop: Workshop, tmp_path: Path) -> None:
    """Closed after each event in turn: what is kept to go on from is all that stays."""
    draw_picture(tmp_path / "input.png")
    stages, number = set(), 0
    while True:
        with closing(generate("job", small_request(), tmp_path, workshop)) as events:
            taken = list(islice(events, number + 1))
        number += 1
        if not isinstance(taken[-1], Progress):
            break
        stages.add(taken[-1].stage)
        discard(tmp_path)
        assert names_in(tmp_path) == {"input.png"}
    assert stages == set(Stage)
    assert not [p for p in psutil.Process().children(recursive=True) if "ffmpeg" in p.name()]


def test_a_preview_is_gone_when_the_job_is_stopped(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "EVERY_S", 0.0)
    draw_picture(tmp_path / "input.png")
    with closing(generate("job", small_request(), tmp_path, workshop)) as events:
        event = next(e for e in events if isinstance(e, Progress) and e.preview)
        assert (tmp_path / event.preview).exists()
    discard(tmp_path)
    assert names_in(tmp_path) == {"input.png"}


# ---- a broken model


@pytest.fixture
def own_workshop(tiny_model: Path) -> Workshop:
    """One that a test may break."""
    return small_workshop(tiny_model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonsense_from_the_first_step_on(
    own_workshop: Workshop, tmp_path: Path, bad: float
) -> None:
    with own_workshop.placement.on_gpu("transformer") as transformer:
        transformer.proj_out.bias.data[0] = bad
    with pytest.raises(ModelError, match=r"section 1 of 2 at step 1 of 2"):
        run_job(own_workshop, tmp_path, small_request())
    assert names_in(tmp_path) == {"input.png"}


def test_nonsense_that_begins_later_is_placed(own_workshop: Workshop, tmp_path: Path) -> None:
    calls = iter(range(100))

    def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if next(calls) >= 4 else output

    with own_workshop.placement.on_gpu("transformer") as transformer:
        transformer.proj_out.register_forward_hook(spoil)
    with pytest.raises(ModelError, match=r"section 2 of 2 at step 2 of 3"):
        run_job(own_workshop, tmp_path, small_request(steps=3))
    assert names_in(tmp_path) == {"input.png"}


def test_nonsense_from_the_decoder_is_no_black_video(
    own_workshop: Workshop, tmp_path: Path
) -> None:
    with own_workshop.placement.on_gpu("vae") as vae:
        vae.decoder.conv_out.conv.bias.data[0] = float("nan")
    with pytest.raises(ModelError, match="NaN or Inf") as caught:
        run_job(own_workshop, tmp_path, small_request())
    assert "decod" in str(caught.value)
    discard(tmp_path)
    assert names_in(tmp_path) == {"input.png"}


# ---- disk and encoder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A job's folder where the video's bytes go to a device that is full."""
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    (tmp_path / (VIDEO + ".part")).symlink_to("/dev/full")
    yield tmp_path


def test_a_full_disk_is_said_and_nothing_stays(workshop: Workshop, full_disk: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"):
        run_job(workshop, full_disk, small_request())
    discard(full_disk)
    assert names_in(full_disk) == {"input.png"}


def test_a_full_disk_at_the_record_takes_the_video_with_it(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text = Path.write_text

    def refuse(self: Path, *arguments: Any, **options: Any) -> int:
        if "framepack-job.json" not in self.name:
            return write_text(self, *arguments, **options)
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(DiskError, match="could not be written: No space left on device"):
        run_job(workshop, tmp_path, small_request())
    discard(tmp_path)
    assert names_in(tmp_path) == {"input.png"}


def test_an_encoder_that_dies_is_said_and_nothing_stays(workshop: Workshop, tmp_path: Path) -> None:
    draw_picture(tmp_path / "input.png")
    with (
        pytest.raises(GeneratorError, match="ffmpeg could not write the video"),
        closing(generate("job", small_request(), tmp_path, workshop)) as events,
    ):
        for event in events:
            if isinstance(event, Progress) and event.stage is Stage.DECODING:
                for child in psutil.Process().children():
                    child.kill()
                    child.wait()
    discard(tmp_path)
    assert names_in(tmp_path) == {"input.png"}


def test_a_missing_ffmpeg_is_said_before_anything_is_computed(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "no-such-ffmpeg"))
    draw_picture(tmp_path / "input.png")
    with pytest.raises(GeneratorError, match="ffmpeg") as caught:
        next(iter(generate("job", small_request(), tmp_path, workshop)))
    assert caught.value.kind is ErrorKind.INTERNAL
