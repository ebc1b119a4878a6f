"""Our streaming beside the library's group offload, as far as a CPU can compare them.

    python benchmarks/offload.py            about 1.1 GiB of weights, a minute or two

Each way runs in a process of its own: a random transformer of middling size, two calls. Shown is
what a machine must have: anonymous memory above what Python and the libraries take, bytes read and
written by calls, and the CPU time of the second call. With a GPU the library would pin what it
holds; without one it can not overlap anything, so time is no comparison here. Linux only.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from middling import (
    OwnMemoryPeak,
    about_this_machine,
    arguments,
    make_model,
    measured_apart,
    own_memory_mib,
    table,
)

from generator.assembly import Recipe, assemble
from generator.devices import HostDevice
from generator.models import ModelFolder
from generator.plan import transformer_inputs

CPU = torch.device("cpu")
WAYS = {
    "ours": "framepack-bot, `disk`",
    "ram": "library, block groups, offloaded to RAM",
    "disk": "library, block groups, offloaded to disk",
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one[0], Path(options.one[1]))))
        return
    print(about_this_machine())
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_model(Path(scratch) / "model", heads=32, dual=4, single=8, vae_channels=8)
        size = sum(f.stat().st_size for f in (folder / "transformer").glob("*.safetensors"))
        print(f"weights: {size / 2**20:.0f} MiB in float32")
        for way, name in WAYS.items():
            found = measured_apart(__file__, way, folder)
            rows.append([name, *(f"{found[key]:.0f}" for key in ("peak", "read", "written"))])
            rows[-1].append(f"{found['cpu_s']:.1f}")
    heads = ["way", "anonymous MiB", "read MiB", "written MiB", "CPU s of a call"]
    print(table(heads, rows))


def run(way: str, folder: Path) -> dict[str, float]:
    """Load, call twice; what that took."""
    torch.set_num_threads(1)
    model = ModelFolder(folder)
    before, at_first = own_memory_mib(), traffic()
    with OwnMemoryPeak() as peak, torch.inference_mode():
        transformer = prepared(way, model, folder)
        call = transformer_inputs(transformer.config, (64, 64), 1, torch.float32)
        for _ in range(2):
            began = time.process_time()
            transformer(**call, return_dict=False)
            cpu_s = time.process_time() - began
    read, written = (b - a for a, b in zip(at_first, traffic(), strict=True))
    return {"peak": peak.mib - before, "read": read, "written": written, "cpu_s": cpu_s}


def prepared(way: str, model: ModelFolder, folder: Path) -> Any:
    """The transformer, ready to be called."""
    if way == "ours":
        recipe = Recipe(device=CPU, dtype=torch.float32, resident=0, in_ram=frozenset())
        return assemble(model, "transformer", recipe, HostDevice()).module
    transformer: Any = model.load("transformer", torch.float32)
    transformer.enable_group_offload(
        onload_device=CPU,
        offload_device=CPU,
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(folder / "offloaded") if way == "disk" else None,
    )
    return transformer


def traffic() -> tuple[float, float]:
    """MiB that this process has read and written by calls so far."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["rchar"]) / 2**20, int(facts["wchar"]) / 2**20


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("this reads /proc")
    main()
