"""A model folder is whole and fits together, or a sentence says what is wrong with it."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from generator.errors import ModelError
from generator.models import ModelFolder, open_model
from generator.protocol import Variant
from generator.tiny import make_tiny_model

WITH_WEIGHTS = ["text_encoder", "text_encoder_2", "image_encoder", "vae", "transformer"]
WITHOUT = ["tokenizer", "tokenizer_2", "feature_extractor"]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A folder of its own, to be broken."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def weights(model: Path, part: str) -> Path:
    (file,) = (model / part).glob("*.safetensors")
    return file


def change_config(model: Path, part: str, **values: Any) -> None:
    file = model / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **values}), "utf-8")


def refusal(model: Path) -> str:
    with pytest.raises(ModelError) as caught:
        ModelFolder(model)
    return str(caught.value)


# ---- what lies in the folder


def test_a_whole_folder_is_taken(model: Path) -> None:
    folder = ModelFolder(model)
    assert folder.transformer_part(Variant.I2V) == "transformer"
    assert folder.transformer_part(Variant.F1) == "transformer_f1"
    for part in [*WITH_WEIGHTS, "transformer_f1"]:
        module = folder.load(part, torch.float32)
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_without_f1_weights_f1_uses_the_others(model: Path) -> None:
    shutil.rmtree(model / "transformer_f1")
    assert ModelFolder(model).transformer_part(Variant.F1) == "transformer"


@pytest.mark.parametrize("part", [*WITH_WEIGHTS[:-1], *WITHOUT])
def test_a_missing_part_is_named(model: Path, part: str) -> None:
    shutil.rmtree(model / part)
    assert f"the sub-folder {part}/ is missing" in refusal(model)


def test_all_that_is_missing_is_named_at_once(model: Path) -> None:
    shutil.rmtree(model / "vae")
    shutil.rmtree(model / "tokenizer")
    sentence = refusal(model)
    assert "vae/" in sentence
    assert "tokenizer/" in sentence


def test_no_folder_at_all(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"There is no model folder .*nowhere"):
        open_model(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="no model of that name"):
        open_model("no-such-model")


@pytest.mark.parametrize("part", WITH_WEIGHTS)
def test_missing_weights_are_named(model: Path, part: str) -> None:
    weights(model, part).unlink()
    assert f"{part}/ has no .safetensors file" in refusal(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickles_are_not_opened(model: Path, name: str, tmp_path: Path) -> None:
    witness = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (witness,)

    weights(model, "vae").unlink()
    (model / "vae" / name).write_bytes(pickle.dumps(Trap()))
    sentence = refusal(model)
    assert f"{name} is not opened: only safetensors are safe" in sentence
    assert not witness.exists()


def test_a_missing_shard_is_named(model: Path) -> None:
    shards = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    weights(model, "transformer").rename(model / "transformer" / shards[0])
    index = {"weight_map": {f"tensor{i}": shard for i, shard in enumerate(shards)}}
    name = "diffusion_pytorch_model.safetensors.index.json"
    (model / "transformer" / name).write_text(json.dumps(index), "utf-8")
    assert f"transformer/ lacks 2 of 3 files, such as {shards[1]}" in refusal(model)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_said(model: Path, content: str) -> None:
    name = "diffusion_pytorch_model.safetensors.index.json"
    (model / "transformer" / name).write_text(content, "utf-8")
    assert f"transformer/{name}" in refusal(model)


@pytest.mark.parametrize("part", WITH_WEIGHTS)
def test_another_class_is_said(model: Path, part: str) -> None:
    change_config(model, part, _class_name="UNet2DModel", architectures=["BertModel"])
    assert f"{part}/ holds a UNet2DModel or BertModel, not a " in refusal(model)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_config_that_is_none_is_said(model: Path, content: str) -> None:
    (model / "vae" / "config.json").write_text(content, "utf-8")
    assert "vae/config.json" in refusal(model)


# ---- what does not fit together


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("transformer", {"text_embed_dim": 48}, ("text_encoder/", "32", "48")),
        ("transformer", {"pooled_projection_dim": 48}, ("text_encoder_2/", "24", "48")),
        ("transformer", {"image_proj_dim": 48}, ("image_encoder/", "40", "48")),
        ("transformer", {"in_channels": 8}, ("vae/", "16", "8")),
        ("transformer_f1", {"image_proj_dim": 48}, ("image_encoder/", "40", "48")),
    ],
)
def test_parts_of_different_widths_are_refused(
    model: Path, part: str, change: dict[str, int], words: tuple[str, ...]
) -> None:
    change_config(model, part, **change)
    sentence = refusal(model)
    for word in (f"{part}/", *words):
        assert word in sentence


# ---- what lies in the files


def load_refusal(model: Path, part: str) -> str:
    with pytest.raises(ModelError) as caught:
        ModelFolder(model).load(part, torch.float32)
    return str(caught.value)


@pytest.mark.parametrize("part", WITH_WEIGHTS)
def test_a_tensor_that_is_missing_is_named(model: Path, part: str) -> None:
    """The libraries would fill it with random numbers and go on."""
    file = weights(model, part)
    tensors = load_file(file)
    name = sorted(tensors)[len(tensors) // 2]
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    sentence = load_refusal(model, part)
    assert part in sentence
    assert name.split(".")[-2] in sentence


@pytest.mark.parametrize("part", WITH_WEIGHTS)
def test_a_tensor_of_another_shape_is_said(model: Path, part: str) -> None:
    file = weights(model, part)
    tensors = load_file(file)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name] = torch.zeros(3, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    assert part in load_refusal(model, part)


@pytest.mark.parametrize("part", WITH_WEIGHTS)
@pytest.mark.parametrize("keep", [0, 4, 200, -100])
def test_a_cut_off_file_is_said(model: Path, part: str, keep: int) -> None:
    file = weights(model, part)
    file.write_bytes(file.read_bytes()[:keep])
    assert part in load_refusal(model, part)


def test_a_pickle_with_another_name_is_said(model: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, weights(model, "vae"))
    assert "vae" in load_refusal(model, "vae")


def test_siglips_unused_head_is_no_fault(model: Path) -> None:
    file = weights(model, "image_encoder")
    tensors = load_file(file)
    prefix = next(iter(tensors)).split("embeddings")[0].split("encoder")[0]
    tensors[f"{prefix}head.probe"] = torch.zeros(1, 1, 40)
    save_file(tensors, file, metadata={"format": "pt"})
    ModelFolder(model).load("image_encoder", torch.float32)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_damaged_tokenizer_is_said(model: Path, name: str) -> None:
    (model / name / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match=name):
        ModelFolder(model).load_tokenizer(name)


def test_a_damaged_feature_extractor_is_said(model: Path) -> None:
    (model / "feature_extractor" / "preprocessor_config.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match="feature_extractor"):
        ModelFolder(model).load_feature_extractor()


@pytest.mark.parametrize("name", ["preview.json", "mag_ratios.json", "model.json"])
def test_optional_files_must_be_json(model: Path, name: str) -> None:
    (model / name).write_text("{", "utf-8")
    with pytest.raises(ModelError, match=name):
        ModelFolder(model).read_json(name)


# ---- which weights made it


@pytest.mark.parametrize("part", [*WITH_WEIGHTS, *WITHOUT])
def test_a_digest_changes_with_the_content(model: Path, part: str) -> None:
    folder = ModelFolder(model)
    before = folder.digest(part)
    assert before == folder.digest(part)
    file = sorted((model / part).glob("*"))[-1]
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    assert folder.digest(part) != before


def test_a_digest_does_not_change_with_dates_or_place(model: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(model, tmp_path / "copy"))
    for part in [*WITH_WEIGHTS, *WITHOUT]:
        assert ModelFolder(elsewhere).digest(part) == ModelFolder(model).digest(part)


# ---- the small random model


def test_the_tiny_model_is_the_same_each_time(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_tiny_model(tmp_path / name, seed=seed)
    digests = {
        name: [ModelFolder(tmp_path / name).digest(part) for part in WITH_WEIGHTS] for name in "abc"
    }
    assert digests["a"] == digests["b"]
    assert not set(digests["a"]) & set(digests["c"])


def test_making_it_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make_tiny_model(tmp_path / "model")
    assert torch.equal(torch.rand(3), expected)


def test_its_template_counts_95_tokens(tiny_model: Path) -> None:
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
        DEFAULT_PROMPT_TEMPLATE,
    )

    tokenizer = ModelFolder(tiny_model).load_tokenizer("tokenizer")
    head = DEFAULT_PROMPT_TEMPLATE["template"].split("{}")[0]
    for prompt in ("", "a cat walks", "قطة 🐈"):
        ids = tokenizer(head + prompt).input_ids
        assert tokenizer.decode(ids[95:]) == prompt
        assert len(tokenizer(head).input_ids) == 95
