"""What is kept of a job while it is at work, so that a crash costs at most one step or 30 seconds.

Decides: the two files in the job's folder, when they are written, which of them still fit. Refuses
to know: how latents are made. `sections.bin` is append-only: one record a finished section, each
with its checksum, so that a torn last write is seen and dropped. `resume.safetensors` is replaced
whole: the section at work after a whole step, with what the sampler and TeaCache remember.

The noise needs no saved state: it is drawn again from the seed, in order. Both files begin with the
digest of everything that decides values; one of another digest is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from generator import fallback
from generator.errors import is_out_of_memory
from generator.sampler import UniPC
from generator.step_cache import CacheState, StepCache
from generator.whole_file import partial_of, write_whole

log = logging.getLogger(__name__)

SECTIONS_FILE = "sections.bin"
POINT_FILE = "resume.safetensors"
EVERY_S = 30.0
_HEADER = struct.Struct("<II")  # bytes of the payload, its CRC-32


def work_digest(record: dict[str, Any]) -> str:
    """The digest of what decides values, as the record of the result says it."""
    decisive = {**record, "model": record["model"]["digests"]}  # not what its folder is called
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


class SavedWork:
    """The kept part of one job: read when opened, written as the job goes on."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._sections_file, self._point_file = folder / SECTIONS_FILE, folder / POINT_FILE
        self._digest, self._every_s, self._clock = digest, every_s, clock
        self._last = clock()
        self._sections: list[Tensor] = []
        self.computed_steps: list[list[int]] = []
        """Of each finished section: the steps that ran the transformer's blocks."""
        self._read_sections()
        self._point = self._read_point()

    @property
    def finished(self) -> int:
        """How many sections are whole."""
        return len(self._sections)

    def section(self, number: int) -> Tensor | None:
        """The latents of finished section `number` (from 1, in sampling order), if kept."""
        return self._sections[number - 1] if number <= len(self._sections) else None

    def steps_done(self, steps: int) -> int:
        """How many steps of the job need not be made again."""
        section, step = self._point[:2] if self._point else (0, 0)
        at_work = step if section == len(self._sections) + 1 else 0
        return len(self._sections) * steps + at_work

    @contextmanager
    def at_work(self, number: int, solver: UniPC, cache: StepCache) -> Iterator[None]:
        """While a section is sampled: stopping, or running out of memory, keeps its steps."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, GeneratorExit) or is_out_of_memory(error):
                self._write_point(number, solver, cache)
            raise

    def keep_if_due(self, number: int, solver: UniPC, cache: StepCache) -> None:
        """Replace the resume point if the last one is old enough. Call between steps."""
        if self._clock() - self._last >= self._every_s:
            self._write_point(number, solver, cache)

    def restore(self, number: int, solver: UniPC) -> CacheState | None:
        """Bring the solver to where section `number` was kept; returns what its cache remembered.

        None: nothing of this section is kept.
        """
        if self._point is None or self._point[0] != number:
            return None
        _, step, tensors, state = self._point
        device = solver.x.device
        solver.step, solver.x = step, tensors["x"].to(device)
        names = sorted(name for name in tensors if name.startswith("prediction_"))
        solver.predictions = [tensors[name].to(device) for name in names]
        log.info("Section %d goes on at step %d", number, step + 1)
        return state

    def append(self, latents: Tensor, computed_steps: list[int]) -> None:
        """Section after section, as each is finished."""
        steps = torch.tensor(computed_steps, dtype=torch.int64)
        payload = save({"latents": latents.contiguous(), "computed_steps": steps})
        is_new = not self._sections_file.exists()
        with self._sections_file.open("ab") as stream:
            if is_new:
                stream.write(_record(self._digest.encode()))
            stream.write(_record(payload))
            _sync(stream)
        self._sections.append(latents)
        self.computed_steps.append(computed_steps)
        self._last = self._clock()

    def discard(self, after: Path | None = None) -> None:
        """The job has ended; nothing will go on. What came of it, `after`, is on the disk first:
        until then a power cut must find something to make it again from."""
        if after is not None:
            with after.open("rb+") as stream:
                _sync(stream)
        discard(self._sections_file.parent)

    def _write_point(self, number: int, solver: UniPC, cache: StepCache) -> None:
        state = cache.state()
        if state is None or solver.step == 0:
            return  # nothing to lose yet, or a library's cache, which begins anew with the section
        tensors = {"x": solver.x, **state.tensors}
        tensors |= {f"prediction_{i}": x0 for i, x0 in enumerate(solver.predictions)}
        notes = {
            "digest": self._digest,
            "section": str(number),
            "step": str(solver.step),
            "cache": json.dumps(state.notes),
        }
        apart = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
        payload = save(apart, metadata=notes)
        write_whole(self._point_file, payload)
        self._last = self._clock()

    def _read_sections(self) -> None:
        if not self._sections_file.exists():
            return
        raw = self._sections_file.read_bytes()
        payloads = list(_whole_records(raw))
        if not payloads or payloads[0] != self._digest.encode():
            log.warning("Saved sections are of another request, model or version: starting anew")
            self._sections_file.unlink()
            return
        whole = sum(_HEADER.size + len(payload) for payload in payloads)
        if whole < len(raw):
            log.warning("The last saved section was torn and is made again")
            os.truncate(self._sections_file, whole)
        for section in map(load, payloads[1:]):
            self._sections.append(section["latents"])
            self.computed_steps.append(section["computed_steps"].tolist())

    def _read_point(self) -> tuple[int, int, dict[str, Tensor], CacheState] | None:
        if not self._point_file.exists():
            return None
        try:
            notes, tensors = _read_tensors(self._point_file)
        except (OSError, SafetensorError) as error:
            log.warning("The resume point is damaged (%s): the section starts anew", error)
            return None
        if notes.get("digest") != self._digest:
            log.warning("The resume point is of another request, model or version: starting anew")
            return None
        state = CacheState(tensors=tensors, notes=json.loads(notes["cache"]))
        return int(notes["section"]), int(notes["step"]), tensors, state


def rewrite_digest(folder: Path, before: str, after: str) -> None:
    """What is kept under the digest `before` counts as kept under `after`; other files stay."""
    sections, point = folder / SECTIONS_FILE, folder / POINT_FILE
    if sections.exists():
        old, raw = _record(before.encode()), sections.read_bytes()
        if raw.startswith(old):
            write_whole(sections, _record(after.encode()) + raw[len(old) :])
    if point.exists():
        notes, tensors = _read_tensors(point)
        if notes.get("digest") == before:
            write_whole(point, save(tensors, metadata={**notes, "digest": after}))


def discard(folder: Path) -> None:
    """Remove what is kept of the job of this folder."""
    for file in (folder / SECTIONS_FILE, folder / POINT_FILE):
        file.unlink(missing_ok=True)
        partial_of(file).unlink(missing_ok=True)
    fallback.forget(folder)


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's notes and tensors, which keep no hold of the file.

    Windows neither replaces nor deletes a file that is mapped, as it is until its last view goes.
    """
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
        return notes, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _record(payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _whole_records(raw: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + _HEADER.size <= len(raw):
        size, checksum = _HEADER.unpack_from(raw, offset)
        payload = raw[offset + _HEADER.size : offset + _HEADER.size + size]
        if len(payload) < size or zlib.crc32(payload) != checksum:
            return
        yield payload
        offset += _HEADER.size + size


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())
