"""Which mode a machine gets and why, that it changes no byte, and that memory is given back."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import sampled, small_request, small_workshop
from torch._subclasses.fake_tensor import FakeTensor

from generator import machine as machine_module
from generator import placement as placement_module
from generator.attention import choose_attention
from generator.devices import HostDevice
from generator.errors import InputError, ModelError, OutOfMemoryError
from generator.machine import GIB, Machine, free_ram
from generator.models import ModelFolder
from generator.modes import Needs, choose, needs_of, resident_blocks, waiting_blocks
from generator.placement import Placement
from generator.protocol import JobRequest, Mode, StepCacheKind, Storage, Variant
from generator.workshop import Workshop

MIB = 2**20
REAL = Needs(
    all_parts=int(39.6 * GIB),
    blocks=(648 * MIB,) * 20 + (270 * MIB,) * 40,
    rest=int(0.78 * GIB),
    share=1.0,
)
EIGHT_BIT = Needs(
    all_parts=int(28 * GIB),
    blocks=(324 * MIB,) * 20 + (135 * MIB,) * 40,
    rest=int(0.78 * GIB),
    share=1.0,
)


def machine(vram_gib: float, ram_gib: float) -> Machine:
    vram = int(vram_gib * GIB)
    return Machine(ram_free=int(ram_gib * GIB), ram_limit="a test", vram_free=vram, vram_total=vram)


@pytest.mark.parametrize(
    ("vram", "ram", "needs", "mode"),
    [
        (80, 64, REAL, Mode.RESIDENT),
        (32, 64, REAL, Mode.SWAP),
        (24, 32, REAL, Mode.STREAM),
        (12, 32, REAL, Mode.STREAM),
        (8, 32, REAL, Mode.STREAM),
        (8, 16, REAL, Mode.STREAM),
        (8, 6, REAL, Mode.DISK),
        (8, 16, EIGHT_BIT, Mode.STREAM),
        (6, 6, EIGHT_BIT, Mode.DISK),
    ],
)
def test_a_machine_gets_the_best_mode_it_can_hold(
    vram: float, ram: float, needs: Needs, mode: Mode
) -> None:
    choice = choose(needs, machine(vram, ram), Mode.AUTO)
    assert choice.mode is mode
    assert str(mode) in choice.why and "a test" in choice.why


def test_blocks_in_ram_leave_room_for_everybody_else() -> None:
    choice = choose(REAL, machine(8, 16), Mode.AUTO)
    held = sum(REAL.blocks[i] for i in choice.in_ram)
    assert 8 * GIB < held < 12 * GIB
    assert choose(REAL, machine(8, 16), Mode.DISK).in_ram == frozenset()


def test_little_ram_is_used_too() -> None:
    held = waiting_blocks(REAL, list(range(60)), 3 * GIB)
    assert 2 * GIB < sum(REAL.blocks[i] for i in held) <= 3 * GIB


@pytest.mark.parametrize("ram_gib", [8, 13, 20])
def test_what_is_not_in_ram_is_read_evenly(ram_gib: int) -> None:
    streamed = list(range(60))
    held = set(waiting_blocks(REAL, streamed, ram_gib * GIB))
    assert sum(REAL.blocks[i] for i in held) <= ram_gib * GIB
    assert sum(REAL.blocks[i] for i in held) > (ram_gib - 1.3) * GIB
    read = [0 if i in held else REAL.blocks[i] for i in streamed]
    expected = sum(read) / 60
    for i in range(1, 60):  # never more than two blocks away from an even flow
        assert abs(sum(read[:i]) - i * expected) <= 2 * max(REAL.blocks)


def test_a_wanted_mode_is_taken_with_its_details() -> None:
    choice = choose(REAL, machine(80, 64), Mode.STREAM)
    assert choice.mode is Mode.STREAM and "asked for" in choice.why


def test_vram_that_is_preserved_is_not_filled_with_blocks() -> None:
    alone = choose(REAL, machine(16, 64), Mode.STREAM)
    shared = choose(REAL, machine(16, 64), Mode.STREAM, preserve=6 * GIB)
    assert alone.resident and shared.resident is not None
    saved = sum(REAL.blocks) * (alone.resident - shared.resident) / len(REAL.blocks)
    assert saved == pytest.approx(6 * GIB, rel=0.2)


@pytest.mark.parametrize("room_gib", [2.0, 5.0, 12.0, 24.0, 30.0])
def test_resident_blocks_fit_beside_slots_and_rest(room_gib: float) -> None:
    kept = resident_blocks(REAL, int(room_gib * GIB))
    slots = REAL.slots if len(kept) < len(REAL.blocks) else 0
    used = REAL.rest + slots + sum(REAL.blocks[i] for i in kept)
    assert not kept or used <= room_gib * GIB
    assert len(kept) == len(REAL.blocks) or used + 2 * max(REAL.blocks) > room_gib * GIB


def test_needs_are_counted_from_the_files(tiny_model: Path) -> None:
    model = ModelFolder(tiny_model)
    needs = needs_of(model, "transformer", lambda _: 4, Storage.NATIVE)
    expected = model.load("transformer", torch.float32)
    numbers = sum(p.numel() for p in expected.parameters())
    assert needs.transformer == 4 * numbers
    assert len(needs.blocks) == 4
    first = sum(p.numel() for p in expected.transformer_blocks[0].parameters())
    assert needs.blocks[0] == 4 * first
    eighth = needs_of(model, "transformer", lambda _: 4, Storage.FP8)
    assert sum(eighth.blocks) < 0.3 * sum(needs.blocks) and eighth.rest == needs.rest


class Workshops:
    """Workshops whose placements are unloaded at the end."""

    def __init__(self, model: Path):
        self._model, self._placements = model, list[Placement]()

    def __call__(self, **changes: Any) -> Workshop:
        workshop = small_workshop(self._model)
        workshop.placement = Placement(ModelFolder(self._model), device="cpu", **changes)
        self._placements.append(workshop.placement)
        return workshop

    def close(self) -> None:
        for placement in self._placements:
            placement.unload()


@pytest.fixture
def workshop_with(tiny_model: Path) -> Iterator[Workshops]:
    """Opens a workshop whose placement has these settings."""
    workshops = Workshops(tiny_model)
    yield workshops
    workshops.close()


def latents_of(workshop: Workshop, folder: Path, request: JobRequest) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    return sampled(workshop, folder, request)["latents"]


CACHES: list[dict[str, Any]] = [
    {},
    {"step_cache": StepCacheKind.TEACACHE, "step_cache_threshold": 0.3},
    {"step_cache": StepCacheKind.FIRST_BLOCK, "step_cache_threshold": 0.5},
    {"step_cache": StepCacheKind.MAGCACHE, "step_cache_threshold": 0.2},
]


@pytest.mark.parametrize("cache", CACHES, ids=lambda c: str(c.get("step_cache", "every step")))
def test_a_whole_job_has_the_same_latents_from_disk(
    tiny_model: Path, tmp_path: Path, workshop_with: Workshops, cache: dict[str, Any]
) -> None:
    request = small_request(
        steps=6, variant=Variant.F1, true_cfg_scale=2.0, negative_prompt="fog", **cache
    )
    expected = latents_of(small_workshop(tiny_model), tmp_path / "a", request)
    found = latents_of(workshop_with(mode=Mode.DISK), tmp_path / "b", request)
    assert torch.equal(found, expected)


def test_a_skipped_step_reads_no_block(tmp_path: Path, workshop_with: Workshops) -> None:
    def bytes_read(threshold: float) -> int:
        workshop = workshop_with(mode=Mode.DISK)
        request = small_request(
            steps=8,
            seconds=0.1,
            step_cache=StepCacheKind.TEACACHE,
            step_cache_threshold=threshold,
        )
        latents_of(workshop, tmp_path / str(threshold), request)
        (made,) = workshop.placement._assembled.values()
        return made.files.bytes_read

    assert bytes_read(1.0) < 0.5 * bytes_read(0.0001)


def test_parts_leave_when_they_are_done_and_the_transformer_waits(
    tmp_path: Path, workshop_with: Workshops
) -> None:
    workshop = workshop_with(mode=Mode.DISK)
    latents_of(workshop, tmp_path, small_request())
    assert workshop.placement.is_loaded("transformer")
    assert not any(
        workshop.placement.is_loaded(p) for p in ("vae", "text_encoder", "image_encoder")
    )
    workshop.placement.unload()


def test_unload_gives_everything_back(tmp_path: Path, workshop_with: Workshops) -> None:
    threads = threading.active_count()
    workshop = workshop_with(mode=Mode.DISK)
    request = small_request()
    first = latents_of(workshop, tmp_path / "a", request)
    workshop.placement.unload()
    assert not workshop.placement.is_loaded("transformer")
    assert not workshop.placement._assembled and not workshop.placement._waiting
    assert threading.active_count() == threads
    assert torch.equal(latents_of(workshop, tmp_path / "b", request), first)


class CountingDevice(HostDevice):
    """Counts what is pinned; as on a GPU, host bytes go through buffers."""

    staged = True
    pinned = 0

    def pin(self, buffer: torch.Tensor) -> Callable[[], None]:
        CountingDevice.pinned += buffer.nbytes

        def unpin() -> None:
            CountingDevice.pinned -= buffer.nbytes

        return unpin


def live_bytes() -> int:
    """Of all tensors with bytes that anybody in this process still holds."""
    gc.collect()
    tensors = [
        each
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor) and type(each) is not FakeTensor
    ]
    storages = [t.untyped_storage() for t in tensors if t.device.type == "cpu"]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@pytest.mark.parametrize("in_ram", [frozenset[int](), frozenset({0, 1, 2}), None])
def test_no_tensor_and_no_pinned_byte_stays_after_unload(
    tmp_path: Path,
    workshop_with: Workshops,
    monkeypatch: pytest.MonkeyPatch,
    in_ram: frozenset[int] | None,
) -> None:
    monkeypatch.setattr(placement_module, "HostDevice", CountingDevice)
    before = live_bytes()
    placement = workshop_with(mode=Mode.DISK if in_ram is not None else Mode.RESIDENT).placement
    if in_ram is not None:
        placement._choice = replace(placement._choice, mode=Mode.STREAM, in_ram=in_ram)
    request = small_request()
    for _ in range(2):
        latents_of(Workshop(placement=placement), tmp_path, request)
        vram, ram = placement.held()
        assert vram == 0 and ram > 0
        assert (CountingDevice.pinned > 0) is (in_ram is not None)
        assert live_bytes() - before >= ram
        placement.unload()
        assert CountingDevice.pinned == 0 and placement.held() == (0, 0)
        assert live_bytes() == before


def test_eight_bits_change_the_latents_a_little_wherever_they_lie(
    tiny_model: Path, tmp_path: Path, workshop_with: Workshops
) -> None:
    request = small_request()
    native = latents_of(small_workshop(tiny_model), tmp_path / "a", request)
    resident = latents_of(workshop_with(storage=Storage.FP8), tmp_path / "b", request)
    workshop = workshop_with(storage=Storage.FP8, mode=Mode.DISK)
    assert torch.equal(latents_of(workshop, tmp_path / "c", request), resident)
    assert 0 < (resident - native).abs().max() < 0.5


def test_a_cpu_without_room_reads_from_disk(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.modes.LEAST_RAM_BYTES", 0)
    needs = Placement(ModelFolder(tiny_model), device="cpu").needs
    small = Machine(ram_free=needs.all_parts - 1, ram_limit="the container's limit of 0.0 GiB")
    monkeypatch.setattr(placement_module, "measure", lambda *_: small)
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    assert placement.mode is Mode.DISK and "container" in placement.why


def test_out_of_memory_is_told_with_numbers(tiny_model: Path) -> None:
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    with pytest.raises(OutOfMemoryError, match=r"vae \(resident; .* GiB RAM"):  # noqa: SIM117
        with placement.on_gpu("vae"):
            raise torch.OutOfMemoryError("CUDA out of memory")
    assert not placement.is_loaded("vae")


def test_a_lower_placement_is_chosen_when_the_memory_is_given_back(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = Placement(ModelFolder(tiny_model), device="cpu")
    with placement.on_gpu("vae"):
        pass
    held_when_measured = []

    def measured() -> Machine:
        held_when_measured.append(placement.held())
        return machine(80, 64)

    monkeypatch.setattr(placement, "_measure", measured)
    monkeypatch.setattr(placement, "device", torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert placement.held() != (0, 0)
    placement.lower()
    assert held_when_measured == [(0, 0)]


def test_below_each_mode_is_one_with_less_on_the_gpu() -> None:
    choice = choose(REAL, machine(80, 64), Mode.AUTO)
    seen = []
    while choice is not None:
        seen.append((choice.mode, choice.resident))
        choice = placement_module.below(choice, REAL, machine(80, 64))  # type: ignore[assignment]
    modes = [mode for mode, _ in seen]
    assert modes[:3] == [Mode.RESIDENT, Mode.SWAP, Mode.STREAM]
    counts = [count for _, count in seen[2:]]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 0  # type: ignore[type-var]


def test_a_device_that_is_not_there_is_refused(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="tpu"):
        Placement(ModelFolder(tiny_model), device="tpu")


def test_an_attention_that_is_not_installed_is_refused() -> None:
    cpu = torch.device("cpu")
    assert choose_attention("auto", cpu, torch.float32) == "native"
    with pytest.raises(ModelError, match="sageattention is not installed"):
        choose_attention("sage", cpu, torch.bfloat16)
    with pytest.raises(ModelError, match="must be one of"):
        choose_attention("math", cpu, torch.bfloat16)


MEMINFO = "MemTotal: 32000000 kB\nMemAvailable: 16000000 kB\n"
linux_only = pytest.mark.skipif(sys.platform == "win32", reason="reads /proc")


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        file = root / name.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@linux_only
def test_ram_without_a_container(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/\n")
    assert free_ram(tmp_path) == (16_000_000 * 1024, "what the machine has left")


@linux_only
def test_a_containers_limit_counts_without_the_page_cache(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/bot/inner\n")
    group = {"memory_DOT_max": str(4 * GIB), "memory_DOT_current": str(3 * GIB)}
    group |= {"memory_DOT_stat": f"anon 5\ninactive_file {GIB}\n"}
    write(tmp_path, **{f"sys__fs__cgroup__bot__{name}": text for name, text in group.items()})
    write(tmp_path, sys__fs__cgroup__bot__inner__memory_DOT_max="max\n")
    free, limit = free_ram(tmp_path)
    assert free == 2 * GIB and limit == "the container's limit of 4.0 GiB"


@linux_only
def test_the_older_kind_of_container(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="7:cpu,memory:/job\n")
    base = "sys__fs__cgroup__memory__job__memory_DOT_"
    write(tmp_path, **{f"{base}limit_in_bytes": str(2 * GIB), f"{base}usage_in_bytes": str(GIB)})
    assert free_ram(tmp_path)[0] == GIB
    write(tmp_path, **{f"{base}limit_in_bytes": str(2**63 - 4096)})
    assert free_ram(tmp_path)[0] == 16_000_000 * 1024


def test_this_machine_has_a_plausible_amount() -> None:
    found = machine_module.measure(torch.device("cpu"))
    assert 0 < found.ram_free < 2**50 and "GiB RAM" in str(found)
