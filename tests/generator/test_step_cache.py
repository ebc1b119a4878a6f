"""What may skip the transformer's blocks: when it does, and that nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import computed_steps, draw_picture, sampled, small_request

from generator.pipeline import generate
from generator.protocol import Progress, StepCacheKind, Variant
from generator.step_cache import StepCache
from generator.workshop import Workshop

CACHES = [StepCacheKind.TEACACHE, StepCacheKind.MAGCACHE, StepCacheKind.FIRST_BLOCK]
STEPS = 8
# At these the small random model skips some steps and computes others.
THRESHOLDS = {
    StepCacheKind.TEACACHE: 0.15,
    StepCacheKind.MAGCACHE: 0.3,
    StepCacheKind.FIRST_BLOCK: 0.4,
}


@pytest.fixture(scope="module")
def uncached(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The latents that every job without a cache must give, from a process that had none before."""
    return sampled(workshop, tmp_path_factory.mktemp("uncached"), small_request())["latents"]


def cached(kind: StepCacheKind, threshold: float | None = None, **changes: Any) -> dict[str, Any]:
    threshold = THRESHOLDS[kind] if threshold is None else threshold
    return {"step_cache": kind, "step_cache_threshold": threshold, "steps": STEPS, **changes}


# ---- when blocks run


def test_without_a_cache_every_step_computes(workshop: Workshop, tmp_path: Path) -> None:
    tensors = sampled(workshop, tmp_path, small_request(steps=3))
    assert computed_steps(tensors) == [[0, 1, 2]] * 2


def test_teacache_at_zero_changes_no_bit(workshop: Workshop, tmp_path: Path) -> None:
    plain = sampled(workshop, tmp_path, small_request(steps=STEPS))
    zero = sampled(workshop, tmp_path, small_request(**cached(StepCacheKind.TEACACHE, 0.0)))
    assert computed_steps(zero) == [list(range(STEPS))] * 2
    assert torch.equal(zero["latents"], plain["latents"])


def test_teacache_at_one_computes_the_first_and_the_last(
    workshop: Workshop, tmp_path: Path
) -> None:
    # The polynomial is 0.06 at least and near 0.1 for small changes: six steps stay below 1.
    tensors = sampled(workshop, tmp_path, small_request(**cached(StepCacheKind.TEACACHE, 1.0)))
    assert computed_steps(tensors) == [[0, STEPS - 1]] * 2


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("variant", list(Variant))
def test_each_cache_skips_in_each_variant(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, variant: Variant
) -> None:
    tensors = sampled(workshop, tmp_path, small_request(**cached(kind, variant=variant)))
    sections = computed_steps(tensors)
    assert len(sections) == 2
    for steps in sections:  # each section begins anew, whatever the one before it left
        assert steps[0] == 0
        assert len(steps) < STEPS
    assert tensors["latents"].isfinite().all()


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_work(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, steps: int
) -> None:
    request = small_request(**cached(kind, steps=steps))
    for computed in computed_steps(sampled(workshop, tmp_path, request)):
        assert computed[0] == 0


def test_teacache_computes_the_last_step(workshop: Workshop, tmp_path: Path) -> None:
    for steps in (2, 3, 6, 7):
        request = small_request(**cached(StepCacheKind.TEACACHE, steps=steps))
        for computed in computed_steps(sampled(workshop, tmp_path, request)):
            assert computed[-1] == steps - 1


@pytest.mark.parametrize("kind", CACHES)
def test_a_section_does_not_depend_on_the_one_before(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same job, but each section begins on a transformer that just computed something else."""
    request = small_request(**cached(kind))
    expected = sampled(workshop, tmp_path, request)["latents"]
    new_section = StepCache.new_section

    def after_something_else(self: StepCache) -> None:
        with workshop.placement.on_gpu("transformer") as transformer:
            for block in transformer.transformer_blocks:
                _spoil(block)
        new_section(self)

    monkeypatch.setattr(StepCache, "new_section", after_something_else)
    assert torch.equal(sampled(workshop, tmp_path, request)["latents"], expected)


def _spoil(block: Any) -> None:
    """Leave marks in every state that a hook of this block keeps."""
    registry = getattr(block, "_diffusers_hook", None)
    for hook in registry.hooks.values() if registry else ():
        manager = getattr(hook, "states", None) or getattr(hook, "state_manager", None)
        if manager is None:
            continue
        for state in manager._state_cache.values():
            for name in ("residual", "previous", "head_block_residual", "previous_residual"):
                if isinstance(getattr(state, name, None), torch.Tensor):
                    setattr(state, name, torch.full_like(getattr(state, name), 1e6))


# ---- two passes under true CFG


@pytest.mark.parametrize("kind", [StepCacheKind.NONE, *CACHES])
def test_true_cfg_keeps_the_passes_apart(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind
) -> None:
    """Guided away from itself, a prompt stays where it is: v + s·(v − v) = v."""
    settings = cached(kind) if kind in THRESHOLDS else {"steps": STEPS}
    alone = sampled(workshop, tmp_path, small_request(**settings))
    same = {"true_cfg_scale": 3.0, "negative_prompt": "a cat walks"}
    guided = sampled(workshop, tmp_path, small_request(**settings, **same))
    assert computed_steps(guided) == computed_steps(alone)
    assert torch.equal(guided["latents"], alone["latents"])


@pytest.mark.parametrize("kind", CACHES)
def test_and_that_would_fail_if_they_shared_a_state(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = sampled(workshop, tmp_path, small_request(**cached(kind)))
    step = StepCache.step
    monkeypatch.setattr(
        StepCache, "step", lambda self, name, *rest: step(self, "cond", *rest), raising=True
    )
    same = {"true_cfg_scale": 3.0, "negative_prompt": "a cat walks"}
    guided = sampled(workshop, tmp_path, small_request(**cached(kind), **same))
    assert not torch.equal(guided["latents"], alone["latents"])


# ---- what comes after


def marks(transformer: Any) -> list[tuple[str, int, int, bool, list[str]]]:
    """Everything that somebody may have hung on a module."""
    found = []
    for name, module in transformer.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        hooks = sorted(registry.hooks) if registry else []
        before, after = len(module._forward_pre_hooks), len(module._forward_hooks)
        found.append((name, before, after, module.training, hooks))
    return found


@pytest.fixture
def unmarked(workshop: Workshop) -> Iterator[None]:
    """The transformer has the same hooks at the end of the test as at its beginning."""
    with workshop.placement.on_gpu("transformer") as transformer:
        before = marks(transformer)
        yield
        assert marks(transformer) == before
        assert not transformer.is_cache_enabled


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.usefixtures("unmarked")
def test_after_a_cancelled_job_the_next_is_as_in_a_fresh_process(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, uncached: torch.Tensor
) -> None:
    draw_picture(tmp_path / "input.png")
    request = small_request(**cached(kind))
    with closing(generate("job", request, tmp_path, workshop)) as events:
        next(event for event in events if isinstance(event, Progress) and event.step == 3)
    assert torch.equal(sampled(workshop, tmp_path, small_request())["latents"], uncached)


@pytest.mark.parametrize("kind", [StepCacheKind.NONE, *CACHES])
@pytest.mark.usefixtures("unmarked")
def test_after_an_error_in_the_transformer_the_next_is_as_in_a_fresh_process(
    workshop: Workshop, tmp_path: Path, kind: StepCacheKind, uncached: torch.Tensor
) -> None:
    settings = cached(kind) if kind in THRESHOLDS else {"steps": STEPS}
    settings["step_cache_threshold"] = 0.0  # so that each step reaches the fault
    with workshop.placement.on_gpu("transformer") as transformer:
        calls = iter([None, None, "now"])

        def fail(*_: Any) -> None:
            if next(calls) == "now":
                raise RuntimeError("a fault in the middle of the blocks")

        fault = transformer.single_transformer_blocks[0].attn.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="middle of the blocks"):
            sampled(workshop, tmp_path, small_request(**settings))
        fault.remove()
    assert torch.equal(sampled(workshop, tmp_path, small_request())["latents"], uncached)


@pytest.mark.usefixtures("unmarked")
def test_ratios_that_do_not_fit_leave_nothing_behind(
    tiny_model: Path, workshop: Workshop, tmp_path: Path, uncached: torch.Tensor
) -> None:
    from generator.errors import ModelError

    ratios = tiny_model / "mag_ratios.json"
    ratios.write_text('{"i2v": ["one", null]}', "utf-8")
    try:
        with pytest.raises(ModelError, match=r"mag_ratios\.json"):
            sampled(workshop, tmp_path, small_request(**cached(StepCacheKind.MAGCACHE)))
    finally:
        ratios.unlink()
    assert torch.equal(sampled(workshop, tmp_path, small_request())["latents"], uncached)


def test_a_models_own_ratios_are_used(tiny_model: Path, workshop: Workshop, tmp_path: Path) -> None:
    request = small_request(**cached(StepCacheKind.MAGCACHE))
    ratios = tiny_model / "mag_ratios.json"
    ratios.write_text('{"i2v": [1, 3, 3, 3, 3, 3, 3, 3]}', "utf-8")
    try:  # each skip would be an error of 200 %
        assert computed_steps(sampled(workshop, tmp_path, request)) == [list(range(STEPS))] * 2
    finally:
        ratios.unlink()
