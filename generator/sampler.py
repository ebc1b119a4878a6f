"""From noise to latents: the sigmas, the UniPC steps between them, and guidance.

Decides: numbers only. Refuses to know: which model predicts, where it lies, what a section is.
Source: UniPC, arXiv:2302.04867 (Zhao et al. 2023), in its data-prediction form on a flow-matching
path x = (1 − sigma)·x0 + sigma·noise, with lambda = −ln sigma and B(h) = −h, as FramePack
samples.

The step coefficients are float64: they are small differences of nearly equal numbers, and in
float32 they are noise at 25 steps (rho_c of (−0.52, 0.42, 0.60) instead of (0.23, −0.10, 0.37)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MAX_SHIFT = 7.0
ORDER = 3
SERIES_BELOW = 0.1

Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) -> x0, both shaped like x, float32."""


def flow_shift(tokens: int) -> float:
    """How strongly sigmas lean to noise for a window of that many tokens: e^mu, at most 7."""
    slope = (1.15 - 0.5) / (4096 - 256)
    return min(math.exp(slope * tokens + (0.5 - 256 * slope)), MAX_SHIFT)


def make_sigmas(steps: int, shift: float, consistency_boost: float = 1.0) -> Tensor:
    """The noise levels, float32 (steps + 1,), from 1 down to 0.

    `consistency_boost` b in 0..2 bends them to sigma·(1 + (b − 1)(1 − sigma)): above 1 more steps
    are spent where the structure is decided.
    """
    t = torch.linspace(1, 0, steps + 1)
    sigmas = shift / (shift + (1 / t - 1))
    if consistency_boost == 1:
        return sigmas
    return sigmas * (1 + (consistency_boost - 1) * (1 - sigmas))


def guided(positive: Tensor, negative: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance on velocities in float32, optionally rescaled (arXiv:2305.08891)."""
    positive, negative = positive.float(), negative.float()
    velocity = negative + scale * (positive - negative)
    if rescale == 0:
        return velocity
    dims = list(range(1, velocity.ndim))
    matched = velocity * (positive.std(dims, keepdim=True) / velocity.std(dims, keepdim=True))
    return rescale * matched + (1 - rescale) * velocity


class UniPC:
    """The solver's whole state: `x`, `predictions` (x0, newest first, at most 3) and `step`.

    `advance` makes one model call. The result is the x0 prediction of the last call, so the final
    sigma of 0 is never evaluated.
    """

    def __init__(self, sigmas: Tensor, noise: Tensor):
        self.sigmas: list[float] = sigmas.tolist()
        self.x = noise
        self.predictions: list[Tensor] = []
        self.step = 0

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def order(self) -> int:
        """The order of the coming step: it warms up 1, 2, 3, and few steps allow only less."""
        return min(ORDER, self.steps - 1, self.step)

    def advance(self, denoise: Denoise) -> Tensor:
        """Go to the next sigma; returns the x0 predicted there."""
        sigma = self.sigmas[self.step]
        x0 = self._predict_and_correct(denoise, sigma) if self.step else denoise(self.x, sigma)
        self.predictions = [x0, *self.predictions][:ORDER]
        self.step += 1
        return x0

    def _predict_and_correct(self, denoise: Denoise, sigma: float) -> Tensor:
        order, known = self.order, self.sigmas[: self.step][::-1]
        h = math.log(known[0] / sigma)
        newest = self.predictions[0]
        ratios = [math.log(known[0] / known[k]) / h for k in range(1, order)]
        slopes = [
            (older - newest) / ratio
            for older, ratio in zip(self.predictions[1:order], ratios, strict=True)
        ]
        predict, correct = coefficients(h, ratios)
        base = (sigma / known[0]) * self.x - math.expm1(-h) * newest
        x0 = denoise(base + h * _combine(predict, slopes, like=base), sigma)
        slopes.append(x0 - newest)
        self.x = base + h * _combine(correct, slopes, like=base)
        return x0


def coefficients(h: float, ratios: list[float]) -> tuple[list[float], list[float]]:
    """UniPC's rho of the predictor and of the corrector for a step h and the r_k behind it."""
    points = torch.tensor([*ratios, 1.0], dtype=torch.float64)
    order = len(points)
    system = torch.stack([points**row for row in range(order)])
    target = torch.tensor(
        [math.factorial(i) * phi(i + 1, -h) for i in range(1, order + 1)], dtype=torch.float64
    )
    correct = [0.5] if order == 1 else torch.linalg.solve(system, target).tolist()
    if order <= 2:
        return [0.5] * (order - 1), correct
    return torch.linalg.solve(system[:-1, :-1], target[:-1]).tolist(), correct


def phi(k: int, z: float) -> float:
    """The k-th phi function: sum of z^j / (j + k)!; its recursion cancels for small z."""
    if abs(z) < SERIES_BELOW:
        return sum(z**j / math.factorial(j + k) for j in range(12))
    value = math.exp(z)
    for i in range(k):
        value = (value - 1 / math.factorial(i)) / z
    return value


def _combine(weights: list[float], slopes: list[Tensor], like: Tensor) -> Tensor:
    total = torch.zeros_like(like)
    for weight, slope in zip(weights, slopes, strict=True):
        total += weight * slope
    return total
