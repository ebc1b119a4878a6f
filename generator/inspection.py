"""Whether a model's weights are whole, undamaged and its own, before a job is taken.

Decides: what is looked at. Each part's files must have the tensors of its real class; what
`models.lock.json` knows of them must be so; numbers at some spots must be numbers. Refuses to know:
how a part is loaded. It reads headers and at most some 100 MB, so that 40 GiB take seconds;
`framepack-bot models verify` reads everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from generator.download import LOCK_NAME, Lock, hash_file, spots_of
from generator.errors import ModelError
from generator.models import ModelFolder
from generator.parts import F1_TRANSFORMER, PARTS, TRANSFORMER
from generator.tensor_files import TensorFiles

GIB = 2**30
SMALL_BYTES = 2**20
SPOTS, SPOT_NUMBERS = 64, 2048
ASSEMBLED = ("text_encoder", TRANSFORMER)
"""Read tensor by tensor under the names of the module; the libraries rename what they load."""
AGAIN = "run `framepack-bot models download` again, which keeps what is right"


def inspect_weights(model: ModelFolder) -> None:
    """ModelError with a sentence for each fault that was found; none: the weights can be used."""
    names = [name for name, part in PARTS.items() if part.has_weights and name != TRANSFORMER]
    names += [name for name in (TRANSFORMER, F1_TRANSFORMER) if (model.path / name).is_dir()]
    problems = [*_half_a_download(model.path), *_against_lock(model.path)]
    if not problems:  # else the rest would say the same in other words
        problems = [problem for name in names for problem in _part_problems(model, name)]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" * (len(problems) > 4))
        raise ModelError(f"The weights in {model.path} can not be used: {shown}.")


def _half_a_download(folder: Path) -> Iterator[str]:
    for part in sorted(folder.glob("*/*.part")):
        if not part.is_file():
            continue
        name = part.relative_to(folder).with_suffix("").as_posix()
        yield f"{name} is half a download ({part.stat().st_size / GIB:.2f} GiB so far); {AGAIN}"


def _against_lock(folder: Path) -> Iterator[str]:
    """What the lock file knows and can be compared in little time."""
    spots = Lock(folder).spots()
    for name, (size, sha256) in sorted(Lock(folder).files().items()):
        file = folder / name
        if not file.exists():
            yield f"{name} is missing, which {LOCK_NAME} lists; {AGAIN}"
        elif file.stat().st_size != size:
            found = file.stat().st_size
            yield f"{name} has {found:,} bytes instead of {size:,}; {AGAIN}"
        elif size <= SMALL_BYTES and hash_file(file)[0] != sha256:
            yield f"{name} is not the file that was downloaded; delete it and {AGAIN}"
        elif name in spots and spots_of(file) != spots[name]:
            yield f"{name} is damaged, or another file of the same size; delete it and {AGAIN}"


def _part_problems(model: ModelFolder, part: str) -> Iterator[str]:
    try:
        files = TensorFiles(model.path / part)
    except ModelError as error:
        yield str(error).rstrip(".")
        return
    try:
        module = model.build_empty(part, torch.float32)
        misfits = [*_misfits(module, files, exactly=part.removesuffix("_f1") in ASSEMBLED)]
        if misfits:
            yield (
                f"{part}/ holds weights of another model than its config.json describes: "
                f"{len(misfits)} tensors do not fit, such as {misfits[0]}"
            )
        else:
            yield from _bad_numbers(files)
    finally:
        files.close()


def _misfits(module: nn.Module, files: TensorFiles, *, exactly: bool) -> Iterator[str]:
    """Parameters that the files do not have: by name, or else by shape alone."""
    found = Counter(entry.shape for entry in files.entries.values())
    for name, parameter in module.named_parameters():
        shape = tuple(parameter.shape)
        entry = files.entries.get(name)
        if exactly and entry is None:
            yield f"{name}, which is missing"
        elif exactly and entry is not None and entry.shape != shape:
            yield f"{name} of shape {list(entry.shape)} instead of {list(shape)}"
        elif not exactly:
            found[shape] -= 1
            if found[shape] < 0:
                yield f"{name} of shape {list(shape)}, of which there are too few"


def _bad_numbers(files: TensorFiles) -> Iterator[str]:
    """Files in which many spots are all zero, as holes of a copy are, or hold NaN or Inf."""
    large = [
        name
        for name, e in files.entries.items()
        if e.dtype.is_floating_point and e.nbytes > SMALL_BYTES
    ]
    looked_at, empty = Counter[Path](), Counter[Path]()
    for name in large[:: max(len(large) // SPOTS, 1)]:
        file = files.entry(name).file
        numbers = files.read_spot(name, SPOT_NUMBERS).float()
        looked_at[file] += 1
        empty[file] += not numbers.any()
        if not numbers.isfinite().all():
            yield f"{name} in {file.name} of {files.folder.name}/ holds NaN or Inf; {AGAIN}"
            return
    for file, count in looked_at.items():
        if count >= 4 and empty[file] > count // 2:
            yield (
                f"{file.name} of {files.folder.name}/ is empty at {empty[file]} of {count} places "
                f"that were read; delete it and {AGAIN}"
            )
