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


_IS_ONE_LAYER = "asked_as_one_layer"


def ask_as_one_layer(layer: nn.Module) -> None:
    """Have nobody ask inside this layer from now on, only before it.

    For what torch.compile traces: it would trace the question too, compile the layer again for each
    job's own, and after eight of them leave it uncompiled for good.
    """
    setattr(layer, _IS_ONE_LAYER, True)


@contextmanager
def asking(module: nn.Module, still_wanted: Callable[[], None]) -> Iterator[None]:
    """While the block lasts `still_wanted` is called before each layer of `module` computes.

    Layers are what its lists hold, at any depth: blocks of transformers, the VAE's resnets. What
    `still_wanted` raises comes out of the module's call.
    """

    def ask(layer: nn.Module, args: object) -> None:
        still_wanted()

    with ExitStack() as hooks:
        for layer in _layers(module):
            hooks.callback(layer.register_forward_pre_hook(ask).remove)
        yield


def _layers(owner: nn.Module) -> Iterator[nn.Module]:
    for child in owner.children():  # without the places where a list holds None
        if isinstance(owner, nn.ModuleList):
            yield child
        if not getattr(child, _IS_ONE_LAYER, False):
            yield from _layers(child)
