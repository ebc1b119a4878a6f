"""The text stage: tokenizers, and small text encoders that know a direction when they read one.

Decides: the BPE vocabulary, the configs of Llama and CLIP, the proxy they learn (name the motion
of a caption); then they are frozen. Also the image encoder, which stays random. Refuses to know:
video.

HunyuanVideo's template is cut off after 95 tokens, a number of Llama's own tokenizer. So the
merges are counted out until this template's prefix has exactly 95 tokens here, too.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_framepack import (
    DEFAULT_PROMPT_TEMPLATE,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from training.captions import TEST_SUBJECTS, Motion, caption
from training.optimizing import curve, load_state, save_state
from training.pair import progress_bar

log = logging.getLogger(__name__)

TEMPLATE: str = DEFAULT_PROMPT_TEMPLATE["template"]
PREFIX_TOKENS: int = DEFAULT_PROMPT_TEMPLATE["crop_start"]
CLIP_TOKENS = 77
IMAGE_SIDE = 48
MOTIONS = tuple(Motion)
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|unk|>",
)  # fmt: skip
# Llama 3's own split: line breaks stay together whatever follows, so the prefix never grows.
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _corpus() -> list[str]:
    rng = np.random.default_rng(3)
    captions = [caption(rng, MOTIONS[i % len(MOTIONS)]) for i in range(4000)]
    return captions + [TEMPLATE.format("")] * 60


def _bpe(merges: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + len(SPECIAL) + merges,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _prefix_length(tokenizer: Tokenizer) -> int:
    """Tokens before the prompt, the begin-of-text token that is put in front included."""
    return 1 + len(tokenizer.encode(TEMPLATE.split("{}")[0]).ids)


def _counted_out() -> Tokenizer:
    """The BPE with as many merges as give the prefix 95 tokens; ValueError when none does."""
    low, high = 100, 2000
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (middle + 1, high) if _prefix_length(_bpe(middle)) > PREFIX_TOKENS else (low, middle)
        )
    tokenizer = _bpe(low)
    if _prefix_length(tokenizer) != PREFIX_TOKENS:
        raise ValueError(
            f"{low} merges give the template {_prefix_length(tokenizer)} tokens, not "
            f"{PREFIX_TOKENS}; change the share of the template in the corpus"
        )
    return tokenizer


def make_tokenizers(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """Write `tokenizer` (for Llama) and `tokenizer_2` (for CLIP: closes with end-of-text)."""
    tokenizer = _counted_out()
    begin, end = SPECIAL[:2]
    made = []
    for name, form, pad, limit in (
        ("tokenizer", f"{begin} $A", SPECIAL[2], None),
        ("tokenizer_2", f"{begin} $A {end}", end, CLIP_TOKENS),
    ):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=form, special_tokens=[(begin, 0), (end, 1)]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=pad,
            padding_side="right", **({"model_max_length": limit} if limit else {}),
        )  # fmt: skip
        fast.save_pretrained(folder / name)
        made.append(fast)
    return made[0], made[1]


class TextEncoders(nn.Module):
    """Both real text encoders and the two linear probes that only training needs."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.llama = LlamaModel(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=4,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                bos_token_id=0, eos_token_id=1, pad_token_id=2,
            )
        )  # fmt: skip
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                num_attention_heads=4, max_position_embeddings=CLIP_TOKENS, projection_dim=64,
                bos_token_id=0, eos_token_id=1, pad_token_id=1,
            )
        )  # fmt: skip
        # FramePack reads the features after the second layer: the rest need not run to train it.
        self._unread = self.llama.layers[2:]
        self.llama.layers = self.llama.layers[:2]
        self.llama_probe = nn.Linear(64, len(MOTIONS))
        self.clip_probe = nn.Linear(64, len(MOTIONS))

    def features(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Llama's features of the prompt (B, L, 64), its mask (B, L)."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen.append(output if isinstance(output, Tensor) else output[0])

        hook = self.llama.layers[1].register_forward_hook(keep)
        self.llama(**tokens, use_cache=False)
        hook.remove()
        return seen[0][:, PREFIX_TOKENS:], tokens["attention_mask"][:, PREFIX_TOKENS:]

    def forward(self, tokens: dict[str, Tensor], clip: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Which motion each encoder thinks a caption names: two times (B, 8) logits."""
        features, mask = self.features(tokens)
        mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.llama_probe(mean), self.clip_probe(self.clip(**clip).pooler_output)


def tokenize(
    captions: list[str], tokenizer: PreTrainedTokenizerFast, clip: PreTrainedTokenizerFast
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The ids and masks of captions: in the template for Llama, bare for CLIP."""
    long = tokenizer([TEMPLATE.format(c) for c in captions], padding=True, return_tensors="pt")
    short = clip(
        captions, padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt"
    )
    keys = ("input_ids", "attention_mask")
    return {k: long[k] for k in keys}, {k: short[k] for k in keys}


def _captions(
    rng: np.random.Generator, count: int, **how: tuple[str, ...]
) -> tuple[list[str], Tensor]:
    labels = rng.integers(0, len(MOTIONS), count)
    return [caption(rng, MOTIONS[i], **how) for i in labels], torch.from_numpy(labels)


def train(folder: Path, *, steps: int = 400) -> Path:
    """Train or go on training; returns the folder with tokenizers and all three encoders."""
    torch.manual_seed(12)
    tokenizers = make_tokenizers(folder / "text")
    model = TextEncoders(len(tokenizers[0]))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    start = 0
    if state := load_state(folder / "state.pt"):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in progress_bar(start, steps, "text"):
        captions, labels = _captions(np.random.default_rng((23, step)), 16)
        llama, clip = model(*tokenize(captions, *tokenizers))
        loss = F.cross_entropy(llama, labels) + F.cross_entropy(clip, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * curve(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            log.info("text %d/%d loss %.4f", step, steps, loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(folder / "state.pt", step=step + 1, **parts)
            log.info(
                "text %d: unseen captions named right: %s", step + 1, accuracy(model, tokenizers)
            )
    save_encoders(model, folder / "text")
    return folder / "text"


@torch.no_grad()
def accuracy(
    model: TextEncoders, tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]
) -> str:
    """Shares of 200 captions over unseen subjects that each encoder names right, as text."""
    model.eval()
    captions, labels = _captions(np.random.default_rng(24), 200, subjects=TEST_SUBJECTS)
    llama, clip = model(*tokenize(captions, *tokenizers))
    model.train()
    shares = [float((logits.argmax(1) == labels).float().mean()) for logits in (llama, clip)]
    return f"Llama {shares[0]:.1%}, CLIP {shares[1]:.1%}"


def save_encoders(model: TextEncoders, folder: Path) -> None:
    """Write the frozen text encoders, and the random image encoder with its feature extractor."""
    model.llama.layers = nn.ModuleList([*model.llama.layers, *model._unread])
    model.llama.save_pretrained(folder / "text_encoder")
    model.clip.save_pretrained(folder / "text_encoder_2")
    torch.manual_seed(13)
    vision = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            image_size=IMAGE_SIDE, patch_size=16, vision_use_head=False,
        )
    )  # fmt: skip
    vision.save_pretrained(folder / "image_encoder")
    extractor = SiglipImageProcessor(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE})
    extractor.save_pretrained(folder / "feature_extractor")
