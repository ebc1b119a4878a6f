"""Inside the step loop the host never waits for the GPU, but where TeaCache must decide."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu import GPU, OnGpu, PretendGpu
from small_jobs import small_request

from generator.conditions import Conditions, TextEmbeds
from generator.denoiser import Denoiser
from generator.models import ModelFolder
from generator.protocol import JobRequest, StepCacheKind, Variant
from generator.sampler import UniPC, make_sigmas
from generator.sections import History
from generator.step_cache import step_cache

STEPS = 6


@torch.no_grad()
def waits_by_step(model: Path, request: JobRequest) -> tuple[list[list[str]], torch.Tensor]:
    """What the host waited for in each step of a section, and the section's latents."""
    draw = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    texts = [
        TextEmbeds(prompt_embeds=random(1, length, 32), pooled_projections=random(1, 24))
        for length in (7, 4)
    ]
    conditions = Conditions(
        positive=texts[0],
        negative=texts[1] if request.true_cfg_scale != 1 else None,
        image_embeds=random(1, 16, 40),
        end_image_embeds=None,
        start=random(1, 16, 1, 8, 8),
        references=(),
        end=None,
        end_strength=1.0,
    )
    transformer = ModelFolder(model).load("transformer", torch.float32)
    context = History(Variant.I2V, 1, conditions.start).context(0)
    noise = random(1, 16, 1, 8, 8)
    found = []
    with PretendGpu() as gpu, step_cache(gpu.take(transformer), request) as cache:
        cache.new_section()
        features = conditions.image_embeds_of(0, 1)
        denoise = Denoiser(transformer, request, conditions, features, context, cache)
        # Tensors of this kind can not live in inference mode; what is waited for is the same.
        call = functools.partial(Denoiser.__call__.__wrapped__, denoise)  # type: ignore[attr-defined]
        solver = UniPC(make_sigmas(request.steps, 3.0), noise.to(GPU))
        while solver.step < solver.steps:
            gpu.waits.clear()
            x0 = solver.advance(call)
            x0.isfinite().all()
            found.append(list(gpu.waits))
    assert isinstance(x0, OnGpu)
    return found, x0.inner


@pytest.mark.parametrize("true_cfg_scale", [1.0, 2.0])
@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        (StepCacheKind.NONE, [0] * STEPS),
        # The first and the last step are computed without asking.
        (StepCacheKind.TEACACHE, [0, 1, 1, 1, 1, 0]),
    ],
)
def test_the_host_waits_for_nothing_but_teacaches_distance(
    tiny_model: Path, kind: StepCacheKind, waits: list[int], true_cfg_scale: float
) -> None:
    changes: dict[str, Any] = {"step_cache": kind, "step_cache_threshold": 0.3}
    request = small_request(steps=STEPS, true_cfg_scale=true_cfg_scale, **changes)
    found, _ = waits_by_step(tiny_model, request)
    passes = 1 if true_cfg_scale == 1 else 2
    assert [len(step) for step in found] == [passes * count for count in waits], found


def test_the_pretended_gpu_counts_what_a_real_one_waits_for() -> None:
    with PretendGpu() as gpu:
        x = torch.arange(4.0).to(GPU)
        assert len(gpu.waits) == 1
        y = torch.full((4,), 2.0, device=GPU) * x + 1
        y += x
        assert len(gpu.waits) == 1
        assert y.device == GPU and y.sum().item() == 22
        assert len(gpu.waits) == 2
        y[y > 3]
        assert len(gpu.waits) == 3
        assert y.cpu().tolist() == [1, 4, 7, 10]
        assert len(gpu.waits) == 4
        y[: torch.tensor(2)]  # a number of the host's
        assert len(gpu.waits) == 4
        y[: torch.ones(2, device=GPU, dtype=torch.int64).sum()]
        assert len(gpu.waits) == 5
        with pytest.raises(AssertionError, match="mixes devices"):
            y + torch.ones(4)
