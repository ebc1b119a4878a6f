"""Where weights lie while they are used. The only place that knows VRAM and RAM.

Two modes: `resident` keeps every part where it computes; `swap` brings one part at a time to the
GPU and takes it back. Where weights lie never changes a value. Refuses to know: what a part is for.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import nn

from generator.errors import InputError, OutOfMemoryError
from generator.models import ModelFolder
from generator.protocol import Variant

log = logging.getLogger(__name__)

GIB = 2**30
RESIDENT_HEADROOM_GIB = 12.0  # activations, decoding, and the desktop's own use
TRANSFORMER = "transformer"


class Mode(StrEnum):
    """How parts share the GPU."""

    AUTO = "auto"
    RESIDENT = "resident"
    SWAP = "swap"


class Placement:
    """Loads parts when they are first needed and lends them with `on_gpu`.

    `device` and `dtype` may be "auto": the first NVIDIA GPU if there is one; bfloat16 for the
    transformer and float16 for the rest there, float32 on a CPU. On a GPU `preserve_vram_gib` is
    kept free for others while the transformer is resident.
    """

    def __init__(
        self,
        model: ModelFolder,
        *,
        device: str = "auto",
        dtype: str = "auto",
        mode: Mode = Mode.AUTO,
        preserve_vram_gib: float = 0.0,
    ):
        self.model = model
        self.device = choose_device(device)
        self.transformer_dtype = _choose_dtype(dtype, self.device, torch.bfloat16)
        self.encoder_dtype = _choose_dtype(dtype, self.device, torch.float16)
        self.preserve_vram_gib = preserve_vram_gib
        self.mode = self._choose_mode(mode)
        self._modules: dict[str, nn.Module] = {}

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"CPU, {torch.get_num_threads()} threads"

    @property
    def vae_tiling(self) -> bool:
        """Whether the VAE works tile by tile. It needs less memory and changes values a little."""
        return self.mode is Mode.SWAP

    def dtype_of(self, part: str) -> torch.dtype:
        """The dtype the part computes in."""
        return self.transformer_dtype if part.startswith(TRANSFORMER) else self.encoder_dtype

    def is_loaded(self, part: str) -> bool:
        """Whether the part's weights are in memory."""
        return part in self._modules

    @contextmanager
    def on_gpu(self, part: str, variant: Variant = Variant.I2V) -> Iterator[Any]:
        """The part's module, ready on the device until the block is left.

        OutOfMemoryError, with the numbers, when it does not fit.
        """
        name = self.model.transformer_part(variant) if part == TRANSFORMER else part
        try:
            module = self._loaded(name)
            if self.mode is Mode.SWAP:
                self._bring(module, keep_free=part == TRANSFORMER)
            yield module
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(self._memory_sentence(name)) from error
        finally:
            if self.mode is Mode.SWAP and name in self._modules:
                self._take_back(self._modules[name])

    def unload(self) -> None:
        """Give all memory back; parts are loaded again when they are needed."""
        self._modules.clear()
        self._empty_cache()

    def _loaded(self, name: str) -> nn.Module:
        if name not in self._modules:
            if name.startswith(TRANSFORMER):
                # Variants share everything else; two transformers at once would double the RAM.
                for other in [n for n in self._modules if n.startswith(TRANSFORMER)]:
                    del self._modules[other]
                self._empty_cache()
            dtype = self.dtype_of(name)
            log.info("Loading %s as %s", name, dtype)
            module = self.model.load(name, dtype)
            if name == "vae" and self.vae_tiling:
                module.enable_slicing()  # type: ignore[operator]
                module.enable_tiling()  # type: ignore[operator]
            self._modules[name] = module.to(self.device) if self.mode is Mode.RESIDENT else module
        return self._modules[name]

    def _bring(self, module: nn.Module, *, keep_free: bool) -> None:
        needed = sum(p.nbytes for p in [*module.parameters(), *module.buffers()])
        reserve = int(self.preserve_vram_gib * GIB) if keep_free else 0
        free, _ = torch.cuda.mem_get_info(self.device)
        if needed + reserve <= free:
            module.to(self.device)
            return
        import accelerate

        room = {self.device.index or 0: max(free - reserve, 0), "cpu": needed}
        blocks = list(getattr(module, "_no_split_modules", None) or [])
        plan = accelerate.infer_auto_device_map(module, room, no_split_module_classes=blocks)
        log.info("%.1f GiB of %.1f GiB stay in RAM", _on_cpu(module, plan) / GIB, needed / GIB)
        accelerate.dispatch_model(module, plan, main_device=self.device)

    def _take_back(self, module: nn.Module) -> None:
        if getattr(module, "hf_device_map", None):
            import accelerate

            accelerate.hooks.remove_hook_from_submodules(module)
            del module.hf_device_map
        module.to("cpu")
        self._empty_cache()

    def _empty_cache(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _choose_mode(self, wanted: Mode) -> Mode:
        if self.device.type == "cpu":
            return Mode.RESIDENT
        if wanted is not Mode.AUTO:
            return wanted
        free, _ = torch.cuda.mem_get_info(self.device)
        weights = sum(file.stat().st_size for file in self.model.path.rglob("*.safetensors"))
        fits = weights + RESIDENT_HEADROOM_GIB * GIB + self.preserve_vram_gib * GIB <= free
        return Mode.RESIDENT if fits else Mode.SWAP

    def _memory_sentence(self, part: str) -> str:
        if self.device.type != "cuda":
            return f"There is not enough memory for {part}; ask for a smaller resolution."
        free, total = torch.cuda.mem_get_info(self.device)
        return (
            f"The GPU ran out of memory at {part}: {free / GIB:.1f} of {total / GIB:.1f} GiB are "
            "free; ask for a smaller resolution, or close other programs that use the GPU."
        )


def choose_device(wanted: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:N`. InputError when it is not there."""
    if wanted == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise InputError(f"device is {wanted!r}; it must be auto, cpu, cuda or cuda:N.") from None
    if device.type not in {"cpu", "cuda"}:
        raise InputError(f"device is {wanted!r}; it must be auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"device is {wanted!r}, but this torch ({torch.__version__}) sees no NVIDIA GPU; "
            "install a CUDA build of torch, or choose device = cpu."
        )
    return torch.device("cuda:0") if wanted == "cuda" else device


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _choose_dtype(wanted: str, device: torch.device, on_gpu: torch.dtype) -> torch.dtype:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else on_gpu
    if wanted not in DTYPES:
        raise InputError(f"dtype is {wanted!r}; it must be auto or one of {', '.join(DTYPES)}.")
    return DTYPES[wanted]


def _on_cpu(module: nn.Module, plan: dict[str, Any]) -> int:
    return sum(
        parameter.nbytes
        for name, parameter in module.named_parameters()
        if any(place == "cpu" and name.startswith(prefix) for prefix, place in plan.items())
    )
