"""One video from the command line: a progress bar on stderr, the path on stdout.

Decides: where the files of a job without a bot lie. Refuses to know: what is computed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from generator.conditions import pictures_of
from generator.errors import DiskError, InputError
from generator.inspection import inspect_weights
from generator.pipeline import generate
from generator.protocol import JobRequest, Progress, Stage
from generator.workshop import open_workshop

BAR = "{desc:<24} {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


def generate_once(request: JobRequest, arguments: Any) -> int:
    """Write `arguments.out`, its record beside it, and the latents if asked. Raises
    GeneratorError."""
    out: Path = arguments.out
    if out.suffix.lower() != ".mp4":
        out = out.with_name(out.name + ".mp4")
    for file in filter(None, (out, arguments.latents_out)):
        _refuse_folder(file)
        _make_folder(file.absolute().parent)
    workshop = open_workshop(arguments)
    inspect_weights(workshop.placement.model)
    if arguments.model == "demo":
        sys.stderr.write("These are demo weights: small, quick, trained on synthetic scenes.\n")
    with (
        # Beside the result: the last step must be a rename, not a copy across disks.
        _scratch(out.absolute().parent) as scratch,
        tqdm(total=1.0, bar_format=BAR, disable=arguments.no_progress, file=sys.stderr) as bar,
    ):
        folder = Path(scratch)
        request = _with_copies(request, folder)
        with closing(
            generate("one", request, folder, workshop, latents_out=arguments.latents_out)
        ) as events:
            for event in events:
                if isinstance(event, Progress):
                    _show(bar, event)
                else:
                    video = folder / event.video
                    video.with_suffix(".json").replace(out.with_suffix(".json"))
                    video.replace(out)
                    bar.update(1.0 - bar.n)
    sys.stdout.write(f"{out}\n")
    return 0


def _with_copies(request: JobRequest, folder: Path) -> JobRequest:
    """The request with its pictures copied into the job's folder under neutral names.

    The request is written into the video: where somebody keeps pictures does not belong there.
    """
    copies = {
        name: f"picture-{number}" for number, name in enumerate(dict.fromkeys(pictures_of(request)))
    }
    for name, copy in copies.items():
        try:
            shutil.copyfile(name, folder / copy)
        except OSError as error:
            raise InputError(f"The picture {name} can not be read: {error.strerror}.") from None
    return msgspec.structs.replace(
        request,
        image=copies[request.image],
        references=tuple(copies[name] for name in request.references),
        end_image=copies.get(request.end_image or ""),
    )


def _show(bar: Any, progress: Progress) -> None:
    text = str(progress.stage)
    if progress.stage is Stage.SAMPLING and progress.step:
        text = f"section {progress.section}/{progress.sections} step {progress.step}/"
        text += f"{progress.steps}"
    bar.set_description_str(text, refresh=False)
    if progress.remaining_s is not None:
        bar.set_postfix_str(f"{progress.remaining_s:.0f} s left", refresh=False)
    bar.update(max(progress.fraction - bar.n, 0))
    bar.refresh()


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix=".framepack-", dir=folder)
    except OSError as error:
        raise DiskError(f"The folder {folder} can not be written: {error.strerror}.") from None


def _refuse_folder(file: Path) -> None:
    if file.is_dir():
        raise DiskError(f"{file} is a folder; name the file to write.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"The folder {folder} can not be made: {error.strerror}.") from None
