"""Some hours of benchmarks/fairness.py: the promises that docs/fairness.md makes hold."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

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


def simulated(fairness: ModuleType, kind: str, turns: TurnsConfig, hours: float) -> Any:
    day = fairness.Day()
    store = {"product": fairness.virtual_time.PatientStore, "first come": fairness.FirstCome}[kind]
    fairness.virtual_time.run(fairness.simulate(store, turns, hours, 1, day))
    return day


def test_turns_are_fair_short_jobs_are_soon_done_and_little_is_lost(fairness: ModuleType) -> None:
    day = simulated(fairness, "product", TurnsConfig(), 6)
    assert len(day.waits) > 20
    found = fairness.promises(day)
    assert len(found) == 3
    assert all(kept for _, _, kept in found), found


def test_first_come_first_served_breaks_the_promise_to_short_jobs(fairness: ModuleType) -> None:
    day = simulated(fairness, "first come", TurnsConfig(sections=1000, minutes=1440), 3)
    assert [kept for _, _, kept in fairness.promises(day)][1] is False


@pytest.mark.parametrize(("jain", "code"), [(1.0, 0), (0.9, 1)])
def test_a_broken_promise_is_an_exit_code(
    fairness: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, jain: float, code: int
) -> None:
    def run(day: Any) -> None:
        day.jain, day.waits = jain, [(20.0, True, True)]

    monkeypatch.setattr(fairness.virtual_time, "run", run)
    monkeypatch.setattr(fairness, "simulate", lambda *values: values[-1])
    monkeypatch.setattr(sys, "argv", ["fairness.py"])
    assert fairness.main() == code
    assert ("**no**" in capsys.readouterr().out) is bool(code)
