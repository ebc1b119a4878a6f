"""Running out of memory is known by whatever a library says of it, and by nothing else."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch import nn

from generator.errors import (
    InputError,
    OutOfMemoryError,
    is_out_of_memory,
)
from generator.models import ModelFolder
from generator.placement import Placement

SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(22, "The paging file is too small for this operation to complete"),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("out of memory"),
    InputError("a prompt about being out of memory"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_every_library_has_words_of_its_own(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_what_is_something_else_is_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_torchs_own_words_on_this_machine() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", SHORT, ids=repr)
def test_a_part_that_runs_out_of_memory_is_given_back_and_told(
    error: Exception, tiny_model: Path
) -> None:
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    with pytest.raises(OutOfMemoryError, match="at vae"), placement.on_gpu("vae"):
        raise error
    assert placement.short_of == "vae"
    assert not placement.is_loaded("vae")


@pytest.mark.parametrize("error", OTHER[:4], ids=repr)
def test_any_other_error_of_a_part_stays_what_it_is(error: Exception, tiny_model: Path) -> None:
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    with pytest.raises(type(error)) as caught, placement.on_gpu("vae"):
        raise error
    assert caught.value is error
    assert placement.is_loaded("vae")


def test_weights_that_find_no_memory_are_not_called_damaged(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> tuple[nn.Module, dict[str, object]]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("generator.models._LOADERS", {"vae": load})
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    with pytest.raises(OutOfMemoryError, match="at vae"), placement.on_gpu("vae"):
        pass
