"""The verb `models`: list, download, verify, remove, convert, check, tiny.

Decides: options, what is printed. Refuses to know: how files travel or are cast.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from generator.download import (
    LOCK_NAME,
    Lock,
    fetch,
    hub_errors,
    missing_bytes,
    refuse_full_disk,
    verify,
)
from generator.errors import DiskError, ModelError
from generator.hub import SOURCES, Listing, list_source, sources_for
from generator.licences import ask_consent
from generator.protocol import RequestError, Variant

DEFAULT_FOLDER = Path("models/framepack")
GIB = 2**30


def add_models_verb(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `models` its actions; each sets `action`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add(actions, "list", _list, "which parts are there, from which commit, how large")
    download = _add(actions, "download", _download, "fetch or complete a model folder")
    _add_variant(download)
    download.add_argument(
        "--accept-licences", action="store_true", help="you have read and accept them"
    )
    download.add_argument(
        "--update", action="store_true", help=f"today's commits, not those of {LOCK_NAME}"
    )
    _add(actions, "verify", _verify, f"read every file and compare it with {LOCK_NAME}")
    remove = _add(actions, "remove", _remove, "delete what was downloaded")
    remove.add_argument(
        "--variant", choices=[str(v) for v in Variant], help="only this variant's transformer"
    )
    remove.add_argument("--yes", action="store_true", help="do not ask")
    convert = _add(actions, "convert", _convert, "write a smaller copy of the transformers")
    convert.add_argument("--fp8", action="store_true", required=True, help="blocks in 8 bits")
    _add_variant(convert)
    _add(actions, "check", _check, "is this a complete model folder?")
    _add(actions, "tiny", _tiny, "make a random model folder for tests")


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    needed = name in {"check", "tiny"}
    parser.add_argument(
        "folder",
        type=Path,
        nargs=None if needed else "?",
        default=None if needed else DEFAULT_FOLDER,
        help="" if needed else f"model folder; default {DEFAULT_FOLDER}",
    )
    parser.set_defaults(action=run)
    return parser


def _add_variant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--variant", default="both", choices=[*map(str, Variant), "both"], help="default both"
    )


def _variants(arguments: argparse.Namespace) -> set[Variant]:
    return set(Variant) if arguments.variant == "both" else {Variant(arguments.variant)}


def _list(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    lock = Lock(folder)
    known = lock.files()
    for source in SOURCES:
        commit = lock.commit_of(source.repository)
        print(f"{source.repository}  {commit or 'not downloaded by this program'}")
        for part in source.folders.values():
            files = [f for f in (folder / part).glob("*") if f.is_file()]
            size = sum(file.stat().st_size for file in files) / GIB
            wanted = [name for name in known if name.startswith(f"{part}/")]
            present = sum((folder / name).exists() for name in wanted)
            state = f"{present} of {len(wanted)} files" if wanted else f"{len(files)} files"
            print(f"  {folder / part}  {state}, {size:.2f} GiB")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from generator.models import ModelFolder

    folder: Path = arguments.folder
    lock = Lock(folder)
    listings = []
    for source in sources_for(_variants(arguments)):
        commit = None if arguments.update else lock.commit_of(source.repository)
        with hub_errors(source.repository, folder):
            listings.append(list_source(source, commit or "main"))
    for each in listings:
        print(f"{each.source.repository} @ {each.commit}: {each.size / GIB:.2f} GiB")
    ask_consent(folder, listings, accepted=arguments.accept_licences)
    _make(folder)
    refuse_full_disk(folder, missing_bytes(folder, listings))
    _fetch_all(folder, listings, lock)
    ModelFolder(folder)
    print(folder)
    return 0


def _fetch_all(folder: Path, listings: list[Listing], lock: Lock) -> None:
    with _bar(sum(each.size for each in listings), "all files") as advance:
        for each in listings:
            fetch(folder, each, lock, advance)


def _verify(arguments: argparse.Namespace) -> int:
    from generator.models import ModelFolder

    known = Lock(arguments.folder).files()
    if not known:
        raise ModelError(
            f"{arguments.folder} has no {LOCK_NAME} with files in it, so there is nothing to "
            "compare with; `framepack-bot models download` writes it."
        )
    with _bar(sum(size for size, _ in known.values()), "checking") as advance:
        problems = verify(arguments.folder, advance)
    if problems:
        raise ModelError(
            f"{'; '.join(problems)}. Delete what is wrong and run `framepack-bot models download`."
        )
    ModelFolder(arguments.folder)
    print(f"{len(known)} files are what {LOCK_NAME} says")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    lock = Lock(folder)
    sources = [s for s in SOURCES if arguments.variant in (None, s.variant)]
    parts = [part for source in sources for part in source.folders.values()]
    parts += [f"{part}_fp8" for part in parts if part.startswith("transformer")]
    present = [folder / part for part in parts if (folder / part).is_dir()]
    size = sum(f.stat().st_size for part in present for f in part.rglob("*") if f.is_file()) / GIB
    if not present:
        raise RequestError(f"{folder} holds none of {', '.join(parts)}")
    names = ", ".join(part.name for part in present)
    if not arguments.yes and input(f"Delete {names} ({size:.1f} GiB)? Type yes: ") != "yes":
        raise RequestError("nothing was deleted")
    for part in present:
        shutil.rmtree(part)
    if lock.file.exists():
        lock.forget({n for n in lock.files() if n.split("/")[0] in {p.name for p in present}})
    print(f"{names}: {size:.2f} GiB freed")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from generator.fp8 import convert
    from generator.models import ModelFolder

    model = ModelFolder(arguments.folder)
    wanted = _variants(arguments)
    if arguments.variant == "both":  # whichever are there
        wanted = {v for v in wanted if v is Variant.F1 or (model.path / "transformer").is_dir()}
    parts = {model.transformer_part(variant) for variant in wanted}
    for part in sorted(parts):
        size = sum(file.stat().st_size for file in (model.path / part).glob("*.safetensors"))
        refuse_full_disk(model.path, size // 2)
        with _bar(size, part) as advance:
            print(convert(model.path / part, model.path / f"{part}_fp8", advance))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from generator.inspection import inspect_weights
    from generator.models import ModelFolder

    inspect_weights(ModelFolder(arguments.folder))
    print(arguments.folder)
    return 0


def _tiny(arguments: argparse.Namespace) -> int:
    from generator.tiny import make_tiny_model

    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        raise RequestError(f"{arguments.folder} exists and is not empty; name a new folder")
    _make(arguments.folder)
    make_tiny_model(arguments.folder)
    return _check(arguments)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"The folder {folder} can not be made: {error.strerror}.") from None


@contextmanager
def _bar(total: int, text: str) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(
        total=total, desc=text, unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr
    ) as bar:
        yield lambda count: bar.update(count) and None
