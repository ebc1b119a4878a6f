"""A computation that nobody waits for any more ends before its next layer.

Decides: where a part's computing can be left. Refuses to know: who asks, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn


class NoLongerWanted(Exception):
    """Raised by who is asked: the job is cancelled."""


def always() -> None:
    """What is asked while nobody can cancel: it is wanted."""


@contextmanager
def asking(module: nn.Module, still_wanted: Callable[[], None]) -> Iterator[None]:
    """While the block lasts `still_wanted` is called before each layer of `module` computes.

    Layers are what its lists hold, at any depth: blocks of transformers, the VAE's resnets. What
    `still_wanted` raises comes out of the module's call.
    """

    def ask(layer: nn.Module, args: object) -> None:
        still_wanted()

    with ExitStack() as hooks:
        for owner in module.modules():
            layers = owner.children() if isinstance(owner, nn.ModuleList) else ()
            for layer in layers:  # without the places where a list holds None
                hooks.callback(layer.register_forward_pre_hook(ask).remove)
        yield
