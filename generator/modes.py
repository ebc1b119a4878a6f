"""Which placement a machine gets: what each mode needs, what is free, and why one was chosen.

Decides: the mode and how many blocks stay on the GPU. Refuses to know: how a mode is carried out
(`placement`). Byte counts of weights come from the files; what computing needs on top was counted
with fake tensors at 608×640 (`framepack-bot plan`) and grows with the model's width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from generator.assembly import spread
from generator.errors import OutOfMemoryError
from generator.fp8 import is_fp8
from generator.machine import GIB, Machine, vram_users
from generator.models import ModelFolder
from generator.protocol import Mode, Storage
from generator.tensor_files import TensorFiles

BESIDE_TRANSFORMER = ("text_encoder", "text_encoder_2", "image_encoder", "vae")
REAL_WIDTH = 3072
SAMPLING_BYTES = int(
    2.2 * GIB
)  # the transformer's activations at 608×640, and the allocator's gaps
TILED_DECODING_BYTES = int(2.9 * GIB)
WHOLE_DECODING_BYTES = int(14.5 * GIB)
DRIVER_BYTES = int(0.6 * GIB)  # CUDA's own context and cuBLAS workspaces
RAM_BESIDE_BYTES = int(4.5 * GIB)  # Python, staging, decoded frames, the video's encoder
RAM_SHARE = 0.75  # of what is free may be pinned: pinned RAM is lost to everybody else
SLOW_DISK_GB_S = 1.0  # below it a step would wait for blocks, so more of them wait in RAM
RAM_SHARE_BESIDE_SLOW_DISK = 0.9
LEAST_RAM_BYTES = int(2.1 * GIB)  # beside two buffers: Python 0.8, decoded frames 1.0, ffmpeg 0.3
REAL_RESOLUTION, LEAST_RESOLUTION = 640, 256  # what the figures above are for, what is of use
WORTH_PINNING = 2 * GIB


STREAMED = (Mode.STREAM, Mode.DISK)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes of a model's parts in the dtypes they are held in."""

    all_parts: int
    blocks: tuple[int, ...]  # of the transformer
    rest: int  # of the transformer
    share: float  # of the real model's activations

    @property
    def transformer(self) -> int:
        return sum(self.blocks) + self.rest

    @property
    def slots(self) -> int:
        return 2 * max(self.blocks, default=0)

    def working(self, at_real_size: int) -> int:
        """What computing needs on top, from what it needs at the real model's size."""
        return int(at_real_size * self.share)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A mode, how many blocks stay on the GPU (None: all), which of the others wait in RAM, and why
    in one sentence."""

    mode: Mode
    resident: int | None = None
    in_ram: frozenset[int] = frozenset()
    why: str = ""


def needs_of(
    model: ModelFolder, transformer: str, itemsize_of: Callable[[str], int], storage: Storage
) -> Needs:
    """Count a model from its files' headers. `itemsize_of` says a part's bytes per number."""
    shapes = {
        part: {name: e.shape for name, e in TensorFiles(model.path / part).entries.items()}
        for part in (*BESIDE_TRANSFORMER, transformer)
    }
    config = model.config(transformer)
    return count_needs(shapes, transformer_width(config), itemsize_of, storage)


def transformer_width(config: dict[str, Any]) -> int:
    """The width that activations grow with."""
    heads, size = config.get("num_attention_heads", 24), config.get("attention_head_dim", 128)
    return int(heads) * int(size)


def count_needs(
    shapes: dict[str, dict[str, tuple[int, ...]]],
    width: int,
    itemsize_of: Callable[[str], int],
    storage: Storage,
) -> Needs:
    """Count a model from the shapes of its parameters: part → name → shape."""
    rest, others, blocks = 0, 0, dict[str, int]()
    for part, parameters in shapes.items():
        for name, shape in parameters.items():
            numbers = math.prod(shape)
            size = numbers * itemsize_of(part)
            if not part.startswith("transformer"):
                others += size
            elif "transformer_blocks." in name:
                block = ".".join(name.split(".")[:2])
                held = numbers if is_fp8(name, shape, storage) else size
                blocks[block] = blocks.get(block, 0) + held
            else:
                rest += size
    sizes = tuple(blocks[name] for name in sorted(blocks, key=_running_order))
    whole = others + rest + sum(sizes)
    return Needs(all_parts=whole, blocks=sizes, rest=rest, share=min(width / REAL_WIDTH, 1.0))


def choose(needs: Needs, machine: Machine, wanted: Mode, *, preserve: int = 0) -> Choice:
    """The best mode for this machine, or the wanted one with its details. `preserve`: bytes of VRAM
    that are left to others while sampling."""
    room = machine.vram_free - preserve - DRIVER_BYTES
    sampling = needs.working(SAMPLING_BYTES)
    slow_disk = machine.disk_gb_s is not None and machine.disk_gb_s < SLOW_DISK_GB_S
    share = RAM_SHARE_BESIDE_SLOW_DISK if slow_disk else RAM_SHARE
    ram = min(int(machine.ram_free * share), machine.ram_free - RAM_BESIDE_BYTES)
    resident = resident_blocks(needs, room - sampling)
    streamed = [i for i in range(len(needs.blocks)) if i not in resident]
    held = [] if wanted is Mode.DISK else waiting_blocks(needs, streamed, ram)
    everything = needs.all_parts + needs.working(WHOLE_DECODING_BYTES)
    worth = 1 if slow_disk else min(WORTH_PINNING, needs.transformer // 4)
    fits = sum(needs.blocks[i] for i in held) >= worth
    modes = (
        (Mode.RESIDENT, everything <= room, f"everything needs {everything / GIB:.1f} GiB VRAM"),
        (
            Mode.SWAP,
            needs.transformer + sampling <= room,
            f"the transformer needs {(needs.transformer + sampling) / GIB:.1f} GiB VRAM",
        ),
        (Mode.STREAM, fits or not streamed, _where(needs, resident, held, machine)),
        (Mode.DISK, True, _where(needs, resident, [], machine)),
    )
    mode, _, why = next(m for m in modes if (m[1] if wanted is Mode.AUTO else m[0] is wanted))
    why = f"{mode}: {'' if wanted is Mode.AUTO else 'asked for; '}{why}, with {machine}"
    if mode in (Mode.RESIDENT, Mode.SWAP):
        return Choice(mode=mode, why=why)
    in_ram = frozenset(held) if mode is Mode.STREAM else frozenset[int]()
    return Choice(mode=mode, resident=len(resident), in_ram=in_ram, why=why)


def waiting_blocks(needs: Needs, streamed: list[int], ram: int) -> list[int]:
    """Which of the streamed blocks wait in that much RAM: as many as fit, and such that the bytes
    read for the others come evenly, block after block."""
    total, spare = sum(needs.blocks[i] for i in streamed), max(ram, 0)
    while spare > 0:
        held = _evenly(needs, streamed, total - min(spare, total))
        if sum(needs.blocks[i] for i in held) <= ram:
            return held
        spare -= needs.slots // 4
    # So little RAM that nearly everything is read: then only their number counts.
    for count in range(len(streamed), 0, -1):
        held = [streamed[i] for i in sorted(spread(len(streamed), count))]
        if sum(needs.blocks[i] for i in held) <= ram:
            return held
    return []


def _evenly(needs: Needs, streamed: list[int], to_read: int) -> list[int]:
    due, held = 0.0, []
    for i in streamed:
        due += to_read / len(streamed)
        if due > needs.blocks[i] / 2:
            due -= needs.blocks[i]
        else:
            held.append(i)
    return held


def refuse_too_small(needs: Needs, machine: Machine) -> str:
    """OutOfMemoryError, with the numbers, where this model can not make even a small video.

    Returns what is to be said of a machine that can make small ones only; else nothing.
    """
    least_ram = needs.slots + needs.working(LEAST_RAM_BYTES)
    if machine.ram_free < least_ram:
        raise OutOfMemoryError(
            f"At least {_gib(least_ram)} GiB of RAM are needed, and {_gib(machine.ram_free)} GiB "
            f"are free ({machine.ram_limit}); close other programs, raise that limit, or use "
            "storage = fp8, whose buffers are half as large."
        )
    if not machine.vram_total:
        return ""
    held = needs.rest + needs.slots + DRIVER_BYTES
    room = machine.vram_free - held
    # What a step needs grows with the picture's area.
    side = REAL_RESOLUTION * math.sqrt(max(room, 0) / max(needs.working(SAMPLING_BYTES), 1))
    decoding = needs.working(TILED_DECODING_BYTES) + DRIVER_BYTES
    if side < LEAST_RESOLUTION or machine.vram_free < decoding:
        small = needs.working(SAMPLING_BYTES) * (LEAST_RESOLUTION / REAL_RESOLUTION) ** 2
        least = max(held + int(small), decoding)
        raise OutOfMemoryError(
            f"At least {_gib(least)} GiB of VRAM are needed, and {_gib(machine.vram_free)} of "
            f"{_gib(machine.vram_total)} GiB are free; {_taken(machine)}"
        )
    if side >= REAL_RESOLUTION:
        return ""
    return f"; it is enough for about {int(side) // 16 * 16} pixels of side, not {REAL_RESOLUTION}"


def _taken(machine: Machine) -> str:
    taken, users = machine.vram_total - machine.vram_free, vram_users()
    if taken < GIB // 2:
        return "use storage = fp8, a smaller model, or device = cpu."
    who = f": {', '.join(users)}" if users else ""
    return f"{_gib(taken)} GiB are taken by other programs{who}. Close them, or wait for them."


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


def _where(needs: Needs, resident: set[int], held: list[int], machine: Machine) -> str:
    in_ram = sum(needs.blocks[i] for i in held)
    read = sum(needs.blocks) - in_ram - sum(needs.blocks[i] for i in resident)
    said = (
        f"of {len(needs.blocks)} blocks {len(resident)} stay on the GPU, {len(held)} wait in RAM "
        f"({_gib(in_ram)} GiB), {len(needs.blocks) - len(resident) - len(held)} are read each step"
    )
    if not read or machine.disk_gb_s is None:
        return said
    return f"{said} ({_gib(read)} GiB, {read / machine.disk_gb_s / 1e9:.1f} s of reading)"


def resident_blocks(needs: Needs, room: int) -> set[int]:
    """As many evenly spread blocks as fit beside slots and rest; all of them need no slots."""
    if needs.transformer <= room:
        return set(range(len(needs.blocks)))
    for count in range(len(needs.blocks) - 1, 0, -1):
        kept = set(spread(len(needs.blocks), count))
        if needs.rest + needs.slots + sum(needs.blocks[i] for i in kept) <= room:
            return kept
    return set()


def _running_order(name: str) -> tuple[bool, int]:
    kind, number = name.split(".")
    return kind.startswith("single"), int(number)


def choose_on_cpu(wanted: Mode, needs: Needs, machine: Machine) -> Choice:
    """A CPU computes where the weights are: they are in RAM, or read when they are needed."""
    if wanted in STREAMED or (wanted is Mode.AUTO and needs.all_parts > machine.ram_free):
        size = f"{needs.all_parts / GIB:.1f} GiB of weights"
        return Choice(mode=Mode.DISK, resident=0, why=f"disk: {size} on a CPU with {machine}")
    return Choice(mode=Mode.RESIDENT, why=f"resident: it computes on the CPU, with {machine}")


def below(choice: Choice, needs: Needs, machine: Machine) -> Choice | None:
    """The next mode that takes less VRAM: fewer resident blocks, at last none."""
    if choice.mode is Mode.RESIDENT:
        return Choice(mode=Mode.SWAP, why="swap: one step below resident")
    if choice.mode is not Mode.SWAP and not choice.resident:
        return None
    kept = (len(needs.blocks) if choice.resident is None else choice.resident) // 2
    wanted = choice.mode if choice.mode in STREAMED else Mode.STREAM
    room = needs.rest + needs.slots + sum(sorted(needs.blocks)[:kept])
    vram = room + needs.working(SAMPLING_BYTES) + DRIVER_BYTES
    return choose(needs, replace(machine, vram_free=vram), wanted)
