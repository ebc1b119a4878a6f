"""A model folder: how each part becomes a module.

Decides: how parts are loaded, the names `demo` and `tiny`, the digest that says which weights made
a video. Refuses to know: what must lie in a folder (`parts`), what a part is used for, and where it
lies while it is used (`placement`). Weights are read from safetensors files only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from generator.errors import ModelError, is_out_of_memory
from generator.parts import F1_TRANSFORMER, folder_problems, telling_bytes
from generator.protocol import Variant
from generator.timesteps import pin_timesteps

log = logging.getLogger(__name__)

DEMO_MODEL = Path(__file__).parent / "demo_model"
RESOLUTION = 640


class ModelFolder:
    """A complete model folder. ModelError names every part that is missing or of another kind."""

    def __init__(self, path: Path):
        self.path = path
        problems = folder_problems(path)
        if problems:
            raise ModelError(f"The model folder {path} can not be used: {'; '.join(problems)}.")

    def transformer_part(self, variant: Variant) -> str:
        """The sub-folder that holds this variant's transformer. ModelError: there is none."""
        if variant is Variant.F1 and (self.path / F1_TRANSFORMER).is_dir():
            return F1_TRANSFORMER
        if not (self.path / "transformer").is_dir():
            raise ModelError(
                f"The model folder {self.path} has no transformer for {variant}; choose f1, or run "
                f"`framepack-bot models download {self.path} --variant i2v`."
            )
        return "transformer"

    def read_json(self, name: str) -> Any | None:
        """An optional JSON file of the folder, such as preview.json; None where there is none."""
        file = self.path / name
        try:
            return json.loads(file.read_text("utf-8")) if file.exists() else None
        except ValueError as error:
            raise ModelError(f"{file} is not valid JSON: {error}.") from None

    def resolution(self) -> int:
        """What the model was made for: model.json's `resolution`, else FramePack's 640."""
        return int((self.read_json("model.json") or {}).get("resolution", RESOLUTION))

    def config(self, part: str) -> dict[str, Any]:
        """The part's config.json."""
        config: dict[str, Any] = json.loads((self.path / part / "config.json").read_text("utf-8"))
        return config

    def digest(self, part: str) -> str:
        """16 hex digits that change with any file of the part.

        Files above 64 MiB are sampled: size, head and 64 spots, so that 24 GiB cost milliseconds.
        """
        return folder_digest(self.path / part)

    def load_tokenizer(self, part: str) -> Any:
        from transformers import AutoTokenizer

        with _as_model_error(self.path / part):
            return AutoTokenizer.from_pretrained(self.path / part)

    def load_feature_extractor(self) -> Any:
        """The image processor on Pillow: with torchvision installed the default one differs."""
        from transformers import SiglipImageProcessorPil

        path = self.path / "feature_extractor"
        with _as_model_error(path):
            return SiglipImageProcessorPil.from_pretrained(path)

    def load(self, part: str, dtype: torch.dtype) -> nn.Module:
        """The part's module on the CPU, in evaluation mode, without gradients.

        ModelError when its files are damaged or do not hold every weight.
        """
        with _as_model_error(self.path / part), _quiet_libraries():
            module, report = _LOADERS[part.removesuffix("_f1")](self.path / part, dtype)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelError(
                f"{self.path / part} lacks {len(missing)} weights, such as {missing[0]}; "
                "download it again."
            )
        return module.eval().requires_grad_(False)

    def build_empty(self, part: str, dtype: torch.dtype) -> nn.Module:
        """The part's module without weights: its parameters are on the meta device, in the dtypes
        that `load` would give them; its buffers are real."""
        import accelerate

        with (
            _as_model_error(self.path / part),
            _quiet_libraries(),
            accelerate.init_empty_weights(include_buffers=False),
        ):
            module = _BUILDERS[part.removesuffix("_f1")](self.path / part)
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)
        if part.startswith("transformer"):
            _finish_transformer(module)
        return module.eval().requires_grad_(False)


def folder_digest(folder: Path) -> str:
    """What `ModelFolder.digest` says, of any folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.suffix in {".json", ".safetensors", ".txt", ".model"}:
            digest.update(file.name.encode())
            for piece in telling_bytes(file):
                digest.update(piece)
    return digest.hexdigest()[:16]


def open_model(name_or_folder: str) -> ModelFolder:
    """The folder behind a name: `demo` ships with the project, `tiny` is random and built here."""
    if name_or_folder == "demo" and DEMO_MODEL.is_dir():
        return ModelFolder(DEMO_MODEL)
    if name_or_folder in {"demo", "tiny"}:
        from generator.tiny import cached_tiny_model

        return ModelFolder(cached_tiny_model())
    path = Path(name_or_folder).expanduser()
    if not path.is_dir():
        raise ModelError(
            f"There is no model folder {path.absolute()}, and no model of that name; "
            "use demo, tiny, or the path of a folder with text_encoder, vae, transformer …"
        )
    return ModelFolder(path)


Loaded = tuple[nn.Module, dict[str, Any]]
"""A module, and the library's report: without it missing weights would be random ones."""
_SAFELY: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}


def _load_llama(path: Path, dtype: torch.dtype) -> Loaded:
    from transformers import LlamaModel

    return LlamaModel.from_pretrained(path, dtype=dtype, **_SAFELY)


def _load_clip(path: Path, dtype: torch.dtype) -> Loaded:
    from transformers import CLIPTextModel

    return CLIPTextModel.from_pretrained(path, dtype=dtype, **_SAFELY)


def _load_siglip(path: Path, dtype: torch.dtype) -> Loaded:
    from transformers import SiglipVisionModel

    # The pooling head is never used.
    return SiglipVisionModel.from_pretrained(path, dtype=dtype, vision_use_head=False, **_SAFELY)


def _load_vae(path: Path, dtype: torch.dtype) -> Loaded:
    from diffusers import AutoencoderKLHunyuanVideo

    return AutoencoderKLHunyuanVideo.from_pretrained(path, torch_dtype=dtype, **_SAFELY)


def _load_transformer(path: Path, dtype: torch.dtype) -> Loaded:
    from diffusers import HunyuanVideoFramepackTransformer3DModel

    transformer, report = HunyuanVideoFramepackTransformer3DModel.from_pretrained(
        path, torch_dtype=dtype, **_SAFELY
    )
    if not report["missing_keys"]:
        _finish_transformer(transformer)
    return transformer, report


def _finish_transformer(transformer: Any) -> None:
    pin_timesteps(transformer)
    # The reference keeps the output layer in float32: velocities are differences.
    transformer.proj_out.float()
    transformer.proj_out.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    transformer.context_embedder.register_forward_pre_hook(_bring_mask)


def _bring_mask(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The text embedder, alone, needs the mask where it computes; one of ones is made there."""
    hidden, timestep, mask = inputs
    if mask.device == hidden.device:
        return inputs
    if mask.all():
        return hidden, timestep, torch.ones(mask.shape, dtype=mask.dtype, device=hidden.device)
    return hidden, timestep, mask.to(hidden.device)


def _build_llama(path: Path) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig.from_pretrained(path))


def _build_clip(path: Path) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig.from_pretrained(path))


def _build_siglip(path: Path) -> nn.Module:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig.from_pretrained(path, vision_use_head=False))


def _build_vae(path: Path) -> nn.Module:
    from diffusers import AutoencoderKLHunyuanVideo as Vae

    return Vae.from_config(Vae.load_config(path))


def _build_transformer(path: Path) -> nn.Module:
    from diffusers import HunyuanVideoFramepackTransformer3DModel as Transformer

    return Transformer.from_config(Transformer.load_config(path))


_LOADERS: dict[str, Callable[[Path, torch.dtype], Loaded]] = {
    "text_encoder": _load_llama,
    "text_encoder_2": _load_clip,
    "image_encoder": _load_siglip,
    "vae": _load_vae,
    "transformer": _load_transformer,
}


_BUILDERS: dict[str, Callable[[Path], nn.Module]] = {
    "text_encoder": _build_llama,
    "text_encoder_2": _build_clip,
    "image_encoder": _build_siglip,
    "vae": _build_vae,
    "transformer": _build_transformer,
}


@contextlib.contextmanager
def _as_model_error(path: Path) -> Iterator[None]:
    """What the libraries raise for damaged files, as one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ModelError(f"{path} could not be loaded: {reason}") from error


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries' load reports (SigLIP's unused head) and progress bars off stderr."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = transformers_logging.get_verbosity(), diffusers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        diffusers_logging.set_verbosity(levels[1])
