"""Which steps run the transformer's blocks, and which reuse what an earlier step computed.

Decides: TeaCache (ours) and the settings of the library's MagCache and FirstBlockCache. All of them
are diffusers hooks, so their states are kept apart by `cache_context` (one per guidance pass) and
forgotten by `_reset_stateful_cache`. `step_cache` leaves the transformer as it found it, however
it is left. Source: TeaCache, arXiv:2411.19108, with the coefficients of FramePack's reference code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, MagCacheConfig, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor, nn

from generator.errors import ModelError
from generator.protocol import JobRequest, StepCacheKind, Variant

TEACACHE_COEFFICIENTS = (733.226126, -401.131952, 67.5869174, -3.1498780, 0.0961237896)
HOOK = "framepack_teacache"

# Published for the real weights at 640, 25 steps (figures from FramePack-Studio, Apache-2.0).
MAG_RATIOS = {
    Variant.I2V: (
        *(1, 1.30469, 1.22656, 1.05469, 1.02344, 1.03906, 1.02344, 1.03906, 1.05469, 1.02344),
        *(1.03906, 0.99609, 1.02344, 1.03125, 1.01562, 1.02344, 1.00781, 1.03906, 0.98828, 1),
        *(1, 0.98828, 0.94531, 0.93359, 0.78516),
    ),
    Variant.F1: (
        *(1, 1.27344, 1.07031, 1.03906, 1.00781, 1.00781, 1.00781, 1.03125, 1.04688, 1.00781),
        *(1.03125, 0.99219, 1.01562, 1.01562, 1.01562, 1.00781, 0.98438, 1.05469, 0.98438, 0.96875),
        *(1.03125, 0.97266, 0.92578, 0.95703, 0.77734),
    ),
}


@dataclass(frozen=True, kw_only=True)
class CacheState:
    """What a cache remembers between two steps, small enough to be saved.

    TeaCache's residual is as large as the activations; instead of it the inputs are kept from which
    one run of the blocks makes it again: `x_computed_PASS`, and `x_previous` for the distance.
    """

    tensors: dict[str, Tensor]
    notes: dict[str, Any]


class StepCache:
    """The cache of one job: start each section with `new_section`, wrap each pass in `step`."""

    def __init__(self, transformer: Any, steps: int):
        self._transformer, self._steps = transformer, steps
        self._teacache: _TeaCacheHook | None = None
        self._is_opaque = False  # a library's cache, whose state is its own business
        self.new_section()

    def new_section(self) -> None:
        """Forget what other sections computed."""
        self._transformer._reset_stateful_cache()
        self.computed_steps: list[int] = []
        """The steps of the current section whose blocks ran for the positive pass."""
        self._x: Tensor | None = None
        self._state: CacheState | None = None
        self._computed: dict[str, tuple[int, Tensor]] = {}

    def step(self, name: str, index: int, x: Tensor) -> AbstractContextManager[None]:
        """The context of one pass (`cond` or `uncond`) of one step, counted from 0, on input x."""
        self._name, self._index, self._x = name, index, x
        context: AbstractContextManager[None] = self._transformer.cache_context(
            name, step_index=index, num_inference_steps=self._steps
        )
        return context

    def state(self) -> CacheState | None:
        """What must be kept to go on after the last whole step; None: only a new section can."""
        return self._state

    def step_done(self) -> None:
        """All passes of a step were made: this is where a saved job can go on."""
        if self._is_opaque:
            return
        self._state = self._present_state()

    def _present_state(self) -> CacheState:
        assert self._x is not None
        notes: dict[str, Any] = {"computed_steps": list(self.computed_steps)}
        if self._teacache is None:
            return CacheState(tensors={}, notes=notes)
        tensors = {f"x_computed_{name}": x for name, (_, x) in self._computed.items()}
        notes["index"] = self._index
        notes["computed"] = {name: index for name, (index, _) in self._computed.items()}
        notes["distance"] = {n: self._teacache.distance_of(n) for n in self._computed}
        return CacheState(tensors={"x_previous": self._x, **tensors}, notes=notes)

    def restore(self, state: CacheState, run: Callable[[str, int, Tensor], object]) -> None:
        """Bring a new section to a saved state; `run` makes one pass of a step on an input."""
        if self._teacache is not None:
            for name, index in state.notes["computed"].items():
                run(name, index, state.tensors[f"x_computed_{name}"])
                if state.notes["index"] != index:
                    with self._teacache.skipping():
                        run(name, state.notes["index"], state.tensors["x_previous"])
                self._teacache.set_distance_of(name, state.notes["distance"][name])
        self.computed_steps = list(state.notes["computed_steps"])
        self._state = state

    def _noting(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self._x is not None
        self._computed[self._name] = self._index, self._x
        if self._name == "cond":
            self.computed_steps.append(self._index)
        return forward(*args, **kwargs)


@contextmanager
def step_cache(
    transformer: Any, request: JobRequest, mag_ratios: Any | None = None
) -> Iterator[StepCache]:
    """Put the cache that `request` names on the transformer, and take it off again at the end.

    `mag_ratios` (variant → one ratio a step) are the model's own measured ones, if it has any.
    ModelError when they are something else.
    """
    cache = StepCache(transformer, request.steps)
    kind, threshold = request.step_cache, request.step_cache_threshold
    ratios = _mag_ratios(mag_ratios, request.variant) if kind is StepCacheKind.MAGCACHE else []
    last = [*transformer.transformer_blocks, *transformer.single_transformer_blocks][-1]
    # The innermost call: a cache that skips the block never gets there, so this counts what ran.
    own_forward = last.__dict__.get("forward")
    last.forward = functools.partial(cache._noting, last.forward)
    try:
        if kind is StepCacheKind.TEACACHE:
            cache._teacache = _install_teacache(transformer, threshold)
        elif kind is StepCacheKind.FIRST_BLOCK:
            transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        elif kind is StepCacheKind.MAGCACHE:
            transformer.enable_cache(
                MagCacheConfig(
                    threshold=threshold, num_inference_steps=request.steps, mag_ratios=ratios
                )
            )
        cache._is_opaque = kind in (StepCacheKind.FIRST_BLOCK, StepCacheKind.MAGCACHE)
        yield cache
    finally:
        transformer._reset_stateful_cache()
        if transformer.is_cache_enabled:
            transformer.disable_cache()
        HookRegistry.check_if_exists_or_initialize(transformer).remove_hook(HOOK)
        _forget_registries(transformer)
        last.__dict__.pop("forward", None)
        if own_forward is not None:
            last.forward = own_forward


def _mag_ratios(own: Any | None, variant: Variant) -> list[float]:
    """The model's own measured ratios of this variant, else the published ones."""
    ratios = own.get(variant) if isinstance(own, dict) else own
    if ratios is None:
        return list(MAG_RATIOS[variant])
    if not isinstance(ratios, list) or not ratios or not all(map(_is_number, ratios)):
        raise ModelError(
            f"mag_ratios.json of the model folder must hold a list of numbers under {variant}, one "
            "for each step that it was measured with; remove the file to use the published ones."
        )
    return ratios


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


class _TeaCacheState(BaseState):  # type: ignore[misc]
    """What one pass remembers from step to step of a section."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.previous: Tensor | None = None  # block 0's modulated input, one step ago
        self.distance = 0.0  # accumulated since blocks last ran
        self.entry: Tensor | None = None  # hidden states before the blocks, while they run
        self.residual: Tensor | None = None  # hidden states after all blocks − before
        self.computing = True


class _TeaCacheHook(ModelHook):  # type: ignore[misc]
    """On every block: the first one decides, the last one keeps the residual."""

    _is_stateful = True

    def __init__(self, states: StateManager, threshold: float, *, first: bool, last: bool):
        super().__init__()
        self.states, self.threshold, self.first, self.last = states, threshold, first, last

    def new_forward(
        self, module: Any, hidden: Tensor, encoder_hidden: Tensor, temb: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        state = self.states.get_state()
        if self.first:
            state.computing = self._must_compute(state, module.norm1(hidden, emb=temb)[0])
            state.entry = hidden
        if state.computing:
            output = self.fn_ref.original_forward(hidden, encoder_hidden, temb, *rest)
            if self.last:
                state.residual, state.entry = output[0] - state.entry, None
            return output
        return (hidden + state.residual if self.last else hidden), encoder_hidden

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.states.reset()
        return module

    def distance_of(self, name: str) -> float:
        """What a pass has accumulated since its blocks last ran."""
        return float(self.states._state_cache[name].distance)

    def set_distance_of(self, name: str, distance: float) -> None:
        self.states._state_cache[name].distance = distance

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """While it lasts no step between the first and the last runs the blocks."""
        threshold, self.threshold = self.threshold, math.inf
        try:
            yield
        finally:
            self.threshold = threshold

    def _must_compute(self, state: _TeaCacheState, modulated: Tensor) -> bool:
        previous, state.previous = state.previous, modulated
        context = self.states.context
        assert context.step_index is not None and context.num_inference_steps is not None
        if previous is None or context.step_index in (0, context.num_inference_steps - 1):
            state.distance = 0.0
            return True
        # The one place in a step where the host waits for the GPU.
        distance = ((modulated - previous).abs().mean() / previous.abs().mean()).item()
        state.distance += _polynomial(distance)
        if state.distance >= self.threshold:
            state.distance = 0.0
            return True
        return False


def _install_teacache(transformer: Any, threshold: float) -> _TeaCacheHook:
    """Put TeaCache on all blocks; returns the hook that decides."""
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    states = StateManager(_TeaCacheState)
    last = len(blocks) - 1
    hooks = [
        _TeaCacheHook(states, threshold, first=i == 0, last=i == last) for i in range(last + 1)
    ]
    for hook, block in zip(hooks, blocks, strict=True):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, HOOK)
    _forget_registries(transformer)
    return hooks[0]


def _forget_registries(transformer: Any) -> None:
    """The library remembers which children have hooks; ours came or went without its knowing."""
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()


def _polynomial(x: float) -> float:
    value = 0.0
    for coefficient in TEACACHE_COEFFICIENTS:
        value = value * x + coefficient
    return value
