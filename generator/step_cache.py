"""Which steps run the transformer's blocks, and which reuse what an earlier step computed.

Decides: TeaCache (ours) and the settings of the library's MagCache and FirstBlockCache. All of them
are diffusers hooks, so their states are kept apart by `cache_context` (one per guidance pass) and
forgotten by `_reset_stateful_cache`. `step_cache` leaves the transformer as it found it, however
it is left. Source: TeaCache, arXiv:2411.19108, with the coefficients of FramePack's reference code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, MagCacheConfig, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from torch import Tensor, nn

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


class StepCache:
    """The cache of one job: start each section with `new_section`, wrap each pass in `step`."""

    def __init__(self, transformer: Any, steps: int):
        self._transformer, self._steps = transformer, steps
        self.computed_steps: list[int] = []
        """The steps of the current section whose blocks ran for the positive pass."""

    def new_section(self) -> None:
        """Forget what other sections computed."""
        self._transformer._reset_stateful_cache()
        self.computed_steps = []

    def step(self, name: str, index: int) -> AbstractContextManager[None]:
        """The context of one pass (`cond` or `uncond`) of one step, counted from 0."""
        self._name, self._index = name, index
        context: AbstractContextManager[None] = self._transformer.cache_context(
            name, step_index=index, num_inference_steps=self._steps
        )
        return context

    def _note_computed(self, *_: Any) -> None:
        if self._name == "cond":
            self.computed_steps.append(self._index)


@contextmanager
def step_cache(
    transformer: Any, request: JobRequest, mag_ratios: dict[str, list[float]] | None = None
) -> Iterator[StepCache]:
    """Put the cache that `request` names on the transformer, and take it off again at the end.

    `mag_ratios` (variant → one ratio a step) are the model's own measured ones, if it has any.
    """
    cache = StepCache(transformer, request.steps)
    last = [*transformer.transformer_blocks, *transformer.single_transformer_blocks][-1]
    # A skipped block never reaches its attention, so this counts what really ran.
    counter = last.attn.register_forward_pre_hook(cache._note_computed)
    kind, threshold = request.step_cache, request.step_cache_threshold
    if kind is StepCacheKind.TEACACHE:
        _install_teacache(transformer, threshold)
    elif kind is StepCacheKind.FIRST_BLOCK:
        transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    elif kind is StepCacheKind.MAGCACHE:
        ratios = (mag_ratios or {}).get(request.variant, MAG_RATIOS[request.variant])
        transformer.enable_cache(
            MagCacheConfig(
                threshold=threshold, num_inference_steps=request.steps, mag_ratios=list(ratios)
            )
        )
    try:
        yield cache
    finally:
        transformer._reset_stateful_cache()
        counter.remove()
        if transformer.is_cache_enabled:
            transformer.disable_cache()
        HookRegistry.check_if_exists_or_initialize(transformer).remove_hook(HOOK)
        _forget_registries(transformer)


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


def _install_teacache(transformer: Any, threshold: float) -> None:
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    states = StateManager(_TeaCacheState)
    for i, block in enumerate(blocks):
        hook = _TeaCacheHook(states, threshold, first=i == 0, last=i == len(blocks) - 1)
        HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, HOOK)
    _forget_registries(transformer)


def _forget_registries(transformer: Any) -> None:
    """The library remembers which children have hooks; ours came or went without its knowing."""
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()


def _polynomial(x: float) -> float:
    value = 0.0
    for coefficient in TEACACHE_COEFFICIENTS:
        value = value * x + coefficient
    return value
