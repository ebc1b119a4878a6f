"""What must lie in a model folder, and whether it is whole and fits together.

Decides: the parts of a diffusers-style folder, their classes, which widths must agree. Refuses to
know: how a part becomes a module. It reads names and JSON only, so it takes milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Part:
    """One sub-folder: the file that describes it, its class there, and whether it has weights."""

    describing_file: str
    class_names: tuple[str, ...] = ()
    has_weights: bool = True


PARTS = {
    "tokenizer": Part(describing_file="tokenizer.json", has_weights=False),
    "tokenizer_2": Part(describing_file="tokenizer.json", has_weights=False),
    "feature_extractor": Part(describing_file="preprocessor_config.json", has_weights=False),
    "text_encoder": Part(
        describing_file="config.json", class_names=("LlamaModel", "LlamaForCausalLM")
    ),
    "text_encoder_2": Part(
        describing_file="config.json", class_names=("CLIPTextModel", "CLIPTextModelWithProjection")
    ),
    "image_encoder": Part(
        describing_file="config.json", class_names=("SiglipVisionModel", "SiglipModel")
    ),
    "vae": Part(describing_file="config.json", class_names=("AutoencoderKLHunyuanVideo",)),
    "transformer": Part(
        describing_file="config.json",
        # The second is what the published weights call it; the two are the same model.
        class_names=(
            "HunyuanVideoFramepackTransformer3DModel",
            "HunyuanVideoTransformer3DModelPacked",
        ),
    ),
}
SAMPLED_ABOVE_BYTES = 64 * 2**20
SAMPLE_BYTES = 64 * 2**10
SAMPLES = 64
TRANSFORMER = "transformer"
F1_TRANSFORMER = "transformer_f1"

# The transformer's setting, and the part's setting that it must equal.
WIDTHS = (
    ("text_embed_dim", "text_encoder", "hidden_size"),
    ("pooled_projection_dim", "text_encoder_2", "hidden_size"),
    ("image_proj_dim", "image_encoder", "hidden_size"),
    ("in_channels", "vae", "latent_channels"),
)


def folder_problems(path: Path) -> list[str]:
    """Everything that keeps `path` from being a model folder, each as words; empty: it is one."""
    if not path.is_dir():
        return ["there is no such folder"]
    transformers = [t for t in (TRANSFORMER, F1_TRANSFORMER) if (path / t).is_dir()]
    transformers = transformers or [TRANSFORMER]
    parts = {name: part for name, part in PARTS.items() if name != TRANSFORMER}
    parts |= dict.fromkeys(transformers, PARTS[TRANSFORMER])
    problems = [p for name, part in parts.items() for p in _part_problems(path / name, part)]
    if not problems:
        problems = [p for name in transformers for p in _width_problems(path, name)]
    return problems


def _part_problems(folder: Path, part: Part) -> Iterator[str]:
    if not folder.is_dir():
        yield f"the sub-folder {folder.name}/ is missing"
    elif not _describes(folder, part):
        yield f"{folder.name}/{part.describing_file} is missing"
    elif part.has_weights:
        yield from _class_problems(folder, part)
        yield from _weight_problems(folder)


def _describes(folder: Path, part: Part) -> bool:
    if (folder / part.describing_file).is_file():
        return True
    # CLIP's tokenizer is often published in its older form of two files.
    return part.describing_file == "tokenizer.json" and (folder / "vocab.json").is_file()


def _class_problems(folder: Path, part: Part) -> Iterator[str]:
    config = _read_object(folder / "config.json")
    if config is None:
        yield f"{folder.name}/config.json is not a JSON object"
        return
    names = [config.get("_class_name"), *(config.get("architectures") or [])]
    found = [str(name) for name in names if name]
    # A config that names no class is somebody's own; the weights will tell.
    if found and not set(found) & set(part.class_names):
        yield f"{folder.name}/ holds a {' or '.join(found)}, not a {part.class_names[0]}"


def _weight_problems(folder: Path) -> Iterator[str]:
    files = {file.name for file in folder.glob("*.safetensors")}
    if not files:
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")]
        hint = f" ({pickles[0].name} is not opened: only safetensors are safe)" if pickles else ""
        yield f"{folder.name}/ has no .safetensors file{hint}"
        return
    for index in folder.glob("*.safetensors.index.json"):
        weight_map = (_read_object(index) or {}).get("weight_map")
        if not isinstance(weight_map, dict):
            yield f"{folder.name}/{index.name} is damaged"
            continue
        shards = set(weight_map.values())
        missing = sorted(shards - files)
        if missing:
            count = f"{len(missing)} of {len(shards)} files"
            yield f"{folder.name}/ lacks {count}, such as {missing[0]}"


def _width_problems(path: Path, transformer: str) -> Iterator[str]:
    own = _read_object(path / transformer / "config.json") or {}
    for setting, part, of_part in WIDTHS:
        config = _read_object(path / part / "config.json") or {}
        nested = config.get("vision_config") or config.get("text_config") or {}
        wanted, found = own.get(setting), config.get(of_part, nested.get(of_part))
        if wanted is not None and found is not None and wanted != found:
            yield (
                f"{transformer}/ and {part}/ do not belong together "
                f"({setting} is {wanted}, {of_part} is {found})"
            )


def _read_object(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def telling_bytes(file: Path) -> Iterator[bytes]:
    """What tells a file from another of its name: all of it, or of a large one size, head and 64
    spots, so that 24 GiB cost milliseconds."""
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as stream:
        if size <= SAMPLED_ABOVE_BYTES:
            yield stream.read()
            return
        for spot in range(SAMPLES + 1):
            stream.seek((size - SAMPLE_BYTES) * spot // SAMPLES)
            yield stream.read(SAMPLE_BYTES)
