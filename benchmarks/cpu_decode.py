"""What decoding costs a CPU, and what our ways of it save: `python benchmarks/cpu_decode.py`.

The demo model's VAE draws 2.4 s at 128 × 128 (two chunks, of 19 and 9 latents). The ways take
turns, each time in a process of its own on one thread; shown is the least CPU time of several
turns, for other programs only ever add some. System time is mostly that of getting memory anew.
"""

from __future__ import annotations

import json
import os

from middling import about_this_machine, arguments, measured_apart, table

CHUNKS = (19, 9)
WAYS = {
    "the library's": "",
    "and memory given back at once": "back",
    "our convolutions": "quick",
    "and memory given back at once ": "quick back",
    "and huge pages: what `generate` does": "quick back huge",
}


def run_one(way: str) -> dict[str, float]:
    """Decode in this process; returns seconds of CPU time."""
    from generator.__main__ import use_huge_pages

    if "huge" in way:
        use_huge_pages()
    import torch

    from generator.causal_convolution import quicken
    from generator.encoders import decode_latents
    from generator.machine import give_back_freed_memory
    from generator.models import DEMO_MODEL, ModelFolder

    if "back" in way:
        give_back_freed_memory()
    torch.set_num_threads(1)
    vae = ModelFolder(DEMO_MODEL).load("vae", torch.float32)
    if "quick" in way:
        quicken(vae)
    draw = torch.Generator().manual_seed(0)
    began = os.times()
    for frames in CHUNKS:
        decode_latents(vae, torch.randn(1, 16, frames, 16, 16, generator=draw))
    ended = os.times()
    return {"user_s": ended.user - began.user, "system_s": ended.system - began.system}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--one", metavar="WAY", help="used by itself")
    words = parser.parse_args()
    if words.one is not None:
        print(json.dumps(run_one(words.one)))
        return
    machine = about_this_machine()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(words.turns):
        for name, way in WAYS.items():
            found[name].append(measured_apart(__file__, way))
    rows: list[list[object]] = []
    base = 0.0
    for name, turns in found.items():
        best = min(turns, key=lambda turn: sum(turn.values()))
        total = sum(best.values())
        base = base or total
        figures = [best["user_s"], best["system_s"], total, total / base]
        rows.append([name, *(f"{figure:.2f}" for figure in figures)])
    heads = ["way", "user, s", "system, s", "CPU, s", "of the library's"]
    print(f"{machine}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
