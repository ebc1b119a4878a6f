"""Some hours of benchmarks/fairness.py: the promises that docs/fairness.md makes hold."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bot.turns import TurnsConfig

SCRIPT = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "fairness.py"


@pytest.fixture
def fairness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("fairness", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fairness", module)
    spec.loader.exec_module(module)
    return module


def test_turns_are_fair_short_jobs_are_soon_done_and_little_is_lost(fairness: ModuleType) -> None:
    day = fairness.Day()
    kind = fairness.virtual_time.PatientStore
    fairness.virtual_time.run(fairness.simulate(kind, TurnsConfig(), 6, 1, day))
    assert day.jain >= 0.95
    assert day.lost <= 0.03
    assert len(day.waits) > 20
    assert day.broken == 0
