"""What a job's bytes depend on: the same seed gives the same ones, every setting changes them."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_jobs import VIDEO, draw_picture, run_job, sampled, sha256, small_request, small_workshop

from generator import preview
from generator.models import ModelFolder
from generator.pipeline import generate
from generator.protocol import Progress, Stage, Variant
from generator.resume import discard
from generator.workshop import Workshop


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
