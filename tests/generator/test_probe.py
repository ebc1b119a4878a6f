"""What `doctor` asks: an answer in every case, never a failure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from generator.__main__ import main
from generator.probe import probe, probe_in_words


def test_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__
    assert Path(found["ffmpeg"]).is_file()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found["versions"]) >= {"torch", "diffusers", "transformers", "safetensors"}
    assert found["problems"] == []


def test_one_line_for_a_person() -> None:
    line = probe_in_words()
    assert torch.__version__ in line
    assert "NVIDIA GPU" in line
    assert "\n" not in line


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = json.loads(probe())
    assert (found["torch"], found["gpus"]) == (None, [])
    assert "torch can not be imported" in found["problems"][0]
    assert "torch can not be imported" in probe_in_words()


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nothing"))
    found = json.loads(probe())
    assert found["ffmpeg"] is None
    assert "ffmpeg was not found" in found["problems"][0]


def test_without_the_ffmpeg_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    found = json.loads(probe())
    assert found["ffmpeg"] is None
    assert "ffmpeg was not found" in found["problems"][0]
