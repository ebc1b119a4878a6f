"""Files come from the hub, whole or not at all, and can be told from others later.

Decides: resuming, checking, the lock file. Refuses to know: which files (`hub`), who agreed.
`models.lock.json` is written after every file: commit, size and sha256 as they were received. No
hash is made up: a large file must have the sha256 that the hub lists, a small one its git id.

The hub's own download to a folder starts a file anew after a crash (huggingface_hub 2.4 deletes
what it had), so a file here grows as `NAME.part` and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from generator.errors import DiskError, ModelError
from generator.hub import SOURCES, Listing, RemoteFile
from generator.parts import telling_bytes
from generator.whole_file import write_whole

LOCK_NAME = "models.lock.json"
LOCK_VERSION = 1
SPARE_BYTES = 2**30
PIECE_BYTES = 2**22

Advance = Callable[[int], None]
"""Called with the number of bytes that were done since the last call."""


class Lock:
    """models.lock.json of a model folder: which commit and which bytes are in use."""

    def __init__(self, folder: Path):
        self.file = folder / LOCK_NAME
        self._data: dict[str, Any] = {"version": LOCK_VERSION, "repositories": {}}
        if self.file.exists():
            try:
                self._data = json.loads(self.file.read_text("utf-8"))
                self._repositories  # noqa: B018
            except (ValueError, KeyError, TypeError) as error:
                raise ModelError(
                    f"{self.file} can not be read ({error!r}); delete it, then run "
                    "`framepack-bot models download` again: what is on disk is checked and kept."
                ) from None

    @property
    def _repositories(self) -> dict[str, Any]:
        repositories: dict[str, Any] = self._data["repositories"]
        return repositories

    def commit_of(self, repository: str) -> str | None:
        """The commit that this folder was filled from."""
        entry = self._repositories.get(repository)
        return entry["commit"] if entry else None

    def files(self) -> dict[str, tuple[int, str]]:
        """Path in the model folder → (size, sha256), of all repositories."""
        return {
            path: (entry["size"], entry["sha256"])
            for repository in self._repositories.values()
            for path, entry in repository["files"].items()
        }

    def spots(self) -> dict[str, str]:
        """Path in the model folder → what `spots_of` said of a large file when it had come."""
        return {
            path: entry["spots"]
            for repository in self._repositories.values()
            for path, entry in repository["files"].items()
            if "spots" in entry
        }

    def note(self, listing: Listing, file: RemoteFile, sha256: str, spots: str) -> None:
        """This file is whole. Written at once."""
        entry = self._repositories.setdefault(listing.source.repository, {"files": {}})
        entry |= {"commit": listing.commit, "licence": listing.licence}
        entry["files"][file.path] = {"size": file.size, "sha256": sha256, "spots": spots}
        self._write()

    def forget(self, paths: set[str]) -> None:
        """These files are gone."""
        for name, entry in list(self._repositories.items()):
            for path in paths & entry["files"].keys():
                del entry["files"][path]
            if not entry["files"]:
                del self._repositories[name]
        self._write()

    def _write(self) -> None:
        write_whole(self.file, json.dumps(self._data, indent=1, sort_keys=True).encode())


def missing_bytes(folder: Path, listings: list[Listing]) -> int:
    """How much is still to be received for these listings."""
    return sum(
        max(file.size - _received(folder / file.path), 0)
        for each in listings
        for file in each.files
    )


def refuse_full_disk(folder: Path, needed: int) -> None:
    """DiskError, with both numbers, when what is to come does not fit with 1 GiB to spare."""
    free = shutil.disk_usage(folder).free
    if needed and needed + SPARE_BYTES > free:
        raise DiskError(
            f"{needed / 2**30:.1f} GiB are still to be downloaded and 1 GiB must stay free, but "
            f"only {free / 2**30:.1f} GiB are free at {folder}; free some space, or name a folder "
            "on another disk."
        )


def fetch(folder: Path, listing: Listing, lock: Lock, advance: Advance) -> None:
    """Bring every file of the listing into `folder`; what is there and right is not fetched again.

    Raises GeneratorError. Stopped at any point, the next call goes on where this one was.
    """
    known = lock.files()
    for file in listing.files:
        path = folder / file.path
        is_known, has_size = file.path in known, _size(path) == file.size
        if is_known and has_size and _same(known[file.path][1], file, path):
            advance(file.size)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if has_size and not is_known:  # copied here by hand
            path.replace(_part(path))
        with hub_errors(listing.source.repository, folder):
            _receive(listing, file, _part(path), advance)
        sha256 = _checked(file, _part(path), listing)
        _part(path).replace(path)
        lock.note(listing, file, sha256, spots_of(path))


def verify(folder: Path, advance: Advance) -> list[str]:
    """One sentence for each file that is not what the lock file says; empty when all are right."""
    problems = []
    for name, (size, sha256) in sorted(Lock(folder).files().items()):
        path = folder / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{name} has {path.stat().st_size:,} bytes instead of {size:,}")
        elif (found := hash_file(path, advance)[0]) != sha256:
            problems.append(f"{name} has sha256 {found[:16]}… instead of {sha256[:16]}…")
    return problems


def hash_file(path: Path, advance: Advance = lambda _: None) -> tuple[str, str]:
    """The file's sha256 and its id in git, in hex."""
    sha256, git = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    git.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            sha256.update(piece)
            git.update(piece)
            advance(len(piece))
    return sha256.hexdigest(), git.hexdigest()


def spots_of(path: Path) -> str:
    """16 hex digits of the file's size, head and some spots: milliseconds, however large it is."""
    digest = hashlib.sha256()
    for piece in telling_bytes(path):
        digest.update(piece)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def hub_errors(repository: str, folder: Path) -> Iterator[None]:
    """What the hub's client raises becomes one sentence about what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{repository} is gated: accept its terms at https://huggingface.co/{repository}, then "
            "set HF_TOKEN to a token of that account."
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"The hub has no repository {repository}, or hides it; if it is private, set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"{repository} no longer has the commit in {LOCK_NAME}; `framepack-bot models download "
            "--update` takes today's."
        ) from None
    except (errors.HTTPError, errors.OfflineModeIsEnabled, ConnectionError) as error:  # type: ignore[attr-defined]
        raise _unreachable(repository, folder, error) from None
    except OSError as error:
        if error.errno is None:  # the hub's client noticed that bytes are missing
            raise _unreachable(repository, folder, error) from None
        raise DiskError(
            f"{folder} could not be written ({_first_line(error)}). What was received is kept: "
            "make room, then run the same command again."
        ) from error


def _receive(listing: Listing, file: RemoteFile, part: Path, advance: Advance) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        disable_progress_bars,
    )

    disable_progress_bars()  # one bar for everything says more
    url = hf_hub_url(listing.source.repository, file.name, revision=listing.commit)
    if _size(part) > file.size:
        part.unlink()
    with part.open("ab") as stream:
        counted = _Counted(stream, advance)
        http_get(
            url,
            counted,  # type: ignore[arg-type]
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
        )


class _Counted:
    """A file that tells how far it is. The hub's client may cut it back to start anew."""

    def __init__(self, stream: IO[bytes], advance: Advance):
        self._stream, self._advance = stream, advance
        advance(stream.tell())

    def write(self, piece: bytes) -> int:
        self._advance(len(piece))
        return self._stream.write(piece)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int) -> int:
        self._advance(position - self._stream.tell())
        return self._stream.seek(position)

    def truncate(self) -> int:
        return self._stream.truncate()


def _checked(file: RemoteFile, part: Path, listing: Listing) -> str:
    """The sha256 of what was received. ModelError, and the file is gone, if it is not theirs."""
    sha256, git_sha1 = hash_file(part)
    found, wanted = (sha256, file.sha256) if file.sha256 else (git_sha1, file.git_sha1)
    if found != wanted:
        part.unlink()
        raise ModelError(
            f"{file.path} from {listing.source.repository} is damaged: its hash is {found}, the "
            f"hub lists {wanted}. It was deleted; run the same command again."
        )
    return sha256


def _same(known_sha256: str, file: RemoteFile, path: Path) -> bool:
    """Whether what was received is still what the hub lists; of a small file it lists a git id."""
    if file.sha256 is None:
        return hash_file(path)[1] == file.git_sha1
    return known_sha256 == file.sha256


def _received(path: Path) -> int:
    return max(_size(path), _size(_part(path)))


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(repository: str, folder: Path, error: Exception) -> ModelError:
    copies = "; ".join(
        f"{source.repository}, {theirs or 'its root'}, to {(folder / ours).absolute()}"
        for source in SOURCES
        for theirs, ours in source.folders.items()
    )
    return ModelError(
        f"The hub could not be reached for {repository} ({_first_line(error)}). Run the same "
        "command again: it goes on where it stopped. If this machine has no network, run it on "
        f"another one and copy the whole folder, or copy by hand: {copies}."
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
