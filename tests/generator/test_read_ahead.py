"""The next part's files are read while the last one computes, and nothing waits for it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from small_jobs import sampled, small_request, small_workshop

from generator import read_ahead
from generator.read_ahead import ReadAhead


def test_each_part_is_read_while_the_one_before_it_computes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = small_workshop(tiny_model)
    placement, events = workshop.placement, list[tuple[str, str]]()
    begin, load = placement._ahead.begin, placement._loaded

    def begins(folder: Path, ram_free: int) -> bool:
        events.append(("read", folder.name))
        return begin(folder, ram_free)

    def loads(name: str) -> Any:
        if not placement.is_loaded(name):
            events.append(("load", name))
        return load(name)

    monkeypatch.setattr(placement._ahead, "begin", begins)
    monkeypatch.setattr(placement, "_loaded", loads)
    sampled(workshop, tmp_path, small_request())
    parts = ["text_encoder", "text_encoder_2", "image_encoder", "vae", "transformer"]
    order = [("load", parts[0])]
    for part in parts[1:]:
        order += [("read", part), ("load", part)]
    assert [event for event in events if event[1] in parts][: len(order)] == order
    events.clear()
    sampled(workshop, tmp_path, small_request(seed=8))
    assert ("read", "transformer") not in events and ("load", "transformer") not in events
    placement.unload()
    assert "read ahead" not in {thread.name for thread in threading.enumerate()}


def test_what_does_not_fit_or_is_not_there_is_not_read(tmp_path: Path) -> None:
    ahead = ReadAhead()
    assert not ahead.begin(tmp_path / "nowhere", 2**40)
    (tmp_path / "a.safetensors").write_bytes(bytes(1000))
    assert not ahead.begin(tmp_path, 1999)
    assert ahead.begin(tmp_path, 2000)
    ahead.close()


def test_all_of_it_is_read_and_it_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "PIECE_BYTES", 10)
    sizes, stop = list[int](), threading.Event()

    class Opened:
        def __init__(self, file: Path) -> None:
            self.stream = file.open("rb", buffering=0)

        def __enter__(self) -> Opened:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def readinto(self, piece: bytearray) -> int:
            sizes.append(self.stream.readinto(piece) or 0)  # type: ignore[attr-defined]
            if len(sizes) == 50:
                stop.set()
            return sizes[-1]

    class File:
        parent = tmp_path

        def __init__(self, path: Path) -> None:
            self.path = path

        def open(self, *_: object, **__: object) -> Opened:
            return Opened(self.path)

    for name, size in (("a", 95), ("b", 30), ("c", 10_000)):
        (tmp_path / name).write_bytes(bytes(size))
    files: list[Any] = [File(tmp_path / name) for name in "abc"]
    read_ahead._read(files, stop)
    assert sum(sizes[:15]) == 95 + 30 and len(sizes) == 50
