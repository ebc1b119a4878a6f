"""The random model folder that all tests of the generator share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from generator.tiny import make_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder whose F1 transformer has other weights than the I2V one."""
    folder = tmp_path_factory.mktemp("tiny-model")
    other = tmp_path_factory.mktemp("other-model")
    make_tiny_model(folder)
    make_tiny_model(other, seed=1)
    shutil.copytree(other / "transformer", folder / "transformer_f1")
    return folder
