"""`make torture` in a few seconds; the long form is benchmarks/torture.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "torture.py"


@pytest.fixture
def torture(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("torture", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "torture", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.platform == "win32", reason="the harness ends the bot with SIGTERM")
async def test_killed_again_and_again_nothing_is_lost_and_nothing_comes_twice(
    torture: ModuleType,
) -> None:
    row = await torture.fake_kills(5)
    assert row.good, row.line() + "\n".join(row.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="the harness ends the bot with SIGTERM")
async def test_many_people_at_once_each_get_their_video_once(torture: ModuleType) -> None:
    row = await torture.crowd(20)
    assert row.good, row.line() + "\n".join(row.notes)
    assert row.jobs == 20
