"""Where weights lie while they are used. The only place that knows VRAM and RAM.

The mode (`modes`) decides how the transformer lies: whole on the device, or its blocks passing
through from pinned RAM or from files. Llama passes through from its files in every mode but
`resident`: it is needed once per new prompt. Other parts stay until somebody needs their room.
Where weights lie never changes a value; tiles of the VAE and 8-bit storage do, so they are fixed
when the placement is made, but for what a job gives up when nothing else is left (`fallback`).
Refuses to know: what a part is for.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from generator.assembly import BLOCK_LISTS, Assembled, Recipe, assemble, blocks_of
from generator.attention import attention, choose_attention, refuse_math
from generator.block_sources import BlockSource
from generator.causal_convolution import quicken
from generator.compiling import compile_blocks, refuse_without_compiler
from generator.devices import CudaDevice, Device, HostDevice, choose_device, choose_dtype
from generator.errors import GeneratorError, OutOfMemoryError, is_out_of_memory
from generator.fallback import Sacrifice
from generator.fp8 import refuse_without_fp8
from generator.machine import GIB, Machine, measure
from generator.models import ModelFolder
from generator.modes import (
    SAMPLING_BYTES,
    STREAMED,
    TILED_DECODING_BYTES,
    WHOLE_DECODING_BYTES,
    Choice,
    Needs,
    below,
    choose,
    choose_on_cpu,
    needs_of,
    refuse_too_small,
)
from generator.protocol import Attention, Mode, Storage, Variant
from generator.read_ahead import AFTER, ReadAhead
from generator.stopping import always, asking

log = logging.getLogger(__name__)

TRANSFORMER = "transformer"
TILE, SMALL_TILE = 256, 128  # pixels: the library's own, and what is left when that is too large


class Placement:
    """Loads parts when they are first needed and lends them with `on_gpu`.

    `device` and `dtype` may be "auto": the first NVIDIA GPU if there is one; bfloat16 for the
    transformer and float16 for the rest there, float32 on a CPU. On a GPU `preserve_vram_gib` is
    kept free for others while the transformer samples. `why` says in one sentence what was chosen.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        device: str = "auto",
        dtype: str = "auto",
        mode: Mode = Mode.AUTO,
        preserve_vram_gib: float = 0.0,
        storage: Storage = Storage.NATIVE,
        attention_backend: str = Attention.AUTO,
        compiled: bool = False,
    ):
        self.model = model
        self.device = choose_device(device)
        self.transformer_dtype = choose_dtype(dtype, self.device, torch.bfloat16)
        self.encoder_dtype = choose_dtype(dtype, self.device, torch.float16)
        self.preserve_vram_gib, self._storage = preserve_vram_gib, storage
        self.still_wanted: Callable[[], None] = always
        """Called before each layer computes and each tensor is read; what it raises ends that."""
        self.given_up: tuple[Sacrifice, ...] = ()
        """What the job at work gave up for room; it changes values."""
        self.short_of: str | None = None
        """The part that found no room last."""
        self.attention = choose_attention(attention_backend, self.device, self.transformer_dtype)
        self.compiled = compiled
        """Whether the transformer's blocks go through torch.compile."""
        if compiled:
            refuse_without_compiler(self.device)
        refuse_without_fp8(self.device, storage)
        if self.attention == "native":
            refuse_math(self.device, self.transformer_dtype)
        self.needs = self._count()
        self._choice = self._choose(mode)
        self._tiling = self.mode is not Mode.RESIDENT
        self._modules: dict[str, nn.Module] = {}
        self._assembled: dict[str, Assembled] = {}
        self._waiting: dict[
            str, BlockSource
        ] = {}  # blocks in RAM of a transformer that left the GPU
        self._ahead = ReadAhead()
        log.info("Placement %s", self.why)

    @property
    def mode(self) -> Mode:
        """Where the transformer's weights lie while it samples; never AUTO."""
        return self._choice.mode

    @property
    def why(self) -> str:
        """The mode and the numbers it was chosen by, in one sentence."""
        return self._choice.why

    @property
    def storage(self) -> Storage:
        """In how many bits the transformer's blocks are held."""
        return Storage.FP8 if Sacrifice.FP8 in self.given_up else self._storage

    @property
    def vae_tile(self) -> int:
        """The side of the VAE's tiles in pixels, 0 without any; each size has its own values."""
        is_small = Sacrifice.SMALL_TILES in self.given_up
        return SMALL_TILE if is_small else TILE * self._tiling

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    def dtype_of(self, part: str) -> torch.dtype:
        """The dtype the part computes in."""
        return self.transformer_dtype if part.startswith(TRANSFORMER) else self.encoder_dtype

    def is_loaded(self, part: str) -> bool:
        """Whether the part is ready to compute."""
        return part in self._modules

    def loaded_variant(self) -> Variant | None:
        """Whose transformer is ready to compute, or waits in RAM for its next job."""
        loaded = (*self._modules, *self._assembled, *self._waiting)  # a job may change them
        found = (v for v in Variant if self.model.transformer_part(v) in loaded)
        return next(found, None)

    @contextmanager
    def on_gpu(self, part: str, variant: Variant = Variant.I2V) -> Iterator[Any]:
        """The part's module, ready on the device until the block is left.

        OutOfMemoryError, with the numbers, when it does not fit.
        """
        name = self.model.transformer_part(variant) if part == TRANSFORMER else part
        try:
            with ExitStack() as stack:
                module = self._loaded(name)
                self._read_ahead(name, variant)
                stack.enter_context(asking(module, self.still_wanted))
                if part == TRANSFORMER:
                    stack.enter_context(attention(module, self.attention, self.device))
                yield module
        except Exception as error:
            if isinstance(error, GeneratorError) or not is_out_of_memory(error):
                raise
            log.warning("Out of memory at %s: %s", name, str(error).partition("\n")[0])
            self.short_of = part
            self._drop(name)
            raise OutOfMemoryError(self._memory_sentence(name)) from error
        finally:
            if self.mode is not Mode.RESIDENT and self._leaves(name):
                self._drop(name)

    def lower(self) -> str | None:
        """Go to a placement that needs less VRAM; says which, or None when there is none.

        Values stay the same. Everything is given back; what is needed is loaded again.
        """
        if self.device.type == "cpu":
            return None
        self.unload()  # first: what blocks hold in RAM is free for the following placement
        following = below(self._choice, self.needs, self._measure())
        if following is None:
            return None
        log.warning("Out of memory with %s; from now on %s", self.why, following.why)
        self._choice = following
        return following.why

    def give_up(self, sacrifices: tuple[Sacrifice, ...]) -> None:
        """Work with just these from now on. What they change is loaded again when it is needed."""
        if sacrifices == self.given_up:
            return
        self.unload()
        self.given_up = sacrifices
        self.needs = self._count()

    def unload(self) -> None:
        """Give all memory back; parts are loaded again when they are needed."""
        self._ahead.close()
        vram, ram = self.held()
        for name in list(self._modules):
            self._drop(name, keep_waiting=False)
        for source in self._waiting.values():
            source.close()
        self._waiting.clear()
        self._empty_cache()
        if vram or ram:
            log.info("Given back: %.2f GiB VRAM, %.2f GiB RAM", vram / GIB, ram / GIB)

    def held(self) -> tuple[int, int]:
        """Bytes of VRAM and of RAM that weights take now, slots and buffers for them included."""
        tensors = [t for m in self._modules.values() for t in (*m.parameters(), *m.buffers())]
        for made in self._assembled.values():
            tensors += made.buffers
        for source in self._waiting.values():
            tensors += source.buffers
        storages = {
            t.untyped_storage().data_ptr(): (t.device.type, t.untyped_storage().nbytes())
            for t in tensors
            if not t.is_meta
        }
        vram = sum(size for device, size in storages.values() if device == "cuda")
        return vram, sum(size for _, size in storages.values()) - vram

    def _read_ahead(self, name: str, variant: Variant) -> None:
        """While this part computes, its successor is read from disk, unless it is there."""
        following = AFTER.get(name)
        if following == TRANSFORMER:
            following = self.model.transformer_part(variant)
        if following is None or following in self._modules or following in self._waiting:
            return
        self._ahead.begin(self.model.path / following, measure(self.device).ram_free)

    def _loaded(self, name: str) -> nn.Module:
        if name in self._modules:
            return self._modules[name]
        if name.startswith(TRANSFORMER):
            self._drop_other_transformers(name)
        self._make_room(name)
        log.info("Loading %s as %s", name, self.dtype_of(name))
        if name.removesuffix("_f1") in BLOCK_LISTS and self._is_assembled(name):
            device: Device = HostDevice()
            if self.device.type == "cuda":
                device = CudaDevice(self.device)
            kept = self._waiting.pop(name, None)
            try:
                recipe = self._recipe(name)
                made = assemble(self.model, name, recipe, device, kept, self.still_wanted)
            except BaseException:
                if kept is not None:
                    self._waiting[name] = kept
                raise
            self._assembled[name], self._modules[name] = made, made.module
            return made.module
        module = self.model.load(name, self.dtype_of(name)).to(self.device)
        if self.compiled and name.startswith(TRANSFORMER):
            compile_blocks(block.module for block in blocks_of(module, name))
        if name == "vae" and self.vae_tile:
            side, stride = self.vae_tile, self.vae_tile * 3 // 4
            module.enable_slicing()  # type: ignore[operator]
            module.enable_tiling(  # type: ignore[operator]
                tile_sample_min_height=side,
                tile_sample_min_width=side,
                tile_sample_stride_height=stride,
                tile_sample_stride_width=stride,
            )
        if name == "vae" and self.device.type == "cpu":
            quicken(module)
        self._modules[name] = module
        return module

    def _is_assembled(self, name: str) -> bool:
        """On a CPU with room the libraries' own loading does; it maps the files."""
        eight_bits = self.storage is not Storage.NATIVE and name.startswith(TRANSFORMER)
        return self.device.type == "cuda" or self.mode in STREAMED or eight_bits

    def _recipe(self, name: str) -> Recipe:
        resident, in_ram = self._choice.resident, self._choice.in_ram
        if not name.startswith(TRANSFORMER):
            resident, in_ram = (None if self.mode is Mode.RESIDENT else 0), frozenset()
        return Recipe(
            device=self.device,
            dtype=self.dtype_of(name),
            storage=self.storage if name.startswith(TRANSFORMER) else Storage.NATIVE,
            resident=resident,
            in_ram=in_ram,
            compiled=self.compiled and name.startswith(TRANSFORMER),
        )

    def _leaves(self, name: str) -> bool:
        """Whether a part goes as soon as it is done: in RAM-bound modes all but the transformer."""
        return name == "text_encoder" or (
            self.mode in STREAMED and not name.startswith(TRANSFORMER)
        )

    def _drop_other_transformers(self, name: str) -> None:
        """Variants share everything else; two transformers at once would double the memory."""
        for other in [n for n in {*self._modules, *self._waiting} if n.startswith(TRANSFORMER)]:
            if other != name:
                self._drop(other, keep_waiting=False)
                source = self._waiting.pop(other, None)
                if source is not None:
                    source.close()

    def _make_room(self, name: str) -> None:
        """Send others away, the largest first, until this part and its work fit."""
        if self.device.type != "cuda":
            return
        for other in sorted(self._modules, key=self._device_bytes, reverse=True):
            if self._room_for(name) <= self._free_vram():
                return
            self._drop(other)

    def _room_for(self, name: str) -> int:
        if name.startswith(TRANSFORMER):
            resident = self._choice.resident
            held = self.needs.transformer
            if resident is not None:
                held = self.needs.rest + self.needs.slots
            return held + self.needs.working(SAMPLING_BYTES)
        files = (self.model.path / name).glob("*.safetensors")
        size = sum(file.stat().st_size for file in files)
        if name == "text_encoder":
            return GIB if self.mode is not Mode.RESIDENT else size
        if name == "vae":
            need = TILED_DECODING_BYTES if self.vae_tile else WHOLE_DECODING_BYTES
            return size + self.needs.working(need)
        return size + GIB // 4

    def _device_bytes(self, name: str) -> int:
        tensors = [*self._modules[name].parameters(), *self._modules[name].buffers()]
        return sum(t.nbytes for t in tensors if t.device == self.device)

    def _free_vram(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(free + cached)

    def _drop(self, name: str, *, keep_waiting: bool = True) -> None:
        self._modules.pop(name, None)
        made = self._assembled.pop(name, None)
        if made is not None:
            source = made.close(keep_source=keep_waiting)
            if source is not None:
                self._waiting[name] = source
        self._empty_cache()

    def _empty_cache(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _count(self) -> Needs:
        variant = Variant.I2V if (self.model.path / TRANSFORMER).is_dir() else Variant.F1
        part = self.model.transformer_part(variant)
        return needs_of(self.model, part, lambda p: self.dtype_of(p).itemsize, self.storage)

    def _choose(self, wanted: Mode) -> Choice:
        machine = self._measure()
        limits = refuse_too_small(self.needs, machine)
        if self.device.type == "cpu":
            return choose_on_cpu(wanted, self.needs, machine)
        preserve = int(self.preserve_vram_gib * GIB)
        choice = choose(self.needs, machine, wanted, preserve=preserve)
        return replace(choice, why=choice.why + limits)

    def _measure(self) -> Machine:
        parts = sorted(self.model.path.glob(f"{TRANSFORMER}*"))
        return measure(self.device, parts[0] if parts else None)

    def _memory_sentence(self, part: str) -> str:
        machine = measure(self.device)
        advice = "ask for a smaller resolution, or close other programs that use the memory"
        return f"The machine ran out of memory at {part} ({self.mode}; {machine}); {advice}."
