"""Sigmas by hand, UniPC on problems whose answer is known, guidance in plain NumPy.

The problems: data that is Gaussian has a closed-form posterior mean and a closed-form path; for a
mixture of Gaussians the posterior mean is closed and the path is integrated finely.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from generator.encoders import BUCKETS_640
from generator.sampler import UniPC, coefficients, flow_shift, guided, make_sigmas, phi

MEAN, SPREAD = 0.8, 0.4
MIXTURE = ((0.3, -1.0, 0.3), (0.7, 0.9, 0.5))  # weight, mean, standard deviation


# ---- sigmas


@pytest.mark.parametrize(("height", "width"), BUCKETS_640)
def test_every_bucket_of_640_is_shifted_by_seven(height: int, width: int) -> None:
    assert flow_shift(9 * (height // 16) * (width // 16)) == 7.0


@pytest.mark.parametrize(
    ("tokens", "shift"),
    [
        (256, math.exp(0.5)),  # the two anchors of the line
        (4096, math.exp(1.15)),
        (144, math.exp(0.5 - 112 * 0.65 / 3840)),  # 64 × 64, w = 9
        (108, math.exp(0.5 - 148 * 0.65 / 3840)),  # 48 × 64, w = 9
        (10_000, 7.0),
    ],
)
def test_shift_of_small_windows(tokens: int, shift: float) -> None:
    assert flow_shift(tokens) == pytest.approx(shift, rel=1e-12)


def test_sigmas_by_hand() -> None:
    expected = [1.0, 21 / 22, 7 / 8, 7 / 10, 0.0]
    assert make_sigmas(4, 7.0).tolist() == pytest.approx(expected, rel=1e-6)
    assert make_sigmas(4, 1.0).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert make_sigmas(1, 7.0).tolist() == [1.0, 0.0]
    assert make_sigmas(25, 7.0).dtype == torch.float32


def test_consistency_boost_by_hand() -> None:
    # 0.5 · (1 + 1 · 0.5), 0.25 · (1 + 1 · 0.75)
    assert make_sigmas(4, 1.0, 2.0).tolist() == [1.0, 0.9375, 0.75, 0.4375, 0.0]
    assert torch.equal(make_sigmas(25, 7.0, 1.0), make_sigmas(25, 7.0))


@pytest.mark.parametrize("shift", [0.5, 1.0, 7.0, 25.0])
@pytest.mark.parametrize("boost", [1.0, 1.25, 1.5, 1.75, 2.0])
def test_sigmas_fall_for_every_setting_offered(shift: float, boost: float) -> None:
    for steps in (1, 2, 25, 100):
        sigmas = make_sigmas(steps, shift, boost)
        assert (sigmas[0], sigmas[-1]) == (1.0, 0.0)
        assert (sigmas.diff() < 0).all()


def test_the_forks_boost_of_five_would_not_fall() -> None:
    assert (make_sigmas(25, 1.0, 5.0).diff() > 0).any()


# ---- the solver


def gaussian_x0(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, SPREAD²) and x = (1 − sigma)·x0 + sigma·noise."""
    keep = 1 - sigma
    variance = keep**2 * SPREAD**2 + sigma**2
    return MEAN + keep * SPREAD**2 / variance * (x - keep * MEAN)


def gaussian_path(z: Tensor, sigma: float) -> Tensor:
    """Where the flow takes pure noise z: the same number of standard deviations everywhere."""
    keep = 1 - sigma
    return keep * MEAN + math.sqrt(keep**2 * SPREAD**2 + sigma**2) * z


def mixture_x0(x: Tensor, sigma: float) -> Tensor:
    keep, total, weighted = 1 - sigma, torch.zeros_like(x), torch.zeros_like(x)
    for weight, mean, spread in MIXTURE:
        variance = keep**2 * spread**2 + sigma**2
        density = weight * torch.exp(-((x - keep * mean) ** 2) / (2 * variance)) / variance**0.5
        total += density
        weighted += density * (mean + keep * spread**2 / variance * (x - keep * mean))
    return weighted / total


def integrate(denoise: Callable[[Tensor, float], Tensor], x: Tensor, a: float, b: float) -> Tensor:
    """dx/dsigma = (x − x0)/sigma from a to b, by 4000 classical Runge–Kutta steps."""
    count = 4000
    step = (b - a) / count

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - denoise(x, sigma)) / sigma

    for i in range(count):
        s = a + i * step
        k1 = slope(x, s)
        k2 = slope(x + step / 2 * k1, s + step / 2)
        k3 = slope(x + step / 2 * k2, s + step / 2)
        k4 = slope(x + step * k3, s + step)
        x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def solve(denoise: Callable[[Tensor, float], Tensor], sigmas: Tensor, x: Tensor) -> UniPC:
    solver = UniPC(sigmas, x)
    for _ in range(len(sigmas) - 1):
        solver.advance(denoise)
    return solver


def uniform_in_lambda(first: float, last: float, steps: int) -> Tensor:
    """steps + 1 model calls between two sigmas, then the 0 that is never evaluated."""
    ratio = (last / first) ** (1 / steps)
    return torch.tensor([*(first * ratio**k for k in range(steps + 1)), 0.0], dtype=torch.float64)


NOISE = torch.linspace(-2, 2, 41, dtype=torch.float64)


def test_gaussian_data_is_sampled_as_its_closed_form_says() -> None:
    sigmas = make_sigmas(25, 7.0)
    solver = solve(gaussian_x0, sigmas, NOISE)
    last = sigmas[-2].item()
    expected = gaussian_x0(gaussian_path(NOISE, last), last)
    error = (solver.predictions[0] - expected).abs().max()
    assert error < 0.01
    euler = NOISE
    for s, t in pairwise(sigmas[:-1].tolist()):
        euler = t / s * euler + (1 - t / s) * gaussian_x0(euler, s)
    of_euler = (gaussian_x0(euler, last) - expected).abs().max()
    assert error < of_euler / 5


@pytest.mark.parametrize("problem", ["gaussian", "mixture"])
def test_the_order_of_convergence_is_three_or_better(problem: str) -> None:
    first, last = 0.9, 0.1
    if problem == "gaussian":
        denoise, begin = gaussian_x0, gaussian_path(NOISE, first)
        expected = gaussian_path(NOISE, last)
    else:
        denoise, begin = mixture_x0, NOISE
        expected = integrate(mixture_x0, NOISE, first, last)
    errors = []
    for steps in (16, 32, 64, 128):
        solver = solve(denoise, uniform_in_lambda(first, last, steps), begin)
        errors.append((solver.x - expected).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 2.7, orders
    assert orders[-1] > 2.9, orders
    assert errors[-1] < 2e-6


def test_a_third_order_step_is_exact_for_cubics() -> None:
    """Where x0 depends on lambda only, as a cubic, the corrector has all it needs."""

    def cubic(lam: float) -> float:
        return 0.3 - 1.1 * lam + 0.7 * lam**2 + 0.4 * lam**3

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.full_like(x, cubic(-math.log(sigma)))

    sigmas = [0.9, 0.75, 0.5, 0.42, 0.3, 0.2, 0.0]
    solver = UniPC(torch.tensor(sigmas, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    solver.step = 3
    solver.predictions = [denoise(solver.x, sigma) for sigma in (0.5, 0.75, 0.9)]
    solver.advance(denoise)
    # d(x/sigma)/dlambda = x0·e^lambda, by 40-point Gauss quadrature
    a, b = -math.log(0.5), -math.log(0.42)
    points, weights = np.polynomial.legendre.leggauss(40)
    lams = (a + b) / 2 + (b - a) / 2 * points
    integral = (
        (b - a)
        / 2
        * sum(w * cubic(lam) * math.exp(lam) for w, lam in zip(weights, lams, strict=True))
    )
    assert solver.x.item() == pytest.approx(0.42 * (1 / 0.5 + integral), abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 25])
def test_one_model_call_a_step_and_none_at_zero(steps: int) -> None:
    sigmas, called = make_sigmas(steps, 7.0), []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        called.append(sigma)
        return gaussian_x0(x, sigma)

    solver = solve(denoise, sigmas, NOISE)
    assert called == sigmas[:-1].tolist()
    assert solver.predictions[0].isfinite().all()


def test_one_step_is_a_plain_call() -> None:
    solver = solve(gaussian_x0, make_sigmas(1, 7.0), NOISE)
    assert torch.equal(solver.predictions[0], gaussian_x0(NOISE, 1.0))


def test_two_steps_by_hand() -> None:
    s, t = 1.0, 0.875
    sigmas = torch.tensor([s, t, 0.0], dtype=torch.float64)
    solver = solve(gaussian_x0, sigmas, NOISE)
    before = gaussian_x0(NOISE, s)
    predicted = t / s * NOISE + (1 - t / s) * before
    assert torch.allclose(solver.predictions[0], gaussian_x0(predicted, t), atol=1e-14)
    corrected = predicted + math.log(s / t) * 0.5 * (solver.predictions[0] - before)
    assert torch.allclose(solver.x, corrected, atol=1e-14)


@pytest.mark.parametrize(
    ("steps", "orders"), [(2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (6, [1, 2, 3, 3, 3])]
)
def test_the_order_warms_up(steps: int, orders: list[int]) -> None:
    solver, found = UniPC(make_sigmas(steps, 7.0), NOISE), []
    for step in range(steps):
        if step:
            found.append(solver.order)
        solver.advance(gaussian_x0)
    assert found == orders


# ---- the coefficients, against exact fractions


def exact_phi(k: int, z: Fraction) -> Fraction:
    terms, term = Fraction(0), Fraction(1, math.factorial(k))
    for j in range(60):
        terms += term
        term = term * z / (j + k + 1)
    return terms


def exact_solution(system: list[list[Fraction]], target: list[Fraction]) -> list[Fraction]:
    rows = [[*row, b] for row, b in zip(system, target, strict=True)]
    for i in range(len(rows)):
        pivot = next(r for r in range(i, len(rows)) if rows[r][i] != 0)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(len(rows)):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] for row in rows]


def exact_rho(h: float, points: list[float]) -> list[float]:
    exact = [Fraction(point) for point in points]
    order = range(1, len(points) + 1)
    system = [[point ** (i - 1) for point in exact] for i in order]
    target = [math.factorial(i) * exact_phi(i + 1, Fraction(-h)) for i in order]
    return [float(value) for value in exact_solution(system, target)]


@pytest.mark.parametrize("steps", [4, 25, 100])
def test_coefficients_equal_exact_fractions(steps: int) -> None:
    sigmas = make_sigmas(steps, 7.0).tolist()
    for step in range(3, steps):
        h = math.log(sigmas[step - 1] / sigmas[step])
        ratios = [math.log(sigmas[step - 1] / sigmas[step - 1 - k]) / h for k in (1, 2)]
        predict, correct = coefficients(h, ratios)
        assert predict == pytest.approx(exact_rho(h, ratios), abs=1e-8)
        assert correct == pytest.approx(exact_rho(h, [*ratios, 1.0]), abs=1e-8)


def test_low_orders_use_a_half() -> None:
    assert coefficients(0.3, []) == ([], [0.5])
    predict, correct = coefficients(0.3, [-1.2])
    assert predict == [0.5]
    assert correct == pytest.approx(exact_rho(0.3, [-1.2, 1.0]), abs=1e-12)


@pytest.mark.parametrize("k", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("z", [-3.0, -0.5, -0.1000001, -0.0999999, -1e-3, -1e-9, 0.0, 0.05, 0.7])
def test_phi_equals_its_series_in_fractions(k: int, z: float) -> None:
    assert phi(k, z) == pytest.approx(float(exact_phi(k, Fraction(z))), rel=1e-11)


# ---- guidance


def velocities() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = (2, 3, 2, 4, 4)
    return torch.randn(shape, generator=draw), 2 * torch.randn(shape, generator=draw)


def test_guidance_by_hand() -> None:
    positive, negative = torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    assert guided(positive, negative, 3.0, 0.0).tolist() == [[3.0, 8.0]]
    assert torch.equal(guided(positive, negative, 1.0, 0.0), positive)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescale_brings_back_the_positive_spread(rescale: float) -> None:
    positive, negative = velocities()
    got = guided(positive, negative, 6.0, rescale)
    for p, n, g in zip(positive.numpy(), negative.numpy(), got.numpy(), strict=True):
        v = n + 6.0 * (p - n)
        expected = rescale * v * (p.std() / v.std()) + (1 - rescale) * v
        assert np.allclose(g, expected, atol=1e-5)


def test_guidance_is_computed_in_float32() -> None:
    positive, negative = velocities()
    got = guided(positive.bfloat16(), negative.bfloat16(), 6.0, 0.5)
    assert got.dtype == torch.float32
    assert torch.equal(
        got, guided(positive.bfloat16().float(), negative.bfloat16().float(), 6.0, 0.5)
    )
