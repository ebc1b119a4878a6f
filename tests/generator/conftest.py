"""What all tests of the generator share: one thread, one random model folder and its workshop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_jobs import small_workshop

from generator.tiny import make_tiny_model
from generator.workshop import Workshop


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a busy machine: waiting for a second thread costs five times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete folder whose F1 transformer has other weights than the I2V one."""
    folder = tmp_path_factory.mktemp("tiny-model")
    other = tmp_path_factory.mktemp("other-model")
    make_tiny_model(folder)
    make_tiny_model(other, seed=1)
    shutil.copytree(other / "transformer", folder / "transformer_f1")
    return folder


@pytest.fixture(scope="module")
def workshop(tiny_model: Path) -> Workshop:
    """One for all jobs of a file."""
    return small_workshop(tiny_model)
