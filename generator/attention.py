"""Which attention kernel the transformer uses, and that it is never the one that keeps the scores.

Decides: PyTorch's own flash kernel where the card has one, else xformers if it is installed; sage
and the flash-attn package only where the operator asks, so that what happens to be installed does
not change bytes; each is tried out before a job is taken. PyTorch's math fallback allocates 28 GiB
at 608×640, so where it would be all that is left, the job is refused with advice. Source:
diffusers' attention backends.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from generator.errors import ModelError
from generator.protocol import Attention

log = logging.getLogger(__name__)

_PACKAGES = {"flash": "flash_attn", "xformers": "xformers", "sage": "sageattention"}
_SMALL = (1, 1, 64, 128)
"""A small attention of the transformer's head size, (B, heads, tokens, channels)."""
NO_KERNEL = ("No available kernel", "No viable backend")
"""How PyTorch says that none of the allowed kernels can do it."""
_KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
]


def choose_attention(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """The diffusers backend to use. ModelError when the wanted one can not run here."""
    if wanted != Attention.AUTO:
        _refuse_absent(wanted)
        if wanted in _PACKAGES and (problem := _problem(wanted, device, dtype)) is not None:
            raise ModelError(
                f"attention is {wanted}, but {problem}. Install a build of it that fits, or set "
                "attention = auto."
            )
        return wanted
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return "native"
    major, _ = torch.cuda.get_device_capability(device)
    # Before Ampere PyTorch has no flash kernel; xformers' is leaner than its efficient one.
    if major >= 8 or not _is_installed("xformers"):
        return "native"
    if (problem := _problem("xformers", device, dtype)) is not None:
        log.warning("%s. PyTorch's own attention is used.", problem)
        return "native"
    return "xformers"


def refuse_math(device: torch.device, dtype: torch.dtype) -> None:
    """ModelError where PyTorch has no kernel for the native backend but the one that keeps scores.

    Asked with a small attention of the transformer's head size, before a job is taken.
    """
    if device.type != "cuda":
        return  # the CPU has a kernel of its own
    with refusing_math(device), torch.inference_mode():
        query = torch.zeros(_SMALL, device=device, dtype=dtype)
        torch.nn.functional.scaled_dot_product_attention(query, query, query)


@contextlib.contextmanager
def attention(transformer: Any, backend: str, device: torch.device) -> Iterator[None]:
    """Let the transformer use that backend, and never PyTorch's math kernel on a GPU."""
    if backend != "native":
        transformer.set_attention_backend(backend)
    if device.type != "cuda":
        yield
        return
    with refusing_math(device):
        yield


@contextlib.contextmanager
def refusing_math(device: torch.device) -> Iterator[None]:
    """While it lasts PyTorch's math kernel is not taken; ModelError where it is all there is."""
    try:
        with sdpa_kernel(_KERNELS):
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in NO_KERNEL):
            raise
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        raise ModelError(
            f"PyTorch has no memory-saving attention kernel for {name} in this dtype, and the one "
            "that is left needs about 28 GiB at 608×640. Use dtype float16 or bfloat16, or install "
            "xformers and set attention = xformers."
        ) from error


def _refuse_absent(wanted: str) -> None:
    if wanted not in [*Attention]:
        raise ModelError(f"attention is {wanted!r}; it must be one of {', '.join(Attention)}.")
    if wanted in _PACKAGES and not _is_installed(wanted):
        raise ModelError(
            f"attention is {wanted}, but {_PACKAGES[wanted]} is not installed; install it, or set "
            "attention = auto."
        )


def _is_installed(backend: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[backend]) is not None


def _problem(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why an installed package can not be used; None when it can. Else each job would find out."""
    package = _PACKAGES[backend]
    try:
        _try_out(backend, device, dtype)
    except Exception as error:  # what a package raises is up to it and its compilers
        reason = (str(error) or type(error).__name__).partition("\n")[0].rstrip(".")
    else:
        return None
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    kind = str(dtype).removeprefix("torch.")
    return f"{package} {version} can not be used for {kind} on {device}: {reason}"


def _try_out(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Compute a small attention as the transformer will; raises what stands in the way."""
    importlib.import_module(_PACKAGES[backend])  # diffusers would only say that it is not usable
    try:
        from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
    except ImportError:
        return  # a later diffusers may have it elsewhere; then the first job finds out
    # Entering it asks diffusers whether the package is new enough, which says what it needs.
    with attention_backend(backend), torch.inference_mode():
        query = torch.zeros(_SMALL, device=device, dtype=dtype).transpose(1, 2)
        dispatch_attention_fn(query, query, query).cpu()  # a kernel may fail when it is waited for
