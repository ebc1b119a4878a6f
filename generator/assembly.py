"""A model is put together from its files tensor by tensor, its blocks streamed or held.

Decides: which parameters are blocks, in which dtype each is held, what stays on the device. Refuses
to know: which mode was chosen (`placement`), when a block is copied (`streaming`). No tensor is
loaded twice, and none is held in more bytes than its file or its compute dtype has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generator.block_sources import BlockSource, lay_out
from generator.compiling import compile_blocks
from generator.devices import Device
from generator.errors import ModelError
from generator.fp8 import converted_folder, is_fp8
from generator.models import ModelFolder
from generator.protocol import Storage
from generator.stopping import always
from generator.streaming import BlockStream, cast_on_use
from generator.tensor_files import TensorFiles

BLOCK_LISTS = {
    "transformer": ("transformer_blocks", "single_transformer_blocks"),
    "text_encoder": ("layers",),
}
"""The parts whose weights are mostly blocks that run one after another."""
READ_PAST_BLOCKS = ("transformer_blocks.0.norm1.",)  # TeaCache calls it on its own
EMBEDDING = "embed_tokens"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a part is put together. `resident` blocks keep their place on the device; of the others
    those numbered in `in_ram` wait in pinned RAM, and the rest is read from files each time. None:
    all of them. `compiled` ones go through torch.compile."""

    device: torch.device
    dtype: torch.dtype
    storage: Storage = Storage.NATIVE
    resident: int | None = None
    in_ram: frozenset[int] | None = None
    compiled: bool = False


class Assembled:
    """A module ready to compute, and what it holds. Close it; `source` is its maker's to close."""

    def __init__(
        self,
        module: nn.Module,
        files: TensorFiles,
        source: BlockSource | None,
        stream: BlockStream | None,
    ):
        self.module, self.files, self.source, self.stream = module, files, source, stream

    @property
    def buffers(self) -> list[Tensor]:
        """What is held for blocks that pass through: slots, and what waits in RAM."""
        slots = self.stream.buffers if self.stream is not None else []
        return [*slots, *(self.source.buffers if self.source is not None else [])]

    def close(self, *, keep_source: bool = False) -> BlockSource | None:
        """Give everything back; with `keep_source` what waits in RAM is returned instead."""
        if self.stream is not None:
            self.stream.close()
        self.files.close()
        if keep_source and self.source is not None and self.source.holds:
            return self.source
        if self.source is not None:
            self.source.close()
        return None


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a model: its module and its name."""

    module: nn.Module
    prefix: str


def blocks_of(module: nn.Module, part: str) -> list[Block]:
    """The part's blocks in the order in which they run."""
    return [
        Block(module=block, prefix=f"{name}.{i}.")
        for name in BLOCK_LISTS[part.removesuffix("_f1")]
        for i, block in module.get_submodule(name).named_children()
    ]


@torch.inference_mode(mode=False)  # the reading thread writes into what is allocated here
def assemble(
    model: ModelFolder,
    part: str,
    recipe: Recipe,
    device: Device,
    kept: BlockSource | None = None,
    still_wanted: Callable[[], None] = always,
) -> Assembled:
    """Put the part together. ModelError when its files are not this model's.

    `kept` is what an earlier one of the same recipe left in RAM. `still_wanted` is called before
    each reading and may raise.
    """
    folder = model.path / part
    if recipe.storage is not Storage.NATIVE:
        folder = converted_folder(model, part, recipe.storage) or folder
    files = TensorFiles(folder)
    with ExitStack() as undo:
        undo.callback(files.close)
        module = model.build_empty(part, recipe.dtype)
        _check_shapes(module, files, folder)
        blocks = blocks_of(module, part)
        resident = spread(len(blocks), len(blocks) if recipe.resident is None else recipe.resident)
        holding = _holding(recipe, files)
        layouts = {
            i: lay_out(_streamed_names(block), files, holding)
            for i, block in enumerate(blocks)
            if i not in resident
        }
        if part == "text_encoder" and recipe.resident is not None:
            _look_up_in_files(module, files, recipe)
        streamed = {one.source for layout in layouts.values() for one in layout.fields}
        _fill(module, files, recipe, streamed, [block.prefix for block in blocks], still_wanted)
        for block in blocks:
            held = {
                name: holding(block.prefix + name) for name, _ in block.module.named_parameters()
            }
            cast_on_use(block.module, recipe.dtype, held)
        if recipe.compiled:
            # Innermost: what a stream or a step cache does around it stays as it is.
            compile_blocks(block.module for block in blocks)
        source, stream = None, None
        if layouts:
            in_ram = layouts.keys() if recipe.in_ram is None else layouts.keys() & recipe.in_ram
            source = kept or BlockSource(layouts, files, device, in_ram, still_wanted)
            source.files = files
            if kept is None:
                undo.callback(source.close)
            stream = BlockStream([block.module for block in blocks], source, device)
        else:
            files.close()  # nothing is read from now on
        undo.pop_all()
        return Assembled(module.eval().requires_grad_(False), files, source, stream)


def spread(count: int, wanted: int) -> Collection[int]:
    """`wanted` of the numbers below `count`, evenly spaced: between two of them a copy has time."""
    wanted = min(wanted, count)
    return {i * count // wanted for i in range(wanted)} if wanted else set()


def _streamed_names(block: Block) -> dict[str, str]:
    names = ((name, block.prefix + name) for name, _ in block.module.named_parameters())
    return {name: full for name, full in names if not full.startswith(READ_PAST_BLOCKS)}


def _holding(recipe: Recipe, files: TensorFiles) -> Callable[[str], torch.dtype]:
    def dtype_of(name: str) -> torch.dtype:
        entry = files.entry(name)
        if is_fp8(name, entry.shape, recipe.storage):
            return torch.float8_e4m3fn
        if recipe.resident is None and entry.dtype != torch.float8_e4m3fn:
            return recipe.dtype  # it stays, so it is cast once
        return min(entry.dtype, recipe.dtype, key=lambda dtype: dtype.itemsize)

    return dtype_of


def _fill(
    module: nn.Module,
    files: TensorFiles,
    recipe: Recipe,
    streamed: Collection[str],
    prefixes: list[str],
    still_wanted: Callable[[], None],
) -> None:
    """Read every parameter that is not streamed to the device, and move the buffers there."""
    holding = _holding(recipe, files)
    for name, parameter in list(module.named_parameters()):
        if name in streamed or not parameter.is_meta:
            continue
        still_wanted()
        in_block = name.startswith(tuple(prefixes))
        # The output layer computes in float32, with weights of the model's own dtype.
        value = files.read(name).to(holding(name) if in_block else recipe.dtype)
        value = value.to(recipe.device, value.dtype if in_block else parameter.dtype)
        _put(module, name, value)
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = buffer.to(recipe.device)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)


class FileEmbedding(nn.Module):
    """An embedding table that stays on disk: a prompt needs a few hundred of its rows."""

    def __init__(self, files: TensorFiles, name: str, recipe: Recipe):
        super().__init__()
        self._files, self._name, self._dtype = files, name, recipe.dtype
        # Tells whoever asks on which device this model computes.
        self.weight = nn.Parameter(
            torch.empty(0, device=recipe.device, dtype=recipe.dtype), requires_grad=False
        )

    def forward(self, ids: Tensor) -> Tensor:
        rows = self._files.read_rows(self._name, ids.flatten().tolist())
        return rows.view(*ids.shape, -1).to(self._dtype).to(ids.device)


def _look_up_in_files(module: nn.Module, files: TensorFiles, recipe: Recipe) -> None:
    setattr(module, EMBEDDING, FileEmbedding(files, f"{EMBEDDING}.weight", recipe))


def _check_shapes(module: nn.Module, files: TensorFiles, folder: Path) -> None:
    wrong = list(_misfits(module, files))
    if wrong:
        raise ModelError(
            f"{folder} holds weights of another model than its config.json describes: "
            f"{len(wrong)} tensors do not fit, such as {wrong[0]}."
        )


def _misfits(module: nn.Module, files: TensorFiles) -> Iterator[str]:
    for name, parameter in module.named_parameters():
        entry: Any = files.entries.get(name)
        if entry is None:
            yield f"{name}, which is missing"
        elif entry.shape != tuple(parameter.shape):
            yield f"{name} of shape {list(entry.shape)} instead of {list(parameter.shape)}"
