"""A GPU that is not there: tensors that say they are elsewhere, compute on the CPU, and count.

`PretendGpu` counts every moment at which the host would wait for a real one: a number or a shape
read from its memory, a copy between it and the host. Its tensors bear the device `meta`, the one
name besides `cpu` that every build of torch accepts; what mixes devices fails as it would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
GPU = torch.device("meta")
NUMBERS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)
SHAPES = ("nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim")


class OnGpu(Tensor):
    """A tensor in the pretended memory; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        found = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=GPU,
        )
        found.inner = inner
        return found

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{function} outside of PretendGpu")


class PretendGpu(TorchDispatchMode):
    """While it lasts there is such a GPU; `waits` names each operation that the host waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def take(self, module: nn.Module) -> nn.Module:
        """Move a module's parameters and buffers there, which is not counted."""
        for owner in module.modules():
            for name, one in owner._parameters.items():
                if one is not None:
                    owner._parameters[name] = OnGpu(one.data)  # type: ignore[assignment]
            for name, buffer in owner._buffers.items():
                if buffer is not None:
                    owner._buffers[name] = OnGpu(buffer)
        return module

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        with self:  # in inference mode operations arrive here before they are taken apart
            output = function.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = [each for each in tensors if isinstance(each, OnGpu)]
        here = [each for each in tensors if not isinstance(each, OnGpu)]
        to = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if to == GPU:
            kwargs["device"] = torch.device("cpu")
        if function is aten._to_copy.default:
            ends_there = bool(there) if to is None else to == GPU
            crosses = bool(there) != ends_there
        elif function is aten.copy_.default:
            ends_there, crosses = isinstance(args[0], OnGpu), bool(there and here)
        else:
            ends_there, crosses = bool(there) or to == GPU, False
            mixed = there and any(each.ndim for each in here)
            assert not mixed, f"{function} mixes devices"
        if crosses or (there and _reads_numbers(function, args)):
            self.waits.append(str(function))
        known = {id(each.inner): each for each in there}
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        output = function(*inner_args, **inner_kwargs)
        if not ends_there:
            return output
        return tree_map(lambda each: _there(each, known), output)


def _reads_numbers(function: Any, args: Any) -> bool:
    """Whether the host must know numbers of the GPU's memory to go on."""
    if function in NUMBERS or function.name().split("::")[-1].split(".")[0] in SHAPES:
        return True
    indices = args[1] if function is aten.index.Tensor else ()
    return any(each is not None and each.dtype == torch.bool for each in indices)


def _inner(each: Any) -> Any:
    return each.inner if isinstance(each, OnGpu) else each


def _there(each: Any, known: dict[int, OnGpu]) -> Any:
    if not isinstance(each, Tensor):
        return each
    return known[id(each)] if id(each) in known else OnGpu(each)
