"""Compiled blocks: one graph for each kind wherever weights lie, and it is written down."""

from __future__ import annotations

import gc
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import draw_picture, sampled, small_request, small_workshop
from test_streaming import inputs
from torch._dynamo.testing import CompileCounter

from generator import compiling
from generator.__main__ import main
from generator.assembly import Recipe, assemble, blocks_of
from generator.compiling import refuse_without_compiler
from generator.devices import HostDevice
from generator.errors import ModelError
from generator.models import ModelFolder
from generator.placement import Placement
from generator.protocol import Mode, StepCacheKind, Storage
from generator.stopping import asking
from generator.workshop import Workshop

CPU = torch.device("cpu")
compiler_needed = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounter]:
    """Takes the compiler's place: runs the graphs as they are, and counts them."""
    found = CompileCounter()
    monkeypatch.setattr(compiling, "BACKEND", found)
    torch._dynamo.reset()
    yield found
    torch._dynamo.reset()


@torch.inference_mode()
@pytest.mark.slow
@pytest.mark.parametrize(("storage", "resident"), [(Storage.NATIVE, 1), (Storage.FP8, 0)])
def test_blocks_of_a_kind_share_their_graph(
    tiny_model: Path, counter: CompileCounter, storage: Storage, resident: int | None
) -> None:
    def outputs(*, compiled: bool) -> list[torch.Tensor]:
        recipe = Recipe(
            device=CPU,
            dtype=torch.float32,
            storage=storage,
            resident=resident,
            in_ram=frozenset({1}),
            compiled=compiled,
        )
        made = assemble(ModelFolder(tiny_model), "transformer", recipe, HostDevice())
        found = [made.module(**inputs())[0] for _ in range(3)]
        made.close()
        return found

    expected = outputs(compiled=False)[0]
    assert counter.frame_count == 0
    assert all(torch.equal(found, expected) for found in outputs(compiled=True))
    # Two dual blocks, two single ones; the first single block alone sees text and image apart.
    assert counter.frame_count == 3


@torch.inference_mode()
def test_no_job_has_the_blocks_compiled_again(tiny_model: Path, counter: CompileCounter) -> None:
    """After eight times Dynamo would give up, and run a block uncompiled for good."""
    recipe = Recipe(device=CPU, dtype=torch.float32, in_ram=frozenset(), compiled=True)
    made = assemble(ModelFolder(tiny_model), "transformer", recipe, HostDevice())
    blocks = [block.module for block in blocks_of(made.module, "transformer")]
    inside = {id(one) for block in blocks for one in block.modules() if one is not block}
    for job in range(11):
        asked = Counter[int]()

        def still_wanted(job: int = job, asked: Counter[int] = asked) -> None:
            asked[job] += 1

        with asking(made.module, still_wanted):
            hooked = [one for one in made.module.modules() if one._forward_pre_hooks]
            made.module(**inputs())
        assert {id(block) for block in blocks} <= {id(one) for one in hooked}
        assert not inside & {id(one) for one in hooked}
        assert asked[job] >= len(blocks)
    made.close()
    assert counter.frame_count == 3


def live_matrices() -> int:
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)  # not the compiler's own, which hold no numbers
    tensors = [each for each in gc.get_objects() if type(each) in kinds]
    return len([t for t in tensors if t.device == CPU and t.ndim == 2 and t.numel() >= 64 * 64])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.RESIDENT, Mode.DISK])
def test_compiled_jobs_are_the_same_jobs_and_leave_nothing(
    tiny_model: Path, tmp_path: Path, counter: CompileCounter, mode: Mode
) -> None:
    plain, before = small_workshop(tiny_model), live_matrices()
    placement = Placement(ModelFolder(tiny_model), device="cpu", mode=mode, compiled=True)
    for cache in (StepCacheKind.NONE, StepCacheKind.TEACACHE, StepCacheKind.FIRST_BLOCK):
        request = small_request(steps=4, step_cache=cache, step_cache_threshold=0.3)
        expected = sampled(plain, tmp_path, request)
        found = sampled(Workshop(placement=placement), tmp_path, request)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert counter.frame_count == 3
    plain.placement.unload()
    assert live_matrices() > before
    placement.unload()
    assert live_matrices() == before


@compiler_needed
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_the_real_compiler_makes_nearly_the_same_video_and_the_record_says_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    draw_picture(tmp_path / "in.png")
    words = ["generate", "--model", str(tiny_model), "--device", "cpu", "--seed", "7"]
    words += ["--image", str(tmp_path / "in.png"), "--prompt", "a cat walks", "--seconds", "0.1"]
    words += ["--resolution", "64", "--steps", "3", "--latent-window-size", "1", "--no-progress"]
    records: dict[str, Any] = {}
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        files = ["--out", str(tmp_path / f"{name}.mp4")]
        files += ["--latents-out", str(tmp_path / f"{name}.safetensors")]
        assert main([*words, *files, *more]) == 0
        records[name] = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
    from safetensors.torch import load_file

    plain, compiled = (load_file(tmp_path / f"{n}.safetensors")["latents"] for n in records)
    assert (plain - compiled).abs().max() < 1e-4
    assert [records[name]["compiled"] for name in records] == [False, True]
    assert list((tmp_path / "inductor").rglob("*.so"))  # it was compiled indeed


def test_a_missing_compiler_is_told_before_a_job(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder, exc

    def nothing() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    with pytest.raises(ModelError, match=r"no C\+\+ compiler was found; .* compile = false"):
        Placement(ModelFolder(tiny_model), device="cpu", compiled=True)


def test_a_gpu_without_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, found = torch.device("cuda:0"), [object()]
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _: found[0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GTX 1080")
    with pytest.raises(ModelError, match=r"GTX 1080 has 6\.1"):
        refuse_without_compiler(gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    refuse_without_compiler(gpu)
    found[0] = None
    with pytest.raises(ModelError, match="install triton"):
        refuse_without_compiler(gpu)
