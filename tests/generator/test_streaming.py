"""Blocks that pass through slots compute the same bytes, and every copy is where it should be."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generator.assembly import Recipe, assemble, spread
from generator.block_sources import BlockSource, lay_out
from generator.devices import HostDevice
from generator.errors import ModelError
from generator.fp8 import convert, converted_folder, is_fp8
from generator.models import ModelFolder
from generator.protocol import Storage
from generator.streaming import BlockStream, cast_on_use
from generator.tensor_files import TensorFiles, read_header

CPU = torch.device("cpu")
WIDTH = 8


class RecordingDevice(HostDevice):
    """Copies at once, and writes down what a real device would have been asked for."""

    def __init__(self, *, staged: bool = False) -> None:
        self.staged = staged
        self.events: list[tuple[str, Any]] = []
        self.copies = 0

    def start_copy(self, slot: Tensor, host: Tensor, after: Any) -> Any:
        super().start_copy(slot, host, after)
        self.copies += 1
        # The first weight of block i is i.
        self.events.append(("copy", int(slot[:4].view(torch.float32).item())))
        self.events.append(("after", after))
        return self.copies

    def await_copy(self, copy: Any) -> None:
        self.events.append(("await", copy))

    def computed(self) -> Any:
        self.events.append(("computed", len(self.events)))
        return len(self.events)

    def of(self, *kinds: str) -> list[tuple[str, Any]]:
        return [event for event in self.events if event[0] in kinds]


class NamedBlock(nn.Module):
    """Adds its weight; says that it computes."""

    def __init__(self, index: int, device: RecordingDevice):
        super().__init__()
        self.weight = nn.Parameter(torch.full((WIDTH,), float(index)), requires_grad=False)
        self.device = device

    def forward(self, x: Tensor) -> Tensor:
        self.device.events.append(("compute", int(self.weight[0].item())))
        return x + self.weight


@pytest.fixture
def files(tmp_path: Path) -> Iterator[TensorFiles]:
    tensors = {f"{i}.weight": torch.full((WIDTH,), float(i)) for i in range(5)}
    save_file(tensors, tmp_path / "blocks.safetensors")
    opened = TensorFiles(tmp_path)
    yield opened
    opened.close()


def stream_of(
    files: TensorFiles, device: RecordingDevice, in_ram: int
) -> tuple[list[NamedBlock], BlockStream]:
    blocks = [NamedBlock(i, device) for i in range(5)]
    layouts = {
        i: lay_out({"weight": f"{i}.weight"}, files, lambda _: torch.float32) for i in range(5)
    }
    source = BlockSource(layouts, files, device, spread(5, in_ram))
    return blocks, BlockStream(blocks, source, device)


def test_the_next_copy_starts_before_a_block_computes(files: TensorFiles) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 5)
    for block in blocks * 2:
        block(torch.zeros(WIDTH))
    order = device.of("copy", "compute")
    expected = [("copy", 0)]
    for _ in range(2):
        for i in range(5):
            expected += [("copy", (i + 1) % 5), ("compute", i)]
    assert order == expected
    stream.close()


def test_a_block_waits_for_its_own_copy_and_a_copy_for_the_slots_last_use(
    files: TensorFiles,
) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 5)
    for block in blocks:
        block(torch.zeros(WIDTH))
    assert [copy for _, copy in device.of("await")] == [1, 2, 3, 4, 5]
    marks = [mark for _, mark in device.of("computed")]
    released = [mark for _, mark in device.of("after")]
    # Two slots were free from the start; then each copy waits for the block before the last one.
    assert [mark - 1 for mark in released] == [marks[0], marks[1], *marks[2:6]]
    stream.close()


def test_a_skipped_step_copies_nothing(files: TensorFiles) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 5)
    for _ in range(3):  # as FirstBlockCache runs when it finds nothing new
        blocks[0](torch.zeros(WIDTH))
    assert device.of("copy") == [("copy", 0), ("copy", 1)]
    stream.close()


def test_an_unusual_order_is_right_too(files: TensorFiles) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 5)
    for i in (3, 0, 4, 1, 1, 0, 2):
        assert blocks[i](torch.zeros(WIDTH)).tolist() == [float(i)] * WIDTH
    stream.close()


@pytest.mark.parametrize("staged", [True, False])
def test_files_are_read_by_a_thread_of_their_own(files: TensorFiles, staged: bool) -> None:
    device = RecordingDevice(staged=staged)
    blocks, stream = stream_of(files, device, 0)
    for i, block in enumerate(blocks * 2):
        assert block(torch.zeros(WIDTH)).tolist() == [float(i % 5)] * WIDTH
    assert "blocks_0" in {thread.name for thread in threading.enumerate()}
    stream.close()
    assert "blocks_0" not in {thread.name for thread in threading.enumerate()}
    copied = [i for _, i in device.of("copy")]
    assert copied[:10] == [0, 1, 2, 3, 4] * 2  # each once a round
    assert copied[10:] in ([], [0])  # and the next round's first, if the end came late enough


@pytest.mark.parametrize("in_ram", [1, 2])
def test_some_blocks_wait_in_ram_and_the_others_are_read(files: TensorFiles, in_ram: int) -> None:
    device = RecordingDevice(staged=True)
    blocks, stream = stream_of(files, device, in_ram)
    for i, block in enumerate(blocks * 3):
        assert block(torch.zeros(WIDTH)).tolist() == [float(i % 5)] * WIDTH
    read_at_once = in_ram * WIDTH * 4
    stream.close()
    each_round = (5 - in_ram) * WIDTH * 4
    # Three rounds, and at most the two blocks that were read ahead of the next one.
    assert 0 <= files.bytes_read - read_at_once - 3 * each_round <= 2 * WIDTH * 4
    assert [i for _, i in device.of("copy")][:15] == [0, 1, 2, 3, 4] * 3


def test_a_file_is_read_while_a_block_computes(files: TensorFiles) -> None:
    device = RecordingDevice(staged=True)
    blocks, stream = stream_of(files, device, 0)
    overlapped = threading.Event()
    start = device.start_copy

    def copy(slot: Tensor, host: Tensor, after: Any) -> Any:
        mark = start(slot, host, after)
        if device.of("copy")[-1] == ("copy", 1):
            overlapped.set()
        return mark

    device.start_copy = copy  # type: ignore[method-assign]
    blocks[0].device = SlowEvents(overlapped)  # type: ignore[assignment]
    assert blocks[0](torch.zeros(WIDTH)).tolist() == [0.0] * WIDTH
    stream.close()


class SlowEvents:
    """A block that ends only once the copy of the next one was made."""

    def __init__(self, overlapped: threading.Event):
        self.events = self
        self._overlapped = overlapped

    def append(self, event: tuple[str, Any]) -> None:
        assert self._overlapped.wait(10), "block 1 was not copied while block 0 computed"


def test_a_block_that_is_away_can_not_be_read_by_mistake(files: TensorFiles) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 5)
    for block in blocks:
        block(torch.zeros(WIDTH))
    assert [block.weight.is_meta for block in blocks] == [True, True, True, True, False]
    stream.close()
    assert all(block.weight.is_meta for block in blocks)


def test_a_read_that_fails_is_raised_where_the_block_is_needed(files: TensorFiles) -> None:
    device = RecordingDevice()
    blocks, stream = stream_of(files, device, 0)
    blocks[0](torch.zeros(WIDTH))
    files.entries.pop("2.weight")
    blocks[1](torch.zeros(WIDTH))
    with pytest.raises(ModelError, match=r"no tensor 2\.weight"):
        blocks[2](torch.zeros(WIDTH))
    stream.close()


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """A call of the tiny transformer with all of its history."""
    draw = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    return {
        "hidden_states": random(1, 16, 2, 8, 8),
        "timestep": torch.tensor([500.0]).to(dtype),
        "guidance": torch.tensor([10000.0]).to(dtype),
        "encoder_hidden_states": random(1, 7, 32),
        "encoder_attention_mask": torch.ones(1, 7, dtype=torch.bool),
        "pooled_projections": random(1, 24),
        "image_embeds": random(1, 16, 40),
        "indices_latents": torch.arange(2),
        "latents_clean": random(1, 16, 2, 8, 8),
        "indices_latents_clean": torch.arange(2),
        "latents_history_2x": random(1, 16, 2, 8, 8),
        "indices_latents_history_2x": torch.arange(2),
        "latents_history_4x": random(1, 16, 4, 8, 8),
        "indices_latents_history_4x": torch.arange(4),
        "return_dict": False,
    }


def put_together(folder: Path, part: str = "transformer", **changes: Any) -> Any:
    settings = {"device": CPU, "dtype": torch.float32, "resident": 0, "in_ram": frozenset()}
    recipe = Recipe(**{**settings, **changes})  # type: ignore[arg-type]
    return assemble(ModelFolder(folder), part, recipe, HostDevice())


@torch.inference_mode()
@pytest.mark.parametrize("in_ram", [frozenset(), frozenset({0, 2}), None])
@pytest.mark.parametrize("resident", [0, 1, 3, None])
def test_the_transformer_gives_the_same_bytes(
    tiny_model: Path, in_ram: frozenset[int] | None, resident: int | None
) -> None:
    expected = ModelFolder(tiny_model).load("transformer", torch.float32)(**inputs())[0]
    made = put_together(tiny_model, in_ram=in_ram, resident=resident)
    for _ in range(2):
        assert torch.equal(made.module(**inputs())[0], expected)
    made.close()


@torch.inference_mode()
def test_what_is_computed_in_fewer_bits_gives_the_same_bytes(tiny_model: Path) -> None:
    expected = ModelFolder(tiny_model).load("transformer", torch.bfloat16)
    made = put_together(tiny_model, dtype=torch.bfloat16)
    call = inputs(torch.bfloat16)
    assert torch.equal(made.module(**call)[0], expected(**call)[0])
    made.close()


@torch.inference_mode()
def test_llama_gives_the_same_bytes_with_its_embedding_on_disk(tiny_model: Path) -> None:
    ids = torch.tensor([[0, 5, 9, 200, 5]])
    options = {"output_hidden_states": True, "use_cache": False}
    expected = ModelFolder(tiny_model).load("text_encoder", torch.float32)(ids, **options)
    made = put_together(tiny_model, "text_encoder")
    found = made.module(ids, **options)
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(one, other)
    held = sum(p.nbytes for p in made.module.parameters() if not p.is_meta)
    table = made.files.entries["embed_tokens.weight"].nbytes
    assert next(made.module.parameters()).device == CPU
    assert held < table
    made.close()


@torch.inference_mode()
def test_fp8_is_the_same_converted_or_cast_while_reading(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    cast = put_together(folder, storage=Storage.FP8)
    expected = cast.module(**inputs())[0]
    cast.close()
    convert(folder / "transformer", folder / "transformer_fp8", lambda _: None)
    assert converted_folder(ModelFolder(folder), "transformer", Storage.FP8) is not None
    for resident in (0, None):
        made = put_together(folder, storage=Storage.FP8, resident=resident)
        assert made.files.folder.name == "transformer_fp8"
        assert torch.equal(made.module(**inputs())[0], expected)
        made.close()
    native = ModelFolder(folder).load("transformer", torch.float32)(**inputs())[0]
    difference = (expected - native).abs().max() / native.abs().max()
    assert 0 < difference < 0.05


def test_fp8_made_from_other_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    convert(folder / "transformer_f1", folder / "transformer_fp8", lambda _: None)
    with pytest.raises(ModelError, match="convert"):
        put_together(folder, storage=Storage.FP8)


@pytest.mark.parametrize(
    ("name", "shape", "fp8", "keep_norms"),
    [
        ("transformer_blocks.3.attn.to_q.weight", (8, 8), True, True),
        ("transformer_blocks.3.norm1.linear.weight", (8, 8), True, False),
        ("single_transformer_blocks.3.norm.linear.weight", (8, 8), True, False),
        ("transformer_blocks.3.attn.to_q.bias", (8,), False, False),
        ("x_embedder.proj.weight", (8, 8), False, False),
        ("context_embedder.token_refiner.weight", (8, 8), False, False),
        ("proj_out.weight", (8, 8), False, False),
    ],
)
def test_which_tensors_are_stored_in_8_bits(
    name: str, shape: tuple[int, ...], fp8: bool, keep_norms: bool
) -> None:
    assert is_fp8(name, shape, Storage.FP8) is fp8
    assert is_fp8(name, shape, Storage.FP8_KEEP_NORMS) is keep_norms
    assert not is_fp8(name, shape, Storage.NATIVE)


def test_weights_of_another_architecture_are_refused_with_an_example(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors["proj_out.bias"] = torch.zeros(3)
    save_file(tensors, weights)
    with pytest.raises(ModelError, match=r"proj_out\.bias of shape \[3\] instead of \[64\]"):
        put_together(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda raw: raw[:-10], "cut off: it has"),
        (lambda raw: b"not tensors" * 9, "not a safetensors file"),
        (lambda raw: b"", "not a safetensors file"),
        (lambda raw: raw[:8] + b"x" + raw[9:], "not a safetensors file"),
    ],
)
def test_damaged_files_are_named(
    tiny_model: Path, tmp_path: Path, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    weights = next((tiny_model / "vae").glob("*.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ModelError, match=sentence):
        read_header(broken)


def test_tensors_are_read_as_the_library_reads_them(tiny_model: Path) -> None:
    folder = tiny_model / "text_encoder"
    files = TensorFiles(folder)
    expected = load_file(next(folder.glob("*.safetensors")))
    for name, tensor in expected.items():
        assert torch.equal(files.read(name), tensor)
    table = expected["embed_tokens.weight"]
    assert torch.equal(files.read_rows("embed_tokens.weight", [7, 0, 7]), table[[7, 0, 7]])
    files.close()


def test_a_cast_lasts_as_long_as_its_module_computes() -> None:
    linear = nn.Linear(4, 4).requires_grad_(False).to(torch.bfloat16)
    expected = linear.weight.float() @ torch.ones(4) + linear.bias.float()
    cast_on_use(linear, torch.float32, dict.fromkeys(("weight", "bias"), torch.bfloat16))
    assert torch.allclose(linear(torch.ones(4)), expected)
    assert linear.weight.dtype == linear.bias.dtype == torch.bfloat16


def test_kept_blocks_are_spread() -> None:
    assert sorted(spread(60, 4)) == [0, 15, 30, 45]
    assert sorted(spread(3, 9)) == [0, 1, 2]
    assert not spread(3, 0)
