"""What step caches skip and save: `python benchmarks/step_caches.py`.

One section at 25 steps for each cache and threshold, on random weights: blocks computed and time
saved are what the code does; how many steps a threshold skips is the weights' business, and what it
costs in quality can not be seen on noise.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from middling import about_this_machine, arguments, draw_picture, make_model, open_workshop, table
from safetensors.torch import load_file

WINDOW, SECONDS = 9, 1.2  # one section

CASES: dict[str, list[float]] = {
    "none": [0.0],
    "teacache": [0.1, 0.15, 0.25, 0.4],
    "magcache": [0.06, 0.12, 0.24],
    "first_block": [0.05, 0.1, 0.2, 0.4],
}


def sample(workshop: Any, folder: Path, **settings: Any) -> tuple[list[int], list[float]]:
    """The steps that ran the blocks, and the CPU seconds of each step."""
    from generator.pipeline import generate
    from generator.protocol import Progress, Stage, job_request
    from generator.resume import discard

    request = job_request(
        prompt="a cat walks", seed=1, seconds=SECONDS, latent_window_size=WINDOW, **settings
    )
    latents, took = folder / "latents.safetensors", []
    events = generate("job", request, folder, workshop, latents_out=latents)
    last = time.process_time()
    for event in events:
        if isinstance(event, Progress) and event.stage is Stage.DECODING:
            break
        if isinstance(event, Progress) and event.step:
            took.append(time.process_time() - last)
        last = time.process_time()
    events.close()
    discard(folder)
    return load_file(latents)["computed_steps_00"].tolist(), took


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--variant", default="i2v", choices=["i2v", "f1"])
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--true-cfg-scale", type=float, default=1.0)
    words = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    print(about_this_machine())
    blocks, rows, whole_s = 8, [], None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_model(folder / "model", heads=4, dual=3, single=5, vae_channels=4)
        draw_picture(folder / "input.png", words.size)
        workshop = open_workshop(model)
        settings = {"steps": words.steps, "resolution": words.size, "variant": words.variant}
        settings["true_cfg_scale"] = words.true_cfg_scale
        sample(workshop, folder, **settings)  # loads and warms
        for kind, thresholds in CASES.items():
            for threshold in thresholds:
                computed, took = sample(
                    workshop, folder, **settings, step_cache=kind, step_cache_threshold=threshold
                )
                took_s = sum(took)
                whole_s = took_s if whole_s is None else whole_s
                # FirstBlockCache needs its first block in each step to decide.
                deciding = words.steps - len(computed) if kind == "first_block" else 0
                ran = blocks * len(computed) + deciding
                skipped = [t for step, t in enumerate(took) if step not in computed]
                rows.append(
                    [
                        kind,
                        f"{threshold:g}" if kind != "none" else "–",
                        f"{len(computed)} of {words.steps}",
                        f"{ran / blocks / words.steps:.0%}",
                        f"{took_s:.2f}",
                        f"{1 - took_s / whole_s:.0%}",
                        f"{whole_s / took_s:.2f}×",
                        f"{1000 * statistics.median(skipped):.0f}" if skipped else "–",
                    ]
                )
    heads = ["cache", "threshold", "steps computed", "blocks run", "CPU, s", "time saved"]
    print(f"\n{table([*heads, 'faster', 'a skipped step, ms'], rows)}")


if __name__ == "__main__":
    main()
