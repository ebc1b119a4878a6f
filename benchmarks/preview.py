"""How long one preview takes at 60 × 104 latents × 9, on one core: `python benchmarks/preview.py`.

That is a section of a 480 × 832 video. The bound is 36 ms: 1 % of a step of 3.6 s on an RTX 4090.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from middling import about_this_machine, arguments, table

BOUND_MS = 36.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--times", type=int, default=50)
    words = parser.parse_args()
    import torch

    from generator.video import preview_map, preview_rgb, write_preview

    torch.set_num_threads(1)
    machine = about_this_machine()
    # Latents of a picture are smooth; noise would be the WebP encoder's worst case.
    coarse = torch.randn(1, 16, 3, 10, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(9, 60, 104), mode="trilinear")
    noise = torch.randn(1, 16, 9, 60, 104, generator=torch.Generator().manual_seed(0))
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "preview.webp"
        for name, x0 in (("smooth, as of a picture", smooth), ("noise, as at step 1", noise)):
            took = []
            for _ in range(words.times):
                began = time.perf_counter()
                write_preview(path, preview_rgb(x0, *preview_map(None)))
                took.append(1000 * (time.perf_counter() - began))
            median, best = statistics.median(took), min(took)
            size = f"{path.stat().st_size / 1024:.1f}"
            rows.append([name, f"{best:.1f}", f"{median:.1f}", f"{median / BOUND_MS:.2f}", size])
    heads = ["latents", "best, ms", "median, ms", f"median / {BOUND_MS:g} ms", "file, KiB"]
    print(f"{machine}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
