"""Our loop beside diffusers' own: `python benchmarks/against_diffusers.py [--variant f1]`.

Both make a video from the same weights, prompt and picture, with as many sections, steps and
pixels, and both write it with the same encoder settings. They take turns, each time in a process of
its own, with the weights in memory before the clock starts. The library samples with Euler steps
where FramePack and we take UniPC's, so the videos differ; each makes one model call a step.

Time per section is steps × the mean time between two steps' ends within a section. CPU time is that
of the process's threads: beside other programs it says more than the clock on the wall does. Set
OMP_NUM_THREADS=1 to keep waiting threads out of it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from middling import (
    about_this_machine,
    arguments,
    draw_picture,
    make_model,
    measured_apart,
    open_workshop,
    peak_rss_mib,
    table,
)

WINDOW = 9
PROMPT = "a cat walks across the room"
SIDES = ("ours", "library")


Moment = tuple[float, float]
"""Wall clock, and CPU time of this process, in seconds."""


def now() -> Moment:
    return time.perf_counter(), time.process_time()


def since(began: Moment, moment: Moment) -> Moment:
    return moment[0] - began[0], moment[1] - began[1]


def run_ours(model: Path, folder: Path, case: dict[str, Any]) -> tuple[Moment, list[Moment]]:
    """The time of the whole job, and the moments at which steps ended."""
    workshop = open_workshop(model)
    from generator.pipeline import generate
    from generator.protocol import Progress, job_request

    settings = {
        "prompt": PROMPT,
        "seed": 1,
        "variant": case["variant"],
        "resolution": case["size"],
        "latent_window_size": WINDOW,
    }
    # A short job first: the weights are in memory and the libraries warm.
    list(generate("warm", job_request(**settings, steps=1, seconds=0.1), folder, workshop))
    seconds = case["sections"] * 4 * WINDOW / 30
    request = job_request(**settings, steps=case["steps"], seconds=seconds)
    moments = []
    began = now()
    for event in generate("job", request, folder, workshop):
        if isinstance(event, Progress) and event.step:
            moments.append(now())
    return since(began, now()), moments


def run_library(model: Path, folder: Path, case: dict[str, Any]) -> tuple[Moment, list[Moment]]:
    """The same of diffusers' HunyuanVideoFramepackPipeline."""
    import torch
    from PIL import Image

    from generator.video import Mp4Writer

    pipe = _library_pipeline(model)
    moments: list[Moment] = []

    def note(_: object, __: int, ___: object, kept: dict[str, Any]) -> dict[str, Any]:
        moments.append(now())
        return kept

    kind = "vanilla" if case["variant"] == "f1" else "inverted_anti_drifting"
    size = case["size"]
    settings = {
        "image": Image.open(folder / "input.png").convert("RGB"),
        "prompt": PROMPT,
        "height": size,
        "width": size,
        "latent_window_size": WINDOW,
        "guidance_scale": 10.0,
        "sampling_type": kind,
        "output_type": "np",
        "callback_on_step_end": note,
    }
    per_section = 4 * (WINDOW - 1) + 1
    pipe(**settings, num_frames=1, num_inference_steps=1)
    moments.clear()
    began = now()
    frames = pipe(
        **settings,
        num_frames=case["sections"] * per_section,
        num_inference_steps=case["steps"],
        generator=torch.Generator().manual_seed(1),
    ).frames[0]
    writer = Mp4Writer(folder / "library.mp4", (size, size), 30, 16, {})
    for frame in frames:
        writer.write((frame * 255).astype("uint8"))
    writer.close()
    return since(began, now()), moments


def _library_pipeline(model: Path) -> Any:
    import torch
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoFramepackPipeline,
        HunyuanVideoFramepackTransformer3DModel,
    )
    from transformers import (
        AutoTokenizer,
        CLIPTextModel,
        LlamaModel,
        SiglipImageProcessorPil,
        SiglipVisionModel,
    )

    pipe = HunyuanVideoFramepackPipeline(
        text_encoder=LlamaModel.from_pretrained(model / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(model / "tokenizer"),
        transformer=HunyuanVideoFramepackTransformer3DModel.from_pretrained(model / "transformer"),
        vae=AutoencoderKLHunyuanVideo.from_pretrained(model / "vae"),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder_2=CLIPTextModel.from_pretrained(model / "text_encoder_2"),
        tokenizer_2=AutoTokenizer.from_pretrained(model / "tokenizer_2"),
        image_encoder=SiglipVisionModel.from_pretrained(
            model / "image_encoder", vision_use_head=False
        ),
        feature_extractor=SiglipImageProcessorPil.from_pretrained(model / "feature_extractor"),
    )
    pipe.set_progress_bar_config(disable=True)
    torch.set_grad_enabled(False)
    return pipe


def run_one(side: str, model: Path, case: dict[str, Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_picture(folder / "input.png", case["size"])
        whole, moments = (run_ours if side == "ours" else run_library)(model, folder, case)
    steps = case["steps"]
    sections = [moments[i : i + steps] for i in range(0, len(moments), steps)]
    assert len(sections) == case["sections"], (len(sections), case)
    gaps = [since(a, b) for section in sections for a, b in pairwise(section)]
    return {
        "section_s": steps * statistics.mean(wall for wall, _ in gaps),
        "section_cpu_s": steps * statistics.mean(cpu for _, cpu in gaps),
        "whole_s": whole[0],
        "whole_cpu_s": whole[1],
        "peak_mib": peak_rss_mib(),
    }


def measure(words: Any, case: dict[str, Any]) -> str:
    """The table of one variant; the sides take turns."""
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        model = make_model(
            Path(name), heads=words.heads, dual=words.dual, single=words.single, vae_channels=8
        )
        for turn in range(words.turns):
            for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
                results[side].append(measured_apart(__file__, side, model, json.dumps(case)))
                print(f"{case['variant']} {side}: {results[side][-1]}", file=sys.stderr)
    rows: list[list[object]] = []
    # The least of several turns: other programs only ever add time.
    columns = list(results["ours"][0])
    best = {
        side: {column: min(turn[column] for turn in turns) for column in columns}
        for side, turns in results.items()
    }
    for side, name in (("ours", "framepack-bot"), ("library", "diffusers")):
        rows.append([name, *(f"{best[side][column]:.2f}" for column in columns)])
    ratios = [best["ours"][column] / best["library"][column] for column in columns]
    rows.append(["ours / library", *(f"{ratio:.2f}" for ratio in ratios)])
    heads = ["a section, s", "its CPU, s", "whole job, s", "its CPU, s", "peak RSS, MiB"]
    return table([case["variant"], *heads], rows)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--variant", nargs="+", default=["i2v", "f1"], choices=["i2v", "f1"])
    parser.add_argument("--size", type=int, default=64, help="side of the square, pixels")
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--turns", type=int, default=2, help="how often each side runs")
    parser.add_argument("--heads", type=int, default=4, help="of 32 channels each")
    parser.add_argument("--dual", type=int, default=4, help="dual blocks")
    parser.add_argument("--single", type=int, default=8, help="single blocks")
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "MODEL", "CASE"), help="used by itself")
    words = parser.parse_args()
    if words.one:
        side, model, case = words.one
        print(json.dumps(run_one(side, Path(model), json.loads(case))))
        return
    print(about_this_machine())
    for variant in words.variant:
        case = {"variant": variant} | {k: getattr(words, k) for k in ("size", "sections", "steps")}
        print(f"\n{measure(words, case)}", flush=True)


if __name__ == "__main__":
    main()
