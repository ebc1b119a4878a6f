"""How weights change, how they are averaged, and how a killed run goes on.

Decides: the update rules, the learning-rate curve, the running average, the file that a stage
resumes from. Refuses to know: what is trained. Source of Muon: Keller Jordan and others, 2024; its
scale follows Liu et al., arXiv:2502.16982, so one learning rate suits matrices of all shapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT_DECAY = 0.4
"""Without it layers before a norm only ever grow: an autoencoder's deepest features reached 1600
times the size of what its blocks add to them, and nothing more was learned."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values end between 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; for matrices and, flattened, for kernels."""

    def __init__(self, weights: Iterable[Tensor], lr: float, momentum: float = 0.95):
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": WEIGHT_DECAY}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                velocity = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(velocity, group["momentum"]).flatten(1)
                size = 0.2 * max(ahead.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead).view_as(weight), alpha=-group["lr"] * size)


class Optimizers:
    """Muon on inner matrices and kernels, AdamW on everything else, one curve for both.

    `lr` is Muon's peak rate, `adam_lr` AdamW's. `edge` names (parts of) the layers that AdamW keeps
    although they are matrices: those at the model's edges and the modulations.
    """

    def __init__(self, model: nn.Module, lr: float, adam_lr: float, edge: tuple[str, ...]):
        inner, rest = [], []
        for name, weight in model.named_parameters():
            is_edge = weight.ndim < 2 or any(part in name for part in edge)
            (rest if is_edge else inner).append(weight)
        self.parts = [
            Muon(inner, lr),
            torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.peaks = (lr, adam_lr)
        self.weights = inner + rest

    def step(self, factor: float) -> float:
        """Clip, update at `factor` of the peak rates, forget the gradients; returns their norm."""
        norm = float(nn.utils.clip_grad_norm_(self.weights, 1.0))
        for part, peak in zip(self.parts, self.peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> list[Any]:
        """What `load_state_dict` takes."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[Any]) -> None:
        """Go on where a saved run stopped."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def curve(step: int, steps: int, *, warm_up: int = 40, hold: float = 0.6) -> float:
    """The share of the peak rate at a step: linear warm-up, constant, linear down to 3 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    start = hold * steps
    if step < start:
        return 1.0
    return max(0.03, 1 - 0.97 * (step - start) / max(steps - start, 1))


class Average:
    """The running average of a model's floating-point weights; what is shipped."""

    def __init__(self, model: nn.Module):
        self.weights = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move towards the model's weights by 1 − decay."""
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)


def save_state(path: Path, **parts: Any) -> None:
    """Write a stage's whole state: a kill leaves the old or the new file, never a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(parts, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The parts that `save_state` wrote, or None where there is no such file."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
