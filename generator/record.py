"""What a result depends on, written beside the video and into it.

The same record on the same machine means the same bytes. Decides: what belongs to it. Refuses to
know: how any of it is computed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import msgspec
import torch

from generator.errors import DiskError, InputError
from generator.placement import Placement
from generator.protocol import JobRequest, Stage

LIBRARIES = ("framepack-bot", "torch", "diffusers", "transformers", "accelerate", "safetensors")


def library_versions() -> dict[str, str]:
    """The versions of everything that computes values."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def describe_result(
    request: JobRequest, pictures: dict[str, Path], placement: Placement
) -> dict[str, Any]:
    """Everything that decides the bytes of a result, ready for JSON.

    `pictures` are the files behind the request's names. InputError when one can not be read.
    """
    model = placement.model
    transformer = model.transformer_part(request.variant)
    parts = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    parts += ("feature_extractor", "image_encoder", "vae", transformer)  # type: ignore[assignment]
    return {
        "request": msgspec.to_builtins(request),
        "pictures": {name: _digest(file) for name, file in pictures.items()},
        "model": {"name": model.path.name, "digests": {p: model.digest(p) for p in parts}},
        "versions": library_versions(),
        "dtype": {
            "transformer": str(placement.dtype_of(transformer)).removeprefix("torch."),
            "encoders": str(placement.dtype_of("vae")).removeprefix("torch."),
        },
        "device": placement.device.type,
        "threads": torch.get_num_threads(),
        "vae_tile": placement.vae_tile,
        "storage": str(placement.storage),
        "attention": placement.attention,
        "compiled": placement.compiled,
        "given_up": [str(sacrifice) for sacrifice in placement.given_up],
    }


def write_record(
    path: Path,
    result: dict[str, Any],
    stage_s: dict[Stage, float],
    computed_steps: list[list[int]],
) -> None:
    """Write the record, with what was measured, in one piece. DiskError when it can not be."""
    measured = {str(stage): round(seconds, 3) for stage, seconds in stage_s.items()}
    text = json.dumps(
        {**result, "measured": {"stage_s": measured, "computed_steps": computed_steps}},
        indent=1,
        sort_keys=True,
    )
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DiskError(f"{path.name} could not be written: {error.strerror}.") from None


def _digest(picture: Path) -> str:
    try:
        return hashlib.sha256(picture.read_bytes()).hexdigest()[:16]
    except FileNotFoundError:
        raise InputError(f"There is no picture {picture.name}.") from None
    except OSError as error:
        raise InputError(f"{picture.name} can not be read: {error.strerror}.") from None
