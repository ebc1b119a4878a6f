"""What a machine lacks is said before a job is taken, with the numbers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_placement import EIGHT_BIT, REAL, machine

from generator import attention, fp8, modes
from generator import machine as machine_module
from generator.attention import choose_attention, refuse_math
from generator.devices import choose_device
from generator.errors import GeneratorError, InputError, ModelError, OutOfMemoryError
from generator.fp8 import refuse_without_fp8
from generator.machine import GIB, Machine, driver_problem, read_speed, vram_users
from generator.models import ModelFolder
from generator.modes import choose, refuse_too_small
from generator.placement import Placement
from generator.protocol import ErrorKind, Mode, Storage

GPU = torch.device("cuda:0")


def card(free_gib: float, total_gib: float = 8.0, ram_gib: float = 16.0) -> Machine:
    return Machine(
        ram_free=int(ram_gib * GIB),
        ram_limit="the container's limit of 16.0 GiB",
        vram_free=int(free_gib * GIB),
        vram_total=int(total_gib * GIB),
    )


def test_a_card_that_others_use_is_told_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "vram_users", lambda: ["game.exe (4900 MiB)"])
    with pytest.raises(OutOfMemoryError) as caught:
        refuse_too_small(REAL, card(2.8))
    said = str(caught.value)
    assert "At least 3.5 GiB of VRAM are needed, and 2.8 of 8.0 GiB are free" in said
    assert "5.2 GiB are taken by other programs: game.exe (4900 MiB)" in said


def test_a_card_that_is_too_small_for_640_pixels_is_told_how_large() -> None:
    assert refuse_too_small(REAL, card(8.0)) == ""
    assert "about 480 pixels of side, not 640" in refuse_too_small(REAL, card(3.9))
    assert "about 592 pixels" in refuse_too_small(EIGHT_BIT, card(3.9))
    assert refuse_too_small(EIGHT_BIT, card(4.3)) == ""
    with pytest.raises(OutOfMemoryError, match="use storage = fp8, a smaller model"):
        refuse_too_small(REAL, card(2.0, 2.0))


def test_a_containers_limit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        refuse_too_small(REAL, card(8.0, ram_gib=2.5))
    said = str(caught.value)
    assert "At least 3.4 GiB of RAM are needed, and 2.5 GiB are free" in said
    assert "the container's limit of 16.0 GiB" in said


def test_a_placement_is_not_made_on_too_little(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Machine(ram_free=1000, ram_limit="the container's limit of 0.1 GiB")
    monkeypatch.setattr("generator.placement.measure", lambda *_: nothing)
    with pytest.raises(OutOfMemoryError, match=r"container's limit of 0\.1 GiB"):
        Placement(ModelFolder(tiny_model), device="cpu")


def test_a_driver_that_is_too_old_is_told_with_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 11040, raising=False)
    assert "can run CUDA 11.4, and this torch" in (driver_problem() or "")
    for wanted in ("auto", "cuda"):
        with pytest.raises(InputError, match=r"built for CUDA 13\.0; update the driver"):
            choose_device(wanted)
    assert choose_device("cpu").type == "cpu"
    for version in (13000, 13020, 0):  # 0: there is none, so nothing to update
        monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda v=version: v, raising=False)
        assert driver_problem() is None


NO_IMAGE = "CUDA error: no kernel image is available for execution on the device\nand so on"


@pytest.mark.parametrize(
    ("capability", "built_for", "remedy"),
    [
        ((12, 0), ["sm_80", "sm_90"], "+cu130 --index-url https://download.pytorch.org/whl/cu130)"),
        ((6, 1), ["sm_75", "sm_120"], "+cu126 --index-url https://download.pytorch.org/whl/cu126)"),
        ((3, 5), ["sm_50", "sm_90"], "No build has any for so old a card; set device = cpu"),
    ],
)
@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:0"])
def test_a_torch_without_kernels_for_the_card_is_told_with_the_build_that_has_them(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    capability: tuple[int, int],
    built_for: list[str],
    remedy: str,
) -> None:
    def no_kernel(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError(NO_IMAGE)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "the card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built_for)
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(InputError) as caught:
        choose_device(wanted)
    said = str(caught.value)
    major, minor = capability
    assert f"no kernels for the card (compute capability {major}.{minor})" in said
    assert f"it has them for {' '.join(built_for)}" in said
    assert remedy in said
    assert choose_device("cpu").type == "cpu"


def test_a_card_that_does_not_compute_is_told_but_a_full_one_later_with_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors might be")

    def fail(*_: Any, **__: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(InputError, match=r"'cuda:7', but torch sees 1 NVIDIA GPUs"):
        choose_device("cuda:7")
    error = RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nand so on")
    with pytest.raises(
        GeneratorError, match=r"cuda:0 does not compute: .* unavailable\.$"
    ) as caught:
        choose_device("cuda")
    assert caught.value.kind is ErrorKind.INTERNAL  # the bot tries such a thing again
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert choose_device("auto") == GPU
    monkeypatch.setattr(torch, "ones", lambda *_, **__: None)
    assert choose_device("cuda") == GPU


def test_8_bits_that_a_device_can_not_convert(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for storage in Storage:
        refuse_without_fp8(cpu, storage)

    def unable(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("\"copy_\" not implemented for 'Float8_e4m3fn'\nand so on")

    monkeypatch.setattr(fp8.torch, "ones", unable)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GTX 1080")
    refuse_without_fp8(GPU, Storage.NATIVE)
    with pytest.raises(ModelError, match=r"GTX 1080 \(compute capability 6\.1\).*Float8_e4m3fn"):
        refuse_without_fp8(GPU, Storage.FP8)


def test_the_kernel_that_keeps_all_scores_is_refused_before_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_math(torch.device("cpu"), torch.float32)  # nothing is asked of a CPU
    query = torch.zeros(1, 1, 64, 128)
    monkeypatch.setattr(attention, "_KERNELS", [attention.SDPBackend.CUDNN_ATTENTION])
    with (
        pytest.raises(ModelError, match=r"about 28 GiB at 608×640.*install xformers"),
        attention.refusing_math(torch.device("cpu")),
    ):
        torch.nn.functional.scaled_dot_product_attention(query, query, query)


@pytest.mark.parametrize(
    ("capability", "installed", "dtype", "backend"),
    [
        ((8, 6), set(), torch.bfloat16, "native"),
        ((8, 6), {"xformers", "flash", "sage"}, torch.bfloat16, "native"),
        ((7, 5), {"xformers"}, torch.float16, "xformers"),
        ((7, 5), {"flash", "sage"}, torch.float16, "native"),
        ((7, 5), {"xformers"}, torch.float32, "native"),
    ],
)
def test_attention_by_card_and_by_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    installed: set[str],
    dtype: torch.dtype,
    backend: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(attention, "_is_installed", lambda name: name in installed)
    monkeypatch.setattr(attention, "_try_out", lambda *_: None)
    assert choose_attention("auto", GPU, dtype) == backend
    for wanted in ("flash", "sage", "xformers"):
        if wanted in installed:
            assert choose_attention(wanted, GPU, dtype) == wanted
        else:
            with pytest.raises(ModelError, match="is not installed; install it, or set"):
                choose_attention(wanted, GPU, dtype)


def test_a_slow_disk_has_more_blocks_wait_in_ram_and_is_told() -> None:
    fast, slow = (
        choose(REAL, Machine(**{**vars_of(machine(8, 16)), "disk_gb_s": speed}), Mode.AUTO)
        for speed in (3.0, 0.2)
    )
    held = [sum(REAL.blocks[i] for i in choice.in_ram) / GIB for choice in (fast, slow)]
    assert held[0] <= held[1] <= 16 - 4.5
    assert "s of reading), with" in slow.why and "a disk that reads 0.2 GB/s" in slow.why
    # So little RAM that it is not worth it, but where reading is slow.
    modes_of = [
        choose(REAL, Machine(**{**vars_of(machine(8, 5.5)), "disk_gb_s": speed}), Mode.AUTO).mode
        for speed in (3.0, 0.2)
    ]
    assert modes_of == [Mode.DISK, Mode.STREAM]


def vars_of(one: Machine) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Machine.__dataclass_fields__}


def test_the_disk_is_measured_past_the_file_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_module, "MEASURED_ABOVE_BYTES", 2**20)
    monkeypatch.setattr(machine_module, "FASTEST_DISK_GB_S", 1e9)
    (tmp_path / "a.safetensors").write_bytes(os.urandom(2**24))
    speed = read_speed(tmp_path)
    assert speed is not None and speed > 0
    (tmp_path / "a.safetensors").unlink()
    assert read_speed(tmp_path) == speed  # it was asked before
    assert read_speed(tmp_path.parent) is None  # there is nothing to measure
    read_speed.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_who_holds_the_cards_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vram_users() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '/usr/bin/blender, 1200'\necho 'C:\\\\g.exe, [N/A]'\n")
    program.chmod(0o755)
    assert vram_users()[0] == "blender (1200 MiB)"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert vram_users() == []
