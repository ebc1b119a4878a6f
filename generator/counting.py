"""What a module needs to compute, counted without computing: peak bytes and operations.

Decides: nothing; the real classes run on fake tensors (shapes without data) and every storage that
is born or dies is added up. Attention counts as PyTorch's flash kernels do it, without keeping
scores. Blocks that repeat with the same shapes run once. Refuses to know: which model, what for.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import accelerate
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
MORE_THAN_ANY_LENGTH = 10**6


@dataclass(kw_only=True)
class Count:
    """What one call took. `peak_bytes` are beside parameters; `blocks` are those it was told of."""

    peak_bytes: int
    flops: int
    blocks: list[int]
    """FLOPs of each block, in the order in which they ran."""


class Fake:
    """Modules and tensors without data: build them inside `with Fake() as fake`."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode()

    def __enter__(self) -> Fake:
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
        self._no_grad.__exit__(*error)

    def module(self, build: Callable[[], Any], dtype: torch.dtype) -> Any:
        """The module that `build` makes, its parameters in `dtype`, without initialising them."""
        with _disable_current_modes(), accelerate.init_empty_weights(include_buffers=False):
            module = build()
        for owner in module.modules():
            for name, parameter in owner._parameters.items():
                if parameter is not None:
                    empty = torch.empty(parameter.shape, dtype=dtype)
                    owner._parameters[name] = nn.Parameter(empty, requires_grad=False)
            for name, buffer in owner._buffers.items():
                if buffer is not None:
                    owner._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        return module.eval()

    def count(
        self, module: nn.Module, call: Callable[[], Any], blocks: Iterable[nn.Module] = ()
    ) -> Count:
        """Run `call` and add up what it needs. Equal `blocks` run once for each shape of input."""
        meter = _Meter(module)
        with _repeats(list(blocks), meter), meter:
            call()
        return Count(peak_bytes=meter.peak, flops=meter.flops, blocks=meter.blocks)


class _Meter(TorchDispatchMode):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.flops = self.peak = self.now = 0
        self.blocks: list[int] = []
        # Views of parameters are born all the time; they take nothing.
        tensors = [*module.parameters(), *module.buffers()]
        self._alive = {tensor.untyped_storage()._cdata: 0 for tensor in tensors}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in (aten._local_scalar_dense.default, aten.item.default):
            # A number that depends on data: here always a length to cut at, and nothing is cut.
            return MORE_THAN_ANY_LENGTH
        output = function(*args, **(kwargs or {}))
        self.flops += _flops(function, args, kwargs or {}, output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._born(tensor.untyped_storage())
        return output

    def reserve(self, extra: int) -> None:
        """Something needed that much for a moment."""
        self.peak = max(self.peak, self.now + extra)

    def _born(self, storage: Any) -> None:
        if storage._cdata in self._alive:
            return
        self._alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, storage._cdata)

    def _died(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def _flops(function: Any, args: Any, kwargs: Any, output: Any) -> int:
    if function is aten._scaled_dot_product_flash_attention_for_cpu.default:
        (batch, heads, queries, width), keys = args[0].shape, args[1].shape[2]
        return int(4 * batch * heads * queries * keys * width)
    formula = flop_registry.get(getattr(function, "_overloadpacket", None))
    return int(formula(*args, **kwargs, out_val=output)) if formula else 0


@contextmanager
def _repeats(blocks: list[nn.Module], meter: _Meter) -> Iterator[None]:
    """While this lasts, a block whose like has run with the same shapes is not run again."""
    seen: dict[Any, tuple[int, int, bool, list[Any]]] = {}
    originals = [block.forward for block in blocks]

    def forward(block: nn.Module, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        numbers = sum(p.numel() for p in block.parameters())
        key = (type(block), numbers, _shapes(args), _shapes(kwargs))
        if key not in seen:
            flops, now, peak = meter.flops, meter.now, meter.peak
            meter.peak = now
            output = original(*args, **kwargs)
            shapes = [(tuple(t.shape), t.dtype) for t in tree_leaves(output)]
            single = isinstance(output, Tensor)
            seen[key] = (meter.flops - flops, meter.peak - now, single, shapes)
            meter.peak = max(peak, meter.peak)
            meter.blocks.append(meter.flops - flops)
            return output
        flops, extra, single, shapes = seen[key]
        meter.flops += flops
        meter.reserve(extra)
        meter.blocks.append(flops)
        made = [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
        return made[0] if single else tuple(made)

    for block, original in zip(blocks, originals, strict=True):
        block.forward = functools.partial(forward, block, original)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _shapes(values: Any) -> tuple[Any, ...]:
    return tuple(
        (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in tree_leaves(values)
    )
