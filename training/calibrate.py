"""The last stage: how much the transformer's residual changes from step to step, for MagCache.

Decides: which videos it is measured on, and that `mag_ratios.json` lies in the model folder. The
library measures the ratios itself (`MagCacheConfig(calibrate=True)`) and prints one line a section.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from diffusers.hooks import MagCacheConfig
from PIL import Image

from generator.models import open_model
from generator.pipeline import generate
from generator.placement import Placement
from generator.protocol import Variant, job_request
from generator.workshop import Workshop
from training.captions import PANS
from training.scenes import panoramas

STEPS = 25
NAME = "mag_ratios.json"


def calibrate(model: Path) -> Path:
    """Measure both variants and write the model's `mag_ratios.json`."""
    placement = Placement(open_model(str(model)), device="cpu")
    ratios = {variant: _measure(placement, variant) for variant in Variant}
    path = model / NAME
    path.write_text(json.dumps(ratios) + "\n", "utf-8")
    return path


def _measure(placement: Placement, variant: Variant) -> list[float]:
    """The mean ratios of two sections of four pans over training pictures."""
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        for number, motion in enumerate(PANS):
            picture = panoramas()[3 * number][:, :196]
            Image.fromarray(picture).save(Path(folder) / "input.png")
            request = job_request(
                prompt=motion, seed=number, variant=variant, seconds=2.4, steps=STEPS, resolution=96
            )
            printed = io.StringIO()
            with (
                placement.on_gpu("transformer", variant) as transformer,
                contextlib.redirect_stdout(printed),
            ):
                transformer.enable_cache(MagCacheConfig(num_inference_steps=STEPS, calibrate=True))
                for _ in generate(
                    str(number), request, Path(folder), Workshop(placement=placement)
                ):
                    pass
            sections += printed_ratios(printed.getvalue())
    return [round(float(ratio), 5) for ratio in np.mean(sections, axis=0)]


def printed_ratios(text: str) -> list[list[float]]:
    """The lists of numbers among the lines of what the library printed."""
    return [ast.literal_eval(line) for line in text.splitlines() if re.match(r"\[\d", line)]
