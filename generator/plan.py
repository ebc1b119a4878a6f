"""What a video will cost before it is made: memory of each stage, bytes moved, seconds.

Decides: nothing; it counts. Parameters come from the model's real configuration, activations and
operations from its real classes on fake tensors, the overlap of copying and computing from the same
rules by which `streaming` works. Speeds of the machine are assumptions, given by who asks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import nn

from generator.assembly import spread
from generator.counting import Count, Fake
from generator.encoders import Size, bucket_size
from generator.fp8 import is_fp8
from generator.machine import Machine
from generator.modes import (
    BESIDE_TRANSFORMER,
    Choice,
    Needs,
    choose,
    count_needs,
    transformer_width,
)
from generator.protocol import JobRequest, Mode, Storage
from generator.sections import section_count

REAL_MODEL = Path(__file__).parent / "real_model"
HALF = torch.float16
FRAME_BYTES = 3 * 4  # of a pixel, float32, until it is quantised
CHUNKS_HELD = 3  # the newest, what is left of the one before, and their blend
IMAGE_TOKENS, TEXT_TOKENS, TEMPLATE_TOKENS = 729, 256, 95


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What the machine is assumed to do."""

    tflops: float = 140.0  # a 4090's 3.6 s a step at 608×640
    pcie_gb_s: float = 25.0  # PCIe 4 x16 from pinned memory
    disk_gb_s: float = 3.0  # an ordinary NVMe drive


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One stage's peaks in bytes, and its seconds in the whole job. `pinned` is part of `ram`."""

    name: str
    vram: int
    ram: int
    pinned: int
    seconds: float
    moved: int = 0  # bytes to the GPU per step, or once


@dataclass(frozen=True, kw_only=True)
class Step:
    """One sampling step: computing, and copying that computing could not hide."""

    compute_s: float
    stall_s: float
    copied: int
    read: int  # bytes, of those that are copied

    @property
    def stalled_share(self) -> float:
        """How much of the step is waiting for a copy."""
        return self.stall_s / (self.compute_s + self.stall_s)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything `framepack-bot plan` prints."""

    size: Size
    sections: int
    steps: int
    needs: Needs
    choice: Choice
    stages: tuple[StageCost, ...]
    step: Step
    step_flops: int
    least_vram: int  # of sampling, were no block kept on the GPU


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The fake runs of all parts at one size of picture."""

    needs: Needs
    part_bytes: dict[str, int]
    layer_bytes: int  # of Llama
    cast_bytes: int  # of the largest matrix that is cast while it is used
    chunk_bytes: int  # of the decoded pixels of one chunk, on the CPU
    text: Count
    image: Count
    encode: Count
    sample: Count
    decode: Count


def read_configs(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Part → configuration: of the real model, or of a model folder."""
    parts = (*BESIDE_TRANSFORMER, "transformer")
    files = {
        part: folder / part / "config.json" if folder else REAL_MODEL / f"{part}.json"
        for part in parts
    }
    return {part: json.loads(file.read_text("utf-8")) for part, file in files.items()}


def make_plan(
    request: JobRequest,
    machine: Machine,
    speeds: Speeds,
    *,
    wanted: Mode = Mode.AUTO,
    storage: Storage = Storage.NATIVE,
    model: Path | None = None,
) -> Plan:
    """Count the job that `request` describes (its picture is taken to be as wide as 608×640 is)."""
    size = bucket_size(608, 640, request.resolution or 640)
    configs = read_configs(model)
    counts = count_parts(configs, size, request.latent_window_size, storage)
    choice = choose(counts.needs, machine, wanted)
    sections = section_count(request.seconds, request.latent_window_size)
    passes = 2 if request.true_cfg_scale != 1 else 1
    step = simulate(counts, choice, speeds)
    least = counts.needs.rest + counts.needs.slots + counts.cast_bytes + counts.sample.peak_bytes
    return Plan(
        size=size,
        sections=sections,
        steps=request.steps * passes,
        needs=counts.needs,
        choice=choice,
        stages=tuple(_stages(counts, choice, speeds, step, sections, request.steps * passes)),
        step=step,
        step_flops=counts.sample.flops,
        least_vram=least,
    )


def count_parts(
    configs: dict[str, dict[str, Any]], size: Size, window: int, storage: Storage
) -> Counts:
    """Run every part once on fake tensors, in the dtypes of a GPU."""
    with Fake() as fake:
        modules = {part: _fake_part(fake, part, config) for part, config in configs.items()}
        shapes = {
            part: {name: tuple(p.shape) for name, p in module.named_parameters()}
            for part, module in modules.items()
        }
        width = transformer_width(configs["transformer"])
        layers = list(modules["text_encoder"].layers)
        return Counts(
            needs=count_needs(shapes, width, lambda _: 2, storage),
            part_bytes={part: _nbytes(module) for part, module in modules.items()},
            layer_bytes=_nbytes(layers[0]),
            cast_bytes=_largest_cast(shapes["transformer"], storage),
            chunk_bytes=(8 * window + 1) * size[0] * size[1] * FRAME_BYTES,
            text=_count_text(fake, modules["text_encoder"]),
            image=_count_image(fake, modules["image_encoder"]),
            encode=_count_encode(fake, modules["vae"], size),
            sample=_count_sample(fake, modules["transformer"], size, window),
            decode=_count_decode(fake, modules["vae"], size, window),
        )


def simulate(counts: Counts, choice: Choice, speeds: Speeds) -> Step:
    """Run steps on paper as `BlockStream` would: the next streamed block's copy begins when the one
    before begins to compute; files are read one after another, two blocks ahead at most."""
    sizes, rate = counts.needs.blocks, speeds.tflops * 1e12
    compute = [count / rate for count in counts.sample.blocks]
    beside = (counts.sample.flops - sum(counts.sample.blocks)) / rate
    kept = spread(len(sizes), len(sizes) if choice.resident is None else choice.resident)
    streamed = [i for i in range(len(sizes)) if i not in kept]
    in_ram = choice.in_ram
    total, read = sum(compute) + beside, sum(sizes[i] for i in streamed if i not in in_ram)
    if not streamed:
        return Step(compute_s=total, stall_s=0.0, copied=0, read=0)
    now = copied = was_read = 0.0
    released, ready = [0.0, 0.0], {streamed[0]: 0.0}
    for _ in range(3):  # the last one is in its stride
        began = now
        for i in range(len(sizes)):
            if i in ready:
                now = max(now, ready.pop(i))
                following = streamed[(streamed.index(i) + 1) % len(streamed)]
                from_file = following not in in_ram
                if from_file:
                    was_read = (
                        max(was_read, released[-2]) + sizes[following] / speeds.disk_gb_s / 1e9
                    )
                copied = max(copied, now, was_read if from_file else 0.0)
                copied += sizes[following] / speeds.pcie_gb_s / 1e9
                released += [copied] if from_file else []
                ready[following] = copied
            now += compute[i]
        now += beside
    moved = sum(sizes[i] for i in streamed)
    return Step(compute_s=total, stall_s=max(now - began - total, 0.0), copied=moved, read=read)


def _stages(
    counts: Counts, choice: Choice, speeds: Speeds, step: Step, sections: int, steps: int
) -> list[StageCost]:
    """The stages in the order of a job. RAM is beside what Python and the libraries take."""
    needs, parts, rate = counts.needs, counts.part_bytes, speeds.tflops * 1e12
    llama_moved = parts["text_encoder"]
    llama_staging = 2 * counts.layer_bytes
    whole = choice.mode is Mode.RESIDENT
    llama_on_gpu = parts["text_encoder"] if whole else llama_staging
    kept = set(spread(len(needs.blocks), choice.resident or 0))
    held = needs.transformer
    if choice.resident is not None:
        held = needs.rest + needs.slots + sum(needs.blocks[i] for i in kept)
    always = needs.all_parts if whole else 0
    pinned = step.copied - step.read + (needs.slots if step.read else 0)
    chunk = counts.chunk_bytes
    images = parts["image_encoder"] + max(counts.image.peak_bytes, 0)
    decoding = counts.decode.flops * sections / rate
    return [
        StageCost(
            name="text",
            vram=(always or llama_on_gpu) + counts.text.peak_bytes,
            ram=llama_staging + pinned,
            pinned=llama_staging + pinned,
            seconds=llama_moved / (speeds.disk_gb_s * 1e9),
            moved=llama_moved,
        ),
        StageCost(
            name="image",
            vram=max(
                (always or images) + (counts.image.peak_bytes if whole else 0),
                (always or parts["vae"]) + counts.encode.peak_bytes,
            ),
            ram=parts["image_encoder"] + pinned,
            pinned=pinned,
            seconds=(counts.image.flops + counts.encode.flops) / rate,
            moved=parts["image_encoder"] + parts["vae"],
        ),
        StageCost(
            name="sampling",
            vram=(always or held) + counts.cast_bytes + counts.sample.peak_bytes,
            ram=pinned,
            pinned=pinned,
            seconds=(step.compute_s + step.stall_s) * steps * sections,
            moved=step.copied,
        ),
        StageCost(
            name="decode",
            vram=(always or parts["vae"]) + counts.decode.peak_bytes,
            ram=CHUNKS_HELD * chunk + parts["vae"] + pinned,
            pinned=pinned,
            seconds=decoding,
            moved=parts["vae"],
        ),
        StageCost(name="encode", vram=always, ram=chunk + pinned, pinned=pinned, seconds=0.0),
    ]


def _largest_cast(shapes: dict[str, tuple[int, ...]], storage: Storage) -> int:
    cast = [2 * math.prod(shape) for name, shape in shapes.items() if is_fp8(name, shape, storage)]
    return max(cast, default=0)


def empty_module(part: str, config: dict[str, Any]) -> Any:
    """The part's real class with its parameters on the meta device."""
    with accelerate.init_empty_weights(include_buffers=False):
        return _build(part, config)


def _fake_part(fake: Fake, part: str, config: dict[str, Any]) -> Any:
    dtype = torch.bfloat16 if part == "transformer" else HALF
    return fake.module(lambda: _build(part, config), dtype)


def _build(part: str, config: dict[str, Any]) -> Any:
    from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackTransformer3DModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        LlamaConfig,
        LlamaModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    if part == "text_encoder":
        return LlamaModel(LlamaConfig(**config))
    if part == "text_encoder_2":
        return CLIPTextModel(CLIPTextConfig(**config))
    if part == "image_encoder":
        return SiglipVisionModel(SiglipVisionConfig(**config))
    if part == "vae":
        return AutoencoderKLHunyuanVideo.from_config(config)
    return HunyuanVideoFramepackTransformer3DModel.from_config(config)


def _count_text(fake: Fake, llama: Any) -> Count:
    ids = torch.empty(1, TEMPLATE_TOKENS + TEXT_TOKENS, dtype=torch.long)
    return fake.count(
        llama, lambda: llama(ids, output_hidden_states=True, use_cache=False), llama.layers
    )


def _count_image(fake: Fake, siglip: Any) -> Count:
    side = siglip.config.image_size
    pixels = torch.empty(1, 3, side, side, dtype=HALF)
    return fake.count(siglip, lambda: siglip(pixels))


def _count_encode(fake: Fake, vae: Any, size: Size) -> Count:
    vae.enable_tiling()
    pixels = torch.empty(1, 3, 1, *size, dtype=HALF)
    return fake.count(vae, lambda: vae.encode(pixels).latent_dist.mode(), [vae.encoder])


def _count_decode(fake: Fake, vae: Any, size: Size, window: int) -> Count:
    vae.enable_tiling()
    for name in ("blend_t", "blend_v", "blend_h"):  # they work in place, a pixel row at a time
        setattr(vae, name, lambda _, tile, extent: tile)
    shape = (1, vae.config.latent_channels, 2 * window, size[0] // 8, size[1] // 8)
    latents = torch.empty(shape, dtype=HALF)
    # As `encoders.decode_latents`, with the pixels once more in float32.
    return fake.count(vae, lambda: vae.decode(latents).sample.float(), [vae.decoder])


def _count_sample(fake: Fake, transformer: Any, size: Size, window: int) -> Count:
    blocks: Sequence[nn.Module] = [
        *transformer.transformer_blocks,
        *transformer.single_transformer_blocks,
    ]
    config = transformer.config
    call = transformer_inputs(config, size, window)
    return fake.count(transformer, lambda: transformer(**call, return_dict=False), blocks)


def transformer_inputs(
    config: Any, size: Size, window: int, dtype: torch.dtype = torch.bfloat16
) -> dict[str, torch.Tensor]:
    """Arguments of a call with all of its history, as large as they get, all zero."""
    height, width = size[0] // 8, size[1] // 8

    def latents(frames: int) -> torch.Tensor:
        return torch.zeros(1, config.in_channels, frames, height, width, dtype=dtype)

    arguments = {
        "hidden_states": latents(window),
        "timestep": torch.zeros(1, dtype=dtype),
        "guidance": torch.zeros(1, dtype=dtype),
        "encoder_hidden_states": torch.zeros(1, TEXT_TOKENS, config.text_embed_dim, dtype=dtype),
        "encoder_attention_mask": torch.ones(1, TEXT_TOKENS, dtype=torch.bool),
        "pooled_projections": torch.zeros(1, config.pooled_projection_dim, dtype=dtype),
        "image_embeds": torch.zeros(1, IMAGE_TOKENS, config.image_proj_dim, dtype=dtype),
        "indices_latents": torch.arange(window),
    }
    for name, frames in (("clean", 2), ("history_2x", 2), ("history_4x", 16)):
        arguments[f"latents_{name}"] = latents(frames)
        arguments[f"indices_latents_{name}"] = torch.arange(frames)
    return arguments


def _nbytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
