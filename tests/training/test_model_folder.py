"""The shipped model folder: complete, small, of the real classes, true in colour, without lag."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel
from transformers import AutoTokenizer, CLIPTextModel, LlamaModel

from generator.encoders import decode_latents, encode_latent
from generator.models import DEMO_MODEL, ModelFolder
from training.captions import Motion
from training.data import render
from training.export import MAX_BYTES
from training.scenes import panoramas
from training.scores import psnr
from training.text import PREFIX_TOKENS, TEMPLATE
from training.transformer import CONFIG


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo.from_pretrained(DEMO_MODEL / "vae").float().eval()


def test_it_is_complete_and_small_enough_to_ship() -> None:
    ModelFolder(DEMO_MODEL)
    files = [file for file in DEMO_MODEL.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MAX_BYTES
    card = (DEMO_MODEL / "README.md").read_text("utf-8")
    assert all(word in card for word in ("demo weights", "CC0", "Apache-2.0"))


def test_the_real_classes_load_it() -> None:
    transformer = HunyuanVideoFramepackTransformer3DModel.from_pretrained(
        DEMO_MODEL / "transformer"
    )
    assert transformer.config.num_attention_heads == CONFIG["num_attention_heads"]
    assert sum(w.numel() for w in transformer.parameters()) == 3_726_528
    LlamaModel.from_pretrained(DEMO_MODEL / "text_encoder")
    CLIPTextModel.from_pretrained(DEMO_MODEL / "text_encoder_2")


@pytest.mark.parametrize("prompt", ["pan left", "", "7 cats", "\n\nnew line", "Ünïcödé 猫"])
def test_the_template_is_cut_where_the_prompt_begins(prompt) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    prefix = tokenizer(TEMPLATE.split("{}")[0]).input_ids
    assert len(prefix) == PREFIX_TOKENS == 95
    rest = tokenizer(TEMPLATE.format(prompt)).input_ids[PREFIX_TOKENS:]
    assert tokenizer.decode(rest).strip() == f"{prompt}<|eot_id|>".strip()


def test_previews_have_the_colours_of_the_picture(vae) -> None:
    settings = json.loads((DEMO_MODEL / "preview.json").read_text("utf-8"))
    factors, bias = np.array(settings["factors"]), np.array(settings["bias"])
    assert factors.shape == (16, 3)
    picture = panoramas(held_back=True)[0][:128, :128]
    latent = encode_latent(vae, picture)[0, :, 0].numpy()
    shown = np.einsum("chw,cd->hwd", latent, factors) + bias
    true = picture.reshape(16, 8, 16, 8, 3).mean((1, 3)) / 255
    assert np.abs(shown - true).mean() < 0.06


def test_a_pan_is_decoded_when_it_happened(vae) -> None:
    source = panoramas(held_back=True)[1]
    clip = render(source, Motion.RIGHT, range(17), (96, 96), np.random.default_rng(3))
    frames = (clip.permute(0, 2, 3, 1) * 127.5 + 127.5).round().to(torch.uint8).numpy()
    latents = torch.cat([encode_latent(vae, frames[t]) for t in range(0, 17, 4)], dim=2)
    made = decode_latents(vae, latents).permute(0, 2, 3, 1).clamp(-1, 1)
    made = (made * 127.5 + 127.5).numpy()
    for t in (4, 10, 16):
        fits = [psnr(made[t], frames[other]) for other in range(17)]
        assert abs(int(np.argmax(fits)) - t) <= 2, (t, fits)
