"""One section's model calls: x at a sigma in, the x0 that the transformer believes in out.

Decides: the arguments of the transformer, its dtypes, the second pass of true CFG. Refuses to know:
the solver, the order of sections. Source: FramePack's reference code (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from generator.conditions import Conditions, TextEmbeds
from generator.protocol import JobRequest
from generator.sampler import guided
from generator.sections import Context
from generator.step_cache import CacheState, StepCache

TRAIN_TIMESTEPS = 1000.0


class Denoiser:
    """Callable (x, sigma) → x0 for one section; calls must come in the order of the steps."""

    def __init__(
        self,
        transformer: Any,
        request: JobRequest,
        conditions: Conditions,
        image_embeds: Tensor,
        context: Context,
        cache: StepCache,
    ):
        self._transformer, self._request, self.cache = transformer, request, cache
        parameter = next(transformer.x_embedder.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        guidance = torch.tensor([TRAIN_TIMESTEPS * request.guidance_scale])
        self._shared = {
            field.name: self._ready(getattr(context, field.name)) for field in fields(context)
        }
        self._shared["image_embeds"] = self._ready(image_embeds)
        self._shared["guidance"] = self._ready(guidance)
        self._texts = {"cond": self._text_arguments(conditions.positive)}
        if conditions.negative is not None:
            self._texts["uncond"] = self._text_arguments(conditions.negative)
        self._step = 0

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        velocity = self._velocity("cond", self._step, x, sigma)
        if "uncond" in self._texts:
            other = self._velocity("uncond", self._step, x, sigma)
            scale, rescale = self._request.true_cfg_scale, self._request.guidance_rescale
            velocity = guided(velocity, other, scale, rescale)
        self._step += 1
        self.cache.step_done()
        return x - sigma * velocity

    @torch.inference_mode()
    def go_on(self, state: CacheState, sigmas: list[float], step: int) -> None:
        """The next call is for `step` (from 0); the cache remembers what it did before it."""

        def run(name: str, index: int, x: Tensor) -> None:
            self._velocity(name, index, x.to(self._device), sigmas[index])

        self.cache.restore(state, run)
        self._step = step

    def _velocity(self, name: str, step: int, x: Tensor, sigma: float) -> Tensor:
        # Filled on the device: a copy to it would wait for everything that was computed before.
        timestep = torch.full((1,), TRAIN_TIMESTEPS * sigma, device=self._device)
        with self.cache.step(name, step, x):
            (velocity,) = self._transformer(
                hidden_states=x.to(self._dtype),
                # bfloat16 rounds 1000 × 10 to 9984; the weights were trained with that.
                timestep=timestep.to(self._dtype),
                return_dict=False,
                **self._texts[name],
                **self._shared,
            )
        return velocity.float()

    def _text_arguments(self, text: TextEmbeds) -> dict[str, Tensor]:
        # Without padding there is nothing to mask. The model cuts the text at the mask's sum, which
        # the host must know: on the CPU nobody waits for it (see `models`).
        mask = torch.ones(text.prompt_embeds.shape[:2], dtype=torch.bool)
        return {
            "encoder_hidden_states": self._ready(text.prompt_embeds),
            "encoder_attention_mask": mask,
            "pooled_projections": self._ready(text.pooled_projections),
        }

    def _ready(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
