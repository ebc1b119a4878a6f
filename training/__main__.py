"""`python -m training [STAGE …]`: the demo model again, from public-domain pictures and a seed.

Decides: the stages, their order and the work folder. Each stage goes on where a kill stopped it and
is skipped when it is done; logs, contact sheets and weights lie in the work folder as it goes.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from training import pair

WORK = Path("training_runs")
PICTURES = 700
CLIPS = 420
MODEL = Path("generator") / "demo_model"


def data(work: Path, args: argparse.Namespace) -> None:
    """Draw the procedural pictures."""
    from training.data import draw_pictures

    draw_pictures(work / "pictures", PICTURES, processes=args.processes)


def text(work: Path, args: argparse.Namespace) -> None:
    """Tokenizers and text encoders."""
    from training import text as stage

    pair.run(stage.train, work / "text", processes=1, log_file=work / "text" / "log.txt")


def code(work: Path, args: argparse.Namespace) -> None:
    """The autoencoder's encoder, computed."""
    from training.vae import make_code

    if not (work / "code" / "config.json").exists():
        make_code(work / "code", work / "pictures")


def clips(work: Path, args: argparse.Namespace) -> None:
    """Encode moving clips with the finished autoencoder."""
    from training.clips import encode_clips

    pair.run(
        encode_clips,
        work / "clips",
        work / "pictures",
        work / "code",
        CLIPS,
        args.processes,
        processes=args.processes,
        log_file=work / "clips" / "log.txt",
    )


def transformer(work: Path, args: argparse.Namespace) -> None:
    """The transformer."""
    from training import transformer as stage

    folder = work / "transformer"
    pair.run(
        stage.train,
        folder,
        work / "clips",
        work / "text" / "text",
        work / "code",
        args.steps or stage.STEPS,
        args.first,
        processes=args.processes,
        log_file=folder / "log.txt",
    )


def vae(work: Path, args: argparse.Namespace) -> None:
    """The autoencoder's decoder; latents do not depend on it, so it may run at any time."""
    from training.vae import train

    folder = work / "vae"
    arguments = (folder, work / "code", work / "pictures")
    pair.run(train, *arguments, processes=args.processes, log_file=folder / "log.txt")


def export(work: Path, args: argparse.Namespace) -> None:
    """The model folder."""
    from training.export import export as write

    size = write(
        MODEL,
        text=work / "text" / "text",
        vae=work / "vae" / "vae",
        transformer=work / "transformer" / "transformer",
        clips=work / "clips",
    )
    print(f"{MODEL} has {size:,} bytes")


def calibrate(work: Path, args: argparse.Namespace) -> None:
    """What MagCache needs to know of the finished model."""
    from training.calibrate import calibrate as measure

    print(f"{measure(MODEL)} written")


STAGES: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "data": data, "text": text, "code": code, "clips": clips, "transformer": transformer,
    "vae": vae, "export": export, "calibrate": calibrate,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named stages, or all of them, in their order. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train the demo model. Each stage goes on where it was stopped.",
        epilog="; ".join(f"{name}: {stage.__doc__}" for name, stage in STAGES.items()),
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--work", type=Path, default=WORK, help="where everything is kept")
    parser.add_argument("--steps", type=int, help="of the transformer, instead of its own number")
    parser.add_argument("--first", type=Path, help="the transformer's weights to start from")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.stages) - set(STAGES))
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format=pair.LOG_FORMAT)
    for name, stage in STAGES.items():
        if not arguments.stages or name in arguments.stages:
            stage(arguments.work, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
