"""Whole jobs: the same seed gives the same bytes, and whatever stops a job leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_jobs import (
    draw_picture,
    frames_in,
    names_in,
    run_job,
    sampled,
    sha256,
    small_request,
    small_workshop,
)

from generator import preview
from generator.errors import DiskError, GeneratorError, InputError, ModelError
from generator.models import ModelFolder
from generator.pipeline import generate
from generator.protocol import ErrorKind, Progress, RequestError, Stage, Variant, job_request
from generator.resume import discard
from generator.workshop import Workshop

VIDEO = "framepack-job.mp4"


@pytest.fixture(scope="module")
def workshop(tiny_model: Path) -> Workshop:
    return small_workshop(tiny_model)


def digests(workshop: Workshop, folder: Path, **changes: Any) -> tuple[str, str]:
    """What a job's latents and video weigh, byte for byte."""
    folder.mkdir()
    latents = folder / "latents.safetensors"
    run_job(workshop, folder, small_request(**changes), latents_out=latents)
    return sha256(latents), sha256(folder / VIDEO)


@pytest.fixture(scope="module")
def fresh(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The bytes of the small job, made by a process of its own."""
    folder = tmp_path_factory.mktemp("fresh") / "job"
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from small_jobs import small_workshop; from test_pipeline import digests\n"
        "print(*digests(small_workshop(Path(sys.argv[2])), Path(sys.argv[3])))"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(tiny_model)]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    latents, mp4 = done.stdout.split()
    return latents, mp4


# ---- the same seed, the same bytes


def test_twice_in_one_process_as_in_another(
    workshop: Workshop, tmp_path: Path, fresh: tuple[str, str]
) -> None:
    assert digests(workshop, tmp_path / "first") == fresh
    assert digests(workshop, tmp_path / "second") == fresh


def test_another_seed_gives_other_bytes(
    workshop: Workshop, tmp_path: Path, fresh: tuple[str, str]
) -> None:
    latents, mp4 = digests(workshop, tmp_path / "other", seed=8)
    assert latents != fresh[0]
    assert mp4 != fresh[1]


def test_after_a_cancelled_job_and_another_variant(
    workshop: Workshop, tmp_path: Path, fresh: tuple[str, str]
) -> None:
    draw_picture(tmp_path / "input.png")
    request = small_request(seed=99, true_cfg_scale=2.0, negative_prompt="x")
    with closing(generate("cancelled", request, tmp_path, workshop)) as events:
        next(event for event in events if isinstance(event, Progress) and event.step == 1)
    f1 = digests(workshop, tmp_path / "f1", variant=Variant.F1)
    assert f1 != fresh
    assert digests(workshop, tmp_path / "after") == fresh


@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_whether_previews_fall_due_or_not(
    workshop: Workshop,
    tmp_path: Path,
    fresh: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    every_s: float,
) -> None:
    monkeypatch.setattr(preview, "EVERY_S", every_s)
    assert digests(workshop, tmp_path / "job") == fresh


def test_with_an_encoding_cache_empty_or_full(
    tiny_model: Path, tmp_path: Path, fresh: tuple[str, str]
) -> None:
    workshop = small_workshop(tiny_model, tmp_path / "cache")
    assert digests(workshop, tmp_path / "encodes") == fresh
    assert digests(workshop, tmp_path / "remembers") == fresh


# ---- variants


def test_another_variant_loads_only_its_transformer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = ModelFolder.load

    def note(self: ModelFolder, part: str, dtype: torch.dtype) -> Any:
        loaded.append(part)
        return load(self, part, dtype)

    monkeypatch.setattr(ModelFolder, "load", note)
    workshop = small_workshop(tiny_model)
    run_job(workshop, tmp_path / "i2v", small_request())
    assert sorted(loaded) == [
        *("image_encoder", "text_encoder", "text_encoder_2", "transformer", "vae")
    ]
    loaded.clear()
    run_job(workshop, tmp_path / "f1", small_request(variant=Variant.F1))
    assert loaded == ["transformer_f1"]
    assert not workshop.placement.is_loaded("transformer")  # two would double the RAM
    loaded.clear()
    run_job(workshop, tmp_path / "again", small_request(variant=Variant.F1))
    assert loaded == []


def test_f1_without_weights_of_its_own_uses_the_others(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("transformer_f1"))
    workshop = small_workshop(folder)
    sampled(workshop, tmp_path, small_request(variant=Variant.F1))
    assert workshop.placement.is_loaded("transformer")


def test_f1_begins_at_the_start_and_i2v_at_the_end(workshop: Workshop, tmp_path: Path) -> None:
    """More sections do not change F1's first one, nor I2V's last one but for its padding."""
    short = sampled(workshop, tmp_path, small_request(variant=Variant.F1))["latents"]
    long = sampled(workshop, tmp_path, small_request(variant=Variant.F1, seconds=0.4))["latents"]
    assert torch.equal(long[:, :, :3], short)


# ---- every setting reaches the result


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "another"},
        {"guidance_scale": 3.0},
        {"true_cfg_scale": 2.0},
        {"motion_bias": 3.0},
        {"consistency_boost": 2.0},
        {"references": ("other.png",)},
        {"end_image": "other.png"},
        {"end_image": "other.png", "end_strength": 0.5},
        {"image": "other.png"},
    ],
    ids=str,
)
def test_a_setting_changes_the_latents(
    workshop: Workshop, tmp_path: Path, change: dict[str, Any]
) -> None:
    for name, phase in (("input.png", 0), ("other.png", 90)):
        draw_picture(tmp_path / name, phase=phase)
    found = []
    for settings in ({}, change):
        discard(tmp_path)
        file = tmp_path / "latents.safetensors"
        events = generate("job", small_request(**settings), tmp_path, workshop, latents_out=file)
        with closing(events):
            next(event for event in events if event.stage is Stage.DECODING)
        found.append(load_file(file)["latents"])
    assert not torch.equal(*found)


def test_the_negative_prompt_and_rescale_count_under_true_cfg_only(
    workshop: Workshop, tmp_path: Path
) -> None:
    def latents(**changes: Any) -> torch.Tensor:
        return sampled(workshop, tmp_path, small_request(**changes))["latents"]

    assert torch.equal(latents(), latents(negative_prompt="blurry", guidance_rescale=1.0))
    guided = latents(true_cfg_scale=4.0)
    assert not torch.equal(guided, latents(true_cfg_scale=4.0, negative_prompt="blurry"))
    assert not torch.equal(guided, latents(true_cfg_scale=4.0, guidance_rescale=1.0))


# ---- the record


def comment_of(mp4: Path) -> Any:
    """The JSON in the file's metadata, as ffmpeg prints it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(mp4)]
    text = subprocess.run(
        [*command, "-f", "ffmetadata", "-"], check=True, capture_output=True
    ).stdout.decode()
    (line,) = [line for line in text.replace("\\\n", "\n").split("\n") if line[:8] == "comment="]
    escaped = iter(line.removeprefix("comment="))
    return json.loads("".join(next(escaped) if char == "\\" else char for char in escaped))


def test_what_a_result_depends_on_is_beside_it_and_inside_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    prompt = 'quotes " and \\ and = ; # stay, ملك 🐈 too'
    _, finished = run_job(workshop, tmp_path, small_request(prompt=prompt, step_cache="teacache"))
    beside = json.loads((tmp_path / "framepack-job.json").read_text("utf-8"))
    measured = beside.pop("measured")
    assert comment_of(tmp_path / VIDEO) == beside
    assert beside["request"]["prompt"] == prompt
    assert (beside["request"]["seed"], beside["request"]["step_cache"]) == (7, "teacache")
    assert beside["versions"]["torch"] == torch.__version__
    assert beside["dtype"] == {"transformer": "float32", "encoders": "float32"}
    assert beside["device"] == "cpu"
    assert len(beside["model"]["digests"]) == 8
    assert measured["computed_steps"] == [[0, 1], [0, 1]]
    assert set(measured["stage_s"]) <= set(map(str, Stage))
    assert sum(measured["stage_s"].values()) == pytest.approx(finished.elapsed_s, abs=0.5)


def test_the_record_names_the_pictures_by_what_is_in_them(
    workshop: Workshop, tmp_path: Path
) -> None:
    records = []
    for phase in (0, 90):
        draw_picture(tmp_path / "input.png", phase=phase)
        run_job(workshop, tmp_path, small_request())
        records.append(comment_of(tmp_path / VIDEO))
    assert records[0] != records[1]


def test_the_finished_message_tells_the_truth(workshop: Workshop, tmp_path: Path) -> None:
    progress, finished = run_job(workshop, tmp_path, small_request())
    assert finished.video == VIDEO
    assert (finished.frames, finished.width, finished.height, finished.fps) == (9, 64, 64, 30)
    assert finished.size_bytes == (tmp_path / VIDEO).stat().st_size
    assert len(frames_in(tmp_path / VIDEO, 64, 64)) == 9
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert names_in(tmp_path) == {"input.png", VIDEO, "framepack-job.json"}


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


# ---- pictures and prompts from the real world


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
