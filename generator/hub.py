"""Which files of which repositories make up a FramePack model folder, as the hub lists them.

Decides: the repositories, which of their folders become which of ours, which files are needed.
Refuses to know: how bytes travel (`download`), what a person agreed to (`licences`). File names are
never guessed: they come from the hub's own list at one commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from generator.errors import ModelError
from generator.protocol import Variant

KEPT_SUFFIXES = {".json", ".txt", ".model", ".safetensors"}
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One repository: `folders` maps its folders ("" is its root) to parts of a model folder."""

    repository: str
    folders: dict[str, str]
    terms: str
    variant: Variant | None = None  # None: both variants need it


HUNYUAN_TERMS = (
    "derived from HunyuanVideo: the Tencent Hunyuan Community License does not apply in the "
    "European Union, the United Kingdom and South Korea "
    "(https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE)"
)
FLUX_TERMS = (
    "a copy from FLUX.1 Redux [dev], whose FLUX.1 [dev] Non-Commercial License has terms of its "
    "own (https://huggingface.co/black-forest-labs/FLUX.1-Redux-dev/blob/main/LICENSE.md)"
)
_HUNYUAN_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "vae")
SOURCES = (
    Source(
        repository="hunyuanvideo-community/HunyuanVideo",
        folders={part: part for part in _HUNYUAN_PARTS},
        terms=HUNYUAN_TERMS,
    ),
    Source(
        repository="lllyasviel/flux_redux_bfl",
        folders={part: part for part in ("image_encoder", "feature_extractor")},
        terms=FLUX_TERMS,
    ),
    Source(
        repository="lllyasviel/FramePackI2V_HY",
        folders={"": "transformer"},
        terms=HUNYUAN_TERMS,
        variant=Variant.I2V,
    ),
    Source(
        repository="lllyasviel/FramePack_F1_I2V_HY_20250503",
        folders={"": "transformer_f1"},
        terms=HUNYUAN_TERMS,
        variant=Variant.F1,
    ),
)


def sources_for(variants: set[Variant]) -> list[Source]:
    """The repositories that these variants need; all but the transformer is shared."""
    return [s for s in SOURCES if s.variant is None or s.variant in variants]


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the hub describes it. `sha256` is known for large files, `git_sha1` for small."""

    name: str  # in the repository
    path: str  # in the model folder
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What one repository holds for us at one commit."""

    source: Source
    commit: str
    licence: str  # the hub's own words
    files: list[RemoteFile] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def list_source(source: Source, revision: str) -> Listing:
    """Ask the hub (HF_ENDPOINT, HF_TOKEN) what to fetch at `revision`, such as main or a commit.

    Raises ModelError when a folder of the repository has nothing to fetch, and what the hub's
    client raises (see `download.hub_errors`).
    """
    from huggingface_hub import HfApi

    info = HfApi().model_info(source.repository, revision=revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    files = []
    for theirs, ours in source.folders.items():
        names = needed_files(list(siblings), theirs)
        if not names:
            raise ModelError(
                f"{source.repository} at {info.sha} has no file for {ours}/ (looked in "
                f"{theirs or 'its root'}); the repository has changed, tell the developers."
            )
        files += [_remote_file(siblings[name], theirs, ours) for name in names]
    return Listing(
        source=source, commit=str(info.sha), licence=_licence(info.card_data), files=files
    )


def needed_files(names: list[str], folder: str) -> list[str]:
    """The files directly in `folder` that a part needs, sorted: its settings, one set of weights.

    Of several sets the one without a variant in its name (model.fp16.safetensors has one) is taken,
    and of those the sharded one.
    """
    here = [PurePosixPath(name) for name in names]
    here = [p for p in here if p.parent == PurePosixPath(folder) and p.suffix in KEPT_SUFFIXES]
    weights = [path for path in here if path.suffix == ".safetensors"]
    plain = [path for path in weights if "." not in path.stem] or weights
    sharded = [path for path in plain if SHARD.search(path.stem)]
    chosen = sharded or plain
    indices = {SHARD.sub("", path.stem) + ".safetensors.index.json" for path in sharded}
    described = [
        path
        for path in here
        if path.suffix != ".safetensors"
        and (not path.name.endswith(".index.json") or path.name in indices)
    ]
    return sorted(str(path) for path in [*described, *chosen])


def _remote_file(sibling: Any, theirs: str, ours: str) -> RemoteFile:
    inner = PurePosixPath(sibling.rfilename).relative_to(theirs)
    return RemoteFile(
        name=sibling.rfilename,
        path=str(ours / inner),
        size=int(sibling.size or 0),
        sha256=sibling.lfs.sha256 if sibling.lfs else None,
        git_sha1=None if sibling.lfs else sibling.blob_id,
    )


def _licence(card: Any) -> str:
    words = {key: getattr(card, key, None) for key in ("license", "license_name", "license_link")}
    said = [f"{words['license']}"] if words["license"] else []
    said += [str(words[key]) for key in ("license_name", "license_link") if words[key]]
    return ", ".join(said) or "the repository names no licence"
