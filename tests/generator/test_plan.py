"""The plan: counted from the real classes, held against goals, measurements and hand arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import peak_of_forward
import pytest
import torch
from torch import nn

from generator.__main__ import main
from generator.counting import Count, Fake
from generator.machine import GIB, Machine
from generator.modes import Choice, Needs, choose, count_needs
from generator.plan import (
    Counts,
    Speeds,
    Step,
    count_parts,
    read_configs,
    simulate,
    transformer_inputs,
)
from generator.protocol import Mode, Storage

SIZE = (608, 640)
MACHINE = Machine(ram_free=32 * GIB, ram_limit="a test", vram_free=8 * GIB, vram_total=8 * GIB)
LEAN = Choice(mode=Mode.STREAM, resident=0, in_ram=frozenset(range(60)))


@pytest.fixture(scope="module")
def real() -> Counts:
    """FramePack's own model at 608×640, 9 latent frames a section."""
    return count_parts(read_configs(None), SIZE, 9, Storage.NATIVE)


@pytest.fixture(scope="module")
def real_fp8() -> Needs:
    from diffusers import HunyuanVideoFramepackTransformer3DModel as Transformer

    config = read_configs(None)["transformer"]
    with torch.device("meta"):
        module = Transformer.from_config(config)
    shapes = {"transformer": {name: tuple(p.shape) for name, p in module.named_parameters()}}
    return count_needs(shapes, 3072, lambda _: 2, Storage.FP8)


def test_the_real_model_has_its_published_size(real: Counts) -> None:
    numbers = real.part_bytes["transformer"] / 2
    assert numbers == pytest.approx(12.874e9, rel=1e-3)
    assert len(real.needs.blocks) == 60
    assert real.needs.blocks[0] / 2**20 == pytest.approx(648, abs=1)
    assert real.needs.blocks[-1] / 2**20 == pytest.approx(270, abs=1)
    assert real.part_bytes["text_encoder"] / GIB == pytest.approx(14.0, abs=0.1)
    assert real.part_bytes["vae"] / GIB == pytest.approx(0.46, abs=0.05)


def test_activations_are_what_was_measured_elsewhere(real: Counts) -> None:
    assert real.sample.peak_bytes / GIB == pytest.approx(2.0, rel=0.05)


def test_operations_fit_the_speed_of_a_4090(real: Counts) -> None:
    # 3.6 s a step, and not more than the card's 165 TFLOP/s in bfloat16.
    assert 100 < real.sample.flops / 3.6 / 1e12 < 165


def test_stream_needs_at_most_5_gib_in_bf16_and_4_2_in_fp8(real: Counts, real_fp8: Needs) -> None:
    native = real.needs.rest + real.needs.slots + real.sample.peak_bytes
    assert native <= 5.0 * GIB
    largest_cast = 2 * 6 * 3072 * 3072
    eighth = real_fp8.rest + real_fp8.slots + real.sample.peak_bytes + largest_cast
    assert eighth <= 4.2 * GIB
    assert real_fp8.transformer / GIB == pytest.approx(12.3, abs=0.4)


def test_every_stage_fits_into_8_gib(real: Counts) -> None:
    assert real.part_bytes["vae"] + real.decode.peak_bytes <= 4 * GIB
    assert 2 * real.layer_bytes + real.text.peak_bytes <= 2 * GIB


def test_disk_mode_pins_at_most_2_gib(real: Counts) -> None:
    step = simulate(real, Choice(mode=Mode.DISK, resident=0), Speeds())
    assert step.read == step.copied == sum(real.needs.blocks)
    assert real.needs.slots <= 2 * GIB


def test_streaming_from_ram_hides_the_whole_transfer(real: Counts) -> None:
    step = simulate(real, LEAN, Speeds())
    assert step.copied == sum(real.needs.blocks)
    assert step.stalled_share <= 0.05
    assert step.compute_s == pytest.approx(3.6, rel=0.05)


def test_a_slow_bus_is_not_hidden(real: Counts) -> None:
    step = simulate(real, LEAN, Speeds(pcie_gb_s=2.5))
    whole = sum(real.needs.blocks) / 2.5e9
    assert step.compute_s + step.stall_s == pytest.approx(whole, rel=0.15)


def test_8_gib_of_vram_and_16_of_ram_stream_with_little_waiting(real: Counts) -> None:
    machine = replace(MACHINE, ram_free=16 * GIB)
    choice = choose(real.needs, machine, Mode.AUTO)
    assert choice.mode is Mode.STREAM and choice.resident
    assert simulate(real, choice, Speeds(tflops=25)).stalled_share <= 0.05  # an RTX 3060


def made_up(blocks: list[int], flops: list[int]) -> Counts:
    nothing = Count(peak_bytes=0, flops=0, blocks=[])
    return Counts(
        needs=Needs(all_parts=sum(blocks), blocks=tuple(blocks), rest=0, share=1.0),
        part_bytes={},
        layer_bytes=0,
        cast_bytes=0,
        chunk_bytes=0,
        text=nothing,
        image=nothing,
        encode=nothing,
        sample=Count(peak_bytes=0, flops=sum(flops), blocks=flops),
        decode=nothing,
    )


SECOND = Speeds(tflops=1e-12, pcie_gb_s=1e-9, disk_gb_s=1e-9)  # one byte, one operation: one second


@pytest.mark.parametrize(
    ("blocks", "flops", "choice", "stall"),
    [
        (
            [1, 1, 1],
            [2, 2, 2],
            Choice(mode=Mode.STREAM, resident=0, in_ram=frozenset({0, 1, 2})),
            0.0,
        ),
        (
            [3, 3, 3],
            [2, 2, 2],
            Choice(mode=Mode.STREAM, resident=0, in_ram=frozenset({0, 1, 2})),
            3.0,
        ),
        ([3, 3, 3], [2, 2, 2], Choice(mode=Mode.STREAM, resident=3), 0.0),
        # Reading goes on while copies wait, so a block costs a read, not a read and a copy.
        ([3, 3, 3, 3], [2, 2, 2, 2], Choice(mode=Mode.DISK, resident=0), 4.0),
        # Every second block is read, in the time of two.
        (
            [3, 3, 3, 3],
            [4, 4, 4, 4],
            Choice(mode=Mode.STREAM, resident=0, in_ram=frozenset({0, 2})),
            0.0,
        ),
    ],
)
def test_steps_on_paper(blocks: list[int], flops: list[int], choice: Choice, stall: float) -> None:
    step = simulate(made_up(blocks, flops), choice, SECOND)
    if choice.mode is Mode.DISK:
        assert step.stall_s == pytest.approx(stall, abs=4.0)
    else:
        assert step == Step(compute_s=sum(flops), stall_s=stall, copied=step.copied, read=step.read)


class Twice(nn.Module):
    """Holds one more copy of its input while it adds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + x


def test_counting_by_hand() -> None:
    with Fake() as fake:
        module = fake.module(lambda: nn.Sequential(Twice(), Twice(), Twice()), torch.float32)
        x = torch.empty(1024, 64)
        whole = fake.count(module, lambda: module(x))
        repeated = fake.count(module, lambda: module(x), list(module))
    tensor = 1024 * 64 * 4
    # The input, the block's product and its sum; the second block holds the first one's sum.
    assert whole.peak_bytes in (2 * tensor, 3 * tensor)
    assert whole.flops == 3 * 2 * 1024 * 64 * 64
    assert repeated.flops == whole.flops and repeated.peak_bytes == whole.peak_bytes
    assert repeated.blocks == [whole.flops // 3] * 3


def test_attention_is_counted_without_scores() -> None:
    with Fake() as fake:
        query = torch.empty(1, 2, 4096, 64, dtype=torch.bfloat16)
        attend = nn.functional.scaled_dot_product_attention
        count = fake.count(nn.Identity(), lambda: attend(query, query, query))
    assert count.flops == 4 * 2 * 4096 * 4096 * 64
    assert count.peak_bytes < 2 * 4096 * 4096


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_middle_sized_model_takes_what_was_counted() -> None:
    with Fake() as fake:
        module = fake.module(peak_of_forward.build, torch.float32)
        call = transformer_inputs(
            module.config, peak_of_forward.SIZE, peak_of_forward.WINDOW, torch.float32
        )
        blocks = [*module.transformer_blocks, *module.single_transformer_blocks]
        counted = fake.count(module, lambda: module(**call, return_dict=False), blocks)
    # Without this glibc keeps freed memory for later, up to 32 MiB a piece.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, Path(peak_of_forward.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == pytest.approx(counted.peak_bytes, rel=0.15)


def test_the_command_prints_a_table(
    real: Counts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.plan.count_parts", lambda *_: real)
    words = ["plan", "--vram", "8", "--ram", "16", "--resolution", "640", "--seconds", "10"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "8 sections of 25 passes" in said and "placement  stream" in said
    assert "--tflops" in said and "25 GB/s" in said
    table = said.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table[1:]] == STAGES


STAGES = ["text", "image", "sampling", "decode", "encode"]
