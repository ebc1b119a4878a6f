"""Which device and dtype are meant, and what a block stream needs of a device.

Decides: how memory, copies, and marks that order them are had on CUDA, and on a CPU where
everything is done when it returns. Refuses to know: what is copied. Tests put a recording device
here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from generator.errors import GeneratorError, InputError
from generator.machine import driver_problem

log = logging.getLogger(__name__)


class Device(Protocol):
    """What a stream needs of the place where blocks compute. A mark orders copies and computing."""

    staged: bool
    """Whether host bytes need a pinned buffer on their way; else they are read into the slot."""

    def allocate(self, nbytes: int) -> Tensor: ...
    def pin(self, buffer: Tensor) -> Callable[[], None]:
        """Make the host buffer quick to copy from; returns what undoes it."""
        ...

    def start_copy(self, slot: Tensor, host: Tensor, after: Any) -> Any:
        """Begin to fill the slot once `after` (a mark of `computed`) is reached; returns a mark."""
        ...

    def await_copy(self, copy: Any) -> None:
        """Let what is computed from now on see that copy."""
        ...

    def computed(self) -> Any:
        """A mark behind everything that was computed so far."""
        ...

    def settle(self, copy: Any) -> None:
        """Hold the calling thread until the copy is done."""
        ...


class HostDevice:
    """Blocks compute on the CPU: copies are done when they return."""

    staged = False

    def allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def pin(self, buffer: Tensor) -> Callable[[], None]:
        return lambda: None

    def start_copy(self, slot: Tensor, host: Tensor, after: Any) -> Any:
        if slot.data_ptr() != host.data_ptr():  # what was read into the slot is there already
            slot[: len(host)].copy_(host)

    def await_copy(self, copy: Any) -> None:
        pass

    def computed(self) -> Any:
        return None

    def settle(self, copy: Any) -> None:
        pass


class CudaDevice:
    """Copies run on a stream of their own, so that they overlap with computing."""

    staged = True

    def __init__(self, device: torch.device):
        self._device = device
        self._copies = torch.cuda.Stream(device)
        self._pinned_bytes, self._is_out_of_pins = 0, False

    def allocate(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def pin(self, buffer: Tensor) -> Callable[[], None]:
        if self._is_out_of_pins:
            return lambda: None
        # Not pin_memory(): its allocator rounds up to a power of two, 648 MiB to 1 GiB.
        runtime, address = torch.cuda.cudart(), buffer.data_ptr()
        status = int(runtime.cudaHostRegister(address, buffer.nbytes, 0))
        if status != 0:
            self._out_of_pins(buffer.nbytes, status)
            return lambda: None
        self._pinned_bytes += buffer.nbytes
        return lambda: runtime.cudaHostUnregister(address) and None

    def _out_of_pins(self, nbytes: int, status: int) -> None:
        """Go on without, and say so once: what the system can not pin now it can not the next time.

        CUDA also keeps the error for whoever asks next, and a kernel's launch does: the first one
        of the job would raise what was only a warning here.
        """
        self._is_out_of_pins = True
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device=self._device)
        log.warning(
            "%d MiB are pinned, and %d MiB more could not be (CUDA %d); blocks that wait in other "
            "memory take longer to copy, and nothing computes meanwhile",
            *(self._pinned_bytes >> 20, nbytes >> 20, status),
        )

    def start_copy(self, slot: Tensor, host: Tensor, after: Any) -> Any:
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(after)
            slot[: len(host)].copy_(host, non_blocking=True)
            return self._copies.record_event()

    def await_copy(self, copy: Any) -> None:
        torch.cuda.current_stream(self._device).wait_event(copy)

    def computed(self) -> Any:
        return torch.cuda.current_stream(self._device).record_event()

    def settle(self, copy: Any) -> None:
        copy.synchronize()


def choose_device(wanted: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:N`.

    InputError when it is not there, or when this build of torch can not compute on it;
    GeneratorError when it does not compute now, which may pass.
    """
    if wanted != "cpu" and (problem := driver_problem()) is not None:
        raise InputError(f"device is {wanted!r}, but {problem}, or set device = cpu.")
    if wanted == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda:0" if wanted in ("auto", "cuda") else wanted)
    except RuntimeError:
        raise InputError(f"device is {wanted!r}; it must be auto, cpu, cuda or cuda:N.") from None
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"device is {wanted!r}; it must be auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device is {wanted!r}, but this torch ({torch.__version__}) sees no NVIDIA GPU; "
            "install a CUDA build of torch, or choose device = cpu."
        )
    if device.type == "cuda":
        _try_out(device)
    return device


def _try_out(device: torch.device) -> None:
    """Compute something on this GPU; the errors are those of `choose_device`."""
    try:
        torch.ones(1, device=device)  # zeros may be no kernel but a memset
    except torch.OutOfMemoryError:
        return  # a full one is refused with numbers when it is measured
    except RuntimeError as error:
        if device.index >= (count := torch.cuda.device_count()):
            raise InputError(
                f"device is '{device}', but torch sees {count} NVIDIA GPUs, numbered from 0."
            ) from error
        if "no kernel image" in str(error):
            raise InputError(_missing_kernels(device)) from error
        reason = str(error).partition("\n")[0]
        raise GeneratorError(f"{device} does not compute: {reason}.") from error


def _missing_kernels(device: torch.device) -> str:
    """Which cards this torch is built for, and which build is for this one.

    Source: PyTorch's support matrix. Its builds for CUDA 12.6 have capabilities 5.0 to 9.0, those
    for CUDA 13 have 7.5 and newer.
    """
    capability = torch.cuda.get_device_capability(device)
    remedy = "No build has any for so old a card; set device = cpu"
    if capability >= (5, 0):
        build = "cu126" if capability < (7, 5) else "cu130"
        version = torch.__version__.partition("+")[0]
        remedy = (
            f"Install one that is built for it (pip install torch=={version}+{build} --index-url "
            f"https://download.pytorch.org/whl/{build}), or set device = cpu"
        )
    return (
        f"This torch ({torch.__version__}) has no kernels for {torch.cuda.get_device_name(device)} "
        f"(compute capability {capability[0]}.{capability[1]}); it has them for "
        f"{' '.join(torch.cuda.get_arch_list())}. {remedy}."
    )


def still_answers(device: torch.device) -> bool:
    """Whether the device computes yet, which is asked after an error that nobody expected.

    After some errors, such as an illegal memory access, CUDA answers nothing else in this process
    any more: every later call raises the same. Only a new process has a new context.
    """
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        log.error("%s does not answer any more: %s", device, str(error).partition("\n")[0])
        return False
    return True


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(wanted: str, device: torch.device, on_gpu: torch.dtype) -> torch.dtype:
    """The torch dtype for `auto` or a name: float32 on a CPU, `on_gpu` elsewhere. InputError."""
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else on_gpu
    if wanted not in DTYPES:
        raise InputError(f"dtype is {wanted!r}; it must be auto or one of {', '.join(DTYPES)}.")
    return DTYPES[wanted]
