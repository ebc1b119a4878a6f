"""Models of other shapes than the golden cases' make what the plain rules say, from the CLI on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import by_the_book
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel
from safetensors.torch import load_file
from small_jobs import draw_picture
from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

from generator.__main__ import main
from generator.tiny import make_tiny_model
from generator.video import Mp4Writer

pytestmark = pytest.mark.slow

CASE: dict[str, Any] = {
    "variant": "i2v",
    "prompt": "a cat walks",
    "negative_prompt": "",
    "seed": 3,
    "seconds": 1.0,
    "latent_window_size": 4,
    "steps": 6,
    "resolution": 64,
    "guidance_scale": 10.0,
    "true_cfg_scale": 1.0,
    "guidance_rescale": 0.0,
    "motion_bias": None,
    "consistency_boost": 1.0,
    "end_strength": 1.0,
    "teacache": 0.0,
    "references": 0,
    "end_image": False,
}
CASES: dict[str, dict[str, Any]] = {
    "f1_guided": {
        "variant": "f1", "true_cfg_scale": 3.5, "guidance_rescale": 0.6,
        "negative_prompt": "blurred 🌧", "guidance_scale": 4.0,
    },
    "six_sections_of_one": {"seconds": 0.8, "latent_window_size": 1, "steps": 3},
    "wide_picture_and_teacache": {
        "picture": (150, 70), "resolution": 96, "steps": 16, "teacache": 0.15,
        "true_cfg_scale": 2.0, "seconds": 0.9,
    },
    "f1_teacache": {"variant": "f1", "steps": 16, "teacache": 0.2, "motion_bias": 3.0},
    "end_picture": {"end_image": True, "end_strength": 0.6, "seconds": 0.8, "references": 3},
    "f1_many_references": {
        "variant": "f1", "references": 6, "consistency_boost": 1.7, "end_image": True,
        "latent_window_size": 3,
    },
    "one_step": {"steps": 1, "seconds": 0.1},
    "two_steps_long_prompt": {"steps": 2, "prompt": "a dog " * 300, "seconds": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other widths, depths and switches than the tiny model in every part."""
    folder = tmp_path_factory.mktemp("other-model")
    make_tiny_model(folder, seed=5)
    torch.manual_seed(6)
    vocabulary = json.loads((folder / "text_encoder/config.json").read_text("utf-8"))["vocab_size"]
    LlamaModel(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=48, intermediate_size=40, num_hidden_layers=6,
            num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=400,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            image_size=64, patch_size=16,
        )
    ).save_pretrained(folder / "image_encoder")  # fmt: skip
    AutoencoderKLHunyuanVideo(
        block_out_channels=(4, 8, 8, 12), layers_per_block=2, norm_num_groups=2,
        mid_block_add_attention=False, scaling_factor=0.7,
    ).save_pretrained(folder / "vae")  # fmt: skip
    for part in ("transformer", "transformer_f1"):
        HunyuanVideoFramepackTransformer3DModel(
            num_attention_heads=3, attention_head_dim=40, num_layers=1, num_single_layers=3,
            num_refiner_layers=2, mlp_ratio=3.0, text_embed_dim=48, pooled_projection_dim=24,
            rope_axes_dim=(8, 16, 16), rope_theta=100.0, has_image_proj=True, image_proj_dim=24,
            has_clean_x_embedder=True, guidance_embeds=part == "transformer_f1",
        ).save_pretrained(folder / part)  # fmt: skip
    return folder


def case_in(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The case with its pictures drawn."""
    case = {**CASE, **changes}
    case["image"] = draw_picture(folder / "start.png", *case.pop("picture", (64, 64)))
    case["references"] = [
        draw_picture(folder / f"reference-{i}.png", 60 + 9 * i, 80, phase=i + 2)
        for i in range(case["references"])
    ]
    if case["end_image"]:
        case["end_image"] = draw_picture(folder / "end.png", 90, 40, phase=1)
    return case


def words_of(case: dict[str, Any]) -> list[str]:
    words = []
    for name, value in case.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                words += [
                    "--" + name.replace("references", "reference").replace("_", "-"),
                    f"{one}",
                ]
    return words


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_the_book_says(
    name: str, other_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_in(tmp_path, CASES[name])
    frames: list[np.ndarray] = []
    write = Mp4Writer.write

    def keep(self: Mp4Writer, frame: np.ndarray) -> None:
        frames.append(frame)
        write(self, frame)

    monkeypatch.setattr(Mp4Writer, "write", keep)
    file = tmp_path / "made.safetensors"
    words = ["generate", "--model", str(other_model), "--device", "cpu", "--no-progress"]
    words += ["--out", str(tmp_path / "made.mp4"), "--latents-out", str(file)]
    assert main([*words, *words_of(case)]) == 0
    made, expected = load_file(file), by_the_book.make(other_model, case)
    assert made["latents"].shape == expected["latents"].shape
    assert (made["latents"] - expected["latents"]).abs().max() < 2e-4
    for number, steps in enumerate(expected["computed"]):
        assert made[f"computed_steps_{number:02d}"].tolist() == steps
    shown = np.stack(frames)
    assert shown.shape == expected["frames"].shape
    off = np.abs(shown.astype(int) - expected["frames"].astype(int)) > 1
    assert off.mean() <= 0.001
