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
from typing import TYPE_CHECKING

from training import pair

if TYPE_CHECKING:
    from training.vae import Phase

WORK = Path("training_runs")
PICTURES = 700
CLIPS = 300
MODEL = Path("generator") / "demo_model"


def data(work: Path, processes: int) -> None:
    """Draw the procedural pictures."""
    from training.data import draw_pictures

    draw_pictures(work / "pictures", PICTURES, processes=processes)


def text(work: Path, processes: int) -> None:
    """Tokenizers and text encoders."""
    from training import text as stage

    pair.run(stage.train, work / "text", processes=1, log_file=work / "text" / "log.txt")


def vae(work: Path, processes: int) -> None:
    """The autoencoder."""
    from training.vae import WHOLE

    _autoencoder(work, processes, WHOLE)


def decoder(work: Path, processes: int) -> None:
    """The autoencoder's decoder once more; latents no longer change, so it may run late."""
    from training.vae import DECODER

    _autoencoder(work, processes, DECODER)


def _autoencoder(work: Path, processes: int, phase: Phase) -> None:
    from training.vae import train

    folder = work / "vae"
    log_file = folder / f"{phase.name}.txt"
    pair.run(train, folder, work / "pictures", phase, processes=processes, log_file=log_file)


def clips(work: Path, processes: int) -> None:
    """Encode moving clips with the finished autoencoder."""
    from training.clips import encode_clips

    pair.run(
        encode_clips,
        work / "clips",
        work / "pictures",
        work / "vae" / "whole",
        CLIPS,
        processes,
        processes=processes,
        log_file=work / "clips" / "log.txt",
    )


def transformer(work: Path, processes: int) -> None:
    """The transformer."""
    from training import transformer as stage

    folder = work / "transformer"
    pair.run(
        stage.train,
        folder,
        work / "clips",
        work / "text" / "text",
        work / "vae" / "whole",
        processes=processes,
        log_file=folder / "log.txt",
    )


def export(work: Path, processes: int) -> None:
    """The model folder."""
    from training.export import export as write

    size = write(
        MODEL,
        text=work / "text" / "text",
        vae=work / "vae" / "decoder",
        transformer=work / "transformer" / "transformer",
        clips=work / "clips",
    )
    print(f"{MODEL} has {size:,} bytes")


STAGES: dict[str, Callable[[Path, int], None]] = {
    "data": data, "text": text, "vae": vae, "clips": clips, "transformer": transformer,
    "decoder": decoder, "export": export,
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
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.stages) - set(STAGES))
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    logging.basicConfig(level=logging.INFO, format=pair.LOG_FORMAT)
    for name, stage in STAGES.items():
        if not arguments.stages or name in arguments.stages:
            stage(arguments.work, arguments.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
