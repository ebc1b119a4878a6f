"""A random-weight model folder of the real classes, small enough to be made in a second.

For tests and for trying the product without weights: every part is the class that the real model
uses, only narrower. What it makes is noise. The tokenizer knows bytes, and the prompt template cut
into 94 pieces, so that with the leading token the template counts exactly 95, as the real one does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

TEXT, POOLED, IMAGE = 32, 24, 40
IMAGE_SIZE, PATCH = 64, 16
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>")
LAYOUT_VERSION = 3


def cached_tiny_model() -> Path:
    """The tiny model's folder, built on first use in the system's folder for temporary files."""
    import diffusers
    import transformers

    name = f"{LAYOUT_VERSION}-{diffusers.__version__}-{transformers.__version__}"
    folder = Path(tempfile.gettempdir()) / f"framepack-bot-tiny-{name}"
    if not (folder / "complete").exists():
        building = Path(tempfile.mkdtemp(prefix="framepack-bot-tiny-"))
        make_tiny_model(building)
        (building / "complete").touch()
        try:
            building.replace(folder)
        except OSError:  # another process was quicker, or left half a folder
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                building.replace(folder)
            else:
                shutil.rmtree(building)
    return folder


def make_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write a complete model folder (about 1.5 MB); the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vocabulary = _write_tokenizers(folder)
        _write_text_encoders(folder, vocabulary)
        _write_image_encoder(folder)
        _write_vae(folder)
        _write_transformer(folder)


def make_tokenizer(pieces: list[str], model_max_length: int) -> Any:
    """A byte-level tokenizer that knows `pieces` whole and starts each text with SPECIAL[0]."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        padding_side="right",
        model_max_length=model_max_length,
    )


def template_pieces(crop_start: int, template: str) -> list[str]:
    """The template's text before the prompt, cut into crop_start − 1 pieces.

    All but the last are equally long: the tokenizer takes the longest piece that fits, so of pieces
    of several lengths it would take others than these.
    """
    head = template.split("{}")[0]
    last = crop_start - 2
    size = len(head) // (crop_start - 1)
    return [*(head[size * i : size * (i + 1)] for i in range(last)), head[size * last :]]


def _write_tokenizers(folder: Path) -> int:
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
        DEFAULT_PROMPT_TEMPLATE as PROMPT,
    )

    tokenizer = make_tokenizer(template_pieces(PROMPT["crop_start"], PROMPT["template"]), 10**9)
    tokenizer.save_pretrained(folder / "tokenizer")
    clip = make_tokenizer([], 77)
    clip.save_pretrained(folder / "tokenizer_2")
    return max(len(tokenizer), len(clip))


def _write_text_encoders(folder: Path, vocabulary: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

    llama = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    LlamaModel(llama).save_pretrained(folder / "text_encoder")
    clip = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=POOLED,
        intermediate_size=32,
        projection_dim=POOLED,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    CLIPTextModel(clip).save_pretrained(folder / "text_encoder_2")


def _write_image_encoder(folder: Path) -> None:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    siglip = SiglipVisionConfig(
        hidden_size=IMAGE,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    SiglipVisionModel(siglip).save_pretrained(folder / "image_encoder")
    processor = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    processor.save_pretrained(folder / "feature_extractor")


def _write_vae(folder: Path) -> None:
    from diffusers import AutoencoderKLHunyuanVideo

    AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4
    ).save_pretrained(folder / "vae")


def _write_transformer(folder: Path) -> None:
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    HunyuanVideoFramepackTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT,
        pooled_projection_dim=POOLED,
        rope_axes_dim=(4, 14, 14),
        has_image_proj=True,
        image_proj_dim=IMAGE,
        has_clean_x_embedder=True,
    ).save_pretrained(folder / "transformer")
    note = {"weights": "random", "resolution": 64}
    (folder / "model.json").write_text(json.dumps(note), "utf-8")
