"""Peak memory of a short and of a long video: `python benchmarks/memory_flat.py`.

Each length runs `--times` times, each in a process of its own; shown is the run of the median
usual peak. What a long job may hold more than a short one is its latents, 16 × 4 bytes a latent
pixel; everything else must not grow. Compared is the process's own (anonymous) memory: peak RSS
also counts the libraries' files, as far as they happen to be mapped. The C library's heap goes up
and down by some MiB while frames are drawn, and the highest of a hundred peaks is above the
highest of three: so the usual peak is compared, which is the median over the decoded chunks.
By default 64 × 64 pixels at one step a section, because decoding 3,601 frames takes the time.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from middling import (
    OwnMemoryPeak,
    about_this_machine,
    arguments,
    draw_picture,
    make_model,
    measured_apart,
    open_workshop,
    peak_rss_mib,
    table,
)

WINDOW, RESOLUTION, STEPS = 9, 64, 1


def run_one(model: Path, seconds: float) -> dict[str, float]:
    """Make one video in this process and say what it took."""
    workshop = open_workshop(model)
    from generator.pipeline import generate
    from generator.protocol import Progress, Stage, job_request

    with tempfile.TemporaryDirectory() as folder:
        draw_picture(Path(folder) / "input.png", RESOLUTION)
        request = job_request(
            prompt="a cat walks",
            seed=1,
            seconds=seconds,
            resolution=RESOLUTION,
            latent_window_size=WINDOW,
            steps=STEPS,
        )
        with OwnMemoryPeak() as own:
            laps: list[float] = []
            for event in generate("job", request, Path(folder), workshop):
                peak = own.lap()
                if isinstance(event, Progress) and event.stage is Stage.DECODING:
                    laps.append(peak)
            finished = event
    latents = 1 + (finished.frames - 1) // 4
    latent_mib = latents * 16 * 4 * (finished.width // 8) * (finished.height // 8) / 2**20
    pixel_mib = finished.frames * finished.width * finished.height * 3 * 4 / 2**20
    return {
        "frames": finished.frames,
        "elapsed_s": finished.elapsed_s,
        "peak_mib": peak_rss_mib(),
        "own_mib": own.mib,
        "usual_mib": statistics.median(laps[2:-1]),  # without the cut first and last chunks
        "latent_mib": latent_mib,
        "pixel_mib": pixel_mib,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 30.0, 120.0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SECONDS"), help="used by itself")
    words = parser.parse_args()
    if words.one:
        print(json.dumps(run_one(Path(words.one[0]), float(words.one[1]))))
        return
    machine = about_this_machine()
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder), heads=2, dual=1, single=1, vae_channels=4)
        shortest = None
        for seconds in words.seconds:
            runs = [measured_apart(__file__, model, seconds) for _ in range(words.times)]
            found = sorted(runs, key=lambda run: run["usual_mib"])[words.times // 2]
            scatter = max(r["usual_mib"] for r in runs) - min(r["usual_mib"] for r in runs)
            bare = found["usual_mib"] - found["latent_mib"]
            shortest = bare if shortest is None else shortest
            rows.append(
                [
                    f"{seconds:g}",
                    f"{found['frames']:.0f}",
                    f"{found['elapsed_s']:.0f}",
                    f"{found['peak_mib']:.0f}",
                    f"{found['own_mib']:.1f}",
                    f"{found['usual_mib']:.1f}",
                    f"{scatter:.1f}",
                    f"{found['latent_mib']:.1f}",
                    f"{bare:.1f}",
                    f"{bare / shortest:.3f}",
                    f"{found['pixel_mib']:.0f}",
                ]
            )
    heads = ["video, s", "frames", "took, s", "peak RSS, MiB", "own peak, MiB"]
    heads += ["usual own peak, MiB", "its scatter"]
    heads += [
        "latents, MiB",
        "usual − latents, MiB",
        "ratio",
        "all pixels as float32 would be, MiB",
    ]
    print(f"{machine}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
