"""The last stage: the trained parts become one model folder that the generator opens.

Decides: what lies in the folder, in which dtype, the preview map, the model card. Refuses to know:
how the parts were trained. Raises ValueError when the folder would be larger than it may be.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel
from transformers import CLIPTextModel, LlamaModel, SiglipVisionModel

from training.clips import Clip, load_clips

MAX_BYTES = 25 * 10**6
COPIED = ("tokenizer", "tokenizer_2", "feature_extractor")
ENCODERS = {
    "text_encoder": LlamaModel,
    "text_encoder_2": CLIPTextModel,
    "image_encoder": SiglipVisionModel,
}
RESOLUTION = 128  # what a request gets that names none
CARD = Path(__file__).parent / "model_card.md"


def export(folder: Path, *, text: Path, vae: Path, transformer: Path, clips: Path) -> int:
    """Write the model folder in fp16; returns its size in bytes. An older one is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copytree(text / name, folder / name, dirs_exist_ok=True)
    for name, kind in ENCODERS.items():
        kind.from_pretrained(text / name).half().save_pretrained(folder / name)
    model = AutoencoderKLHunyuanVideo.from_pretrained(vae).eval()
    (folder / "model.json").write_text(
        json.dumps({"resolution": RESOLUTION, "weights": "demo"}) + "\n"
    )
    (folder / "preview.json").write_text(
        json.dumps(fit_preview(load_clips(clips)[:100]), indent=1) + "\n"
    )
    model.half().save_pretrained(folder / "vae")
    HunyuanVideoFramepackTransformer3DModel.from_pretrained(transformer).half().save_pretrained(
        folder / "transformer"
    )
    shutil.copyfile(CARD, folder / "README.md")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{folder} has {size:,} bytes; at most {MAX_BYTES:,} may be shipped")
    return size


def fit_preview(clips: list[Clip]) -> dict[str, list[object]]:
    """The 16→3 map and bias nearest, by least squares, to the pictures' colours in 0..1."""
    rows, colours = [], []
    for clip in clips:
        frame = torch.from_numpy(clip.frame.copy()).permute(2, 0, 1)[None].float() / 255
        rows.append(clip.start[0, :, 0].flatten(1).T)
        colours.append(F.avg_pool2d(frame, 8)[0].flatten(1).T)
    x = torch.cat(rows).numpy()
    x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
    solution, *_ = np.linalg.lstsq(x, torch.cat(colours).numpy(), rcond=None)
    rounded = solution.astype(float).round(4).tolist()
    return {"factors": rounded[:-1], "bias": rounded[-1]}
