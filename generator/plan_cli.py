"""The verb `plan`: what a video will need on a machine, as a table.

Decides: options and words. Refuses to know: how anything is counted.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from generator.protocol import JobRequest, Mode, Storage, job_request, limits

GIB = 2**30


def add_plan_verb(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `plan` its options."""
    defaults = JobRequest(prompt="-", seed=0)
    parser.add_argument("--vram", type=float, required=True, metavar="GIB", help="free VRAM")
    parser.add_argument("--ram", type=float, required=True, metavar="GIB", help="free RAM")
    parser.add_argument("--seconds", type=float, default=defaults.seconds)
    parser.add_argument("--resolution", type=int, default=640)
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--latent-window-size", type=int, default=defaults.latent_window_size)
    low, high = limits("true_cfg_scale")
    parser.add_argument(
        "--true-cfg-scale", type=float, default=1.0, help=f"{low:g} to {high:g}; 1 is off"
    )
    parser.add_argument("--placement", default="auto", choices=[str(m) for m in Mode])
    parser.add_argument("--storage", default="native", choices=[str(s) for s in Storage])
    parser.add_argument("--model", type=Path, help="a model folder; FramePack's own without it")
    parser.add_argument(
        "--tflops", type=float, default=140.0, help="what the GPU does; default a 4090's 140"
    )
    parser.add_argument(
        "--pcie", type=float, default=25.0, metavar="GB/S", help="pinned RAM to GPU; default 25"
    )
    parser.add_argument(
        "--disk", type=float, default=3.0, metavar="GB/S", help="reads from disk; default 3"
    )


def show_plan(arguments: argparse.Namespace) -> int:
    """Count and print. Raises RequestError for a setting out of its range."""
    request = job_request(
        prompt="-",
        seed=0,
        seconds=arguments.seconds,
        steps=arguments.steps,
        resolution=arguments.resolution,
        latent_window_size=arguments.latent_window_size,
        true_cfg_scale=arguments.true_cfg_scale,
    )
    # Torch's fake mode warns about internals that are nobody's business here.
    logging.getLogger("torch").setLevel(logging.ERROR)
    from generator.machine import Machine
    from generator.plan import Speeds, make_plan

    vram = int(arguments.vram * GIB)
    machine = Machine(
        ram_free=int(arguments.ram * GIB), ram_limit="given", vram_free=vram, vram_total=vram
    )
    speeds = Speeds(tflops=arguments.tflops, pcie_gb_s=arguments.pcie, disk_gb_s=arguments.disk)
    plan = make_plan(
        request,
        machine,
        speeds,
        wanted=Mode(arguments.placement),
        storage=Storage(arguments.storage),
        model=arguments.model,
    )
    print(in_words(plan, speeds))
    return 0


def in_words(plan: Any, speeds: Any) -> str:
    """The plan as text: the choice, a table of stages, the step, what was assumed."""
    height, width = plan.size
    sampling = next(stage for stage in plan.stages if stage.name == "sampling")
    step = plan.step
    lines = [
        f"{width}×{height}, {plan.sections} sections of {plan.steps} passes",
        f"placement  {plan.choice.why}",
        "",
        f"{'stage':<10}{'VRAM GiB':>10}{'RAM GiB':>10}{'pinned':>10}{'moved GiB':>11}{'s':>9}",
    ]
    lines += [
        f"{stage.name:<10}{stage.vram / GIB:>10.2f}{stage.ram / GIB:>10.2f}"
        f"{stage.pinned / GIB:>10.2f}{stage.moved / GIB:>11.2f}{stage.seconds:>9.1f}"
        for stage in plan.stages
    ]
    copying = step.copied / speeds.pcie_gb_s / 1e9
    reading = step.read / speeds.disk_gb_s / 1e9
    lines += [
        "",
        f"sampling   {plan.step_flops / 1e12:.0f} TFLOP a pass: {step.compute_s:.2f} s computing "
        f"beside {copying:.2f} s of copying and {reading:.2f} s of reading; {step.stall_s:.2f} s "
        f"are not hidden ({step.stalled_share:.1%} of a pass)",
        f"least      {plan.least_vram / GIB:.2f} GiB VRAM while sampling with no block kept on the "
        f"GPU; as chosen {sampling.vram / GIB:.2f} GiB",
        "not in it  CUDA itself (about 0.3 to 0.6 GiB VRAM), Python and its libraries (about "
        "0.8 GiB RAM), ffmpeg (about 0.3 GiB RAM)",
        f"assumed    {speeds.tflops:g} TFLOP/s (--tflops), {speeds.pcie_gb_s:g} GB/s from pinned "
        f"RAM (--pcie), {speeds.disk_gb_s:g} GB/s from disk (--disk)",
    ]
    return "\n".join(lines)
