"""The options of /animate, as data: what each is called, what it sets, which values it takes.

Decides: names, kinds and ranges of the options, and how their values become settings of a job.
Refuses to know: who asks. Every range is the protocol's or the config's; the words are in
`bot.texts`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import discord
import msgspec
from discord import app_commands
from discord.app_commands import locale_str

from bot.config import Config
from bot.texts import Text
from bot.translator import said
from generator.protocol import Shape, StepCacheKind, Variant, limits

REFERENCES = 4
END_FILE = "end.png"
DRAFT, FINAL = "draft", "final"

SETTINGS = {
    "model": "variant",
    "seconds": "seconds",
    "seed": "seed",
    "steps": "steps",
    "guidance": "guidance_scale",
    "negative": "negative_prompt",
    "motion": "motion_bias",
    "consistency": "consistency_boost",
    "end_strength": "end_strength",
    "shape": "shape",
    "resolution": "resolution",
    "fps": "fps",
}
"""Options that set one field of the JobRequest, and the field."""


SHAPES = {
    Shape.PICTURE: Text.SHAPE_PICTURE,
    Shape.SQUARE: Text.SHAPE_SQUARE,
    Shape.PORTRAIT: Text.SHAPE_PORTRAIT,
    Shape.LANDSCAPE: Text.SHAPE_LANDSCAPE,
}


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option as it is registered. `choices` maps values to what people read."""

    name: str
    kind: Any
    text: locale_str
    required: bool = False
    choices: Mapping[str, locale_str] = {}


def options(config: Config) -> list[Option]:
    """Every option of /animate, those that are needed first."""
    longest = config.limits.max_prompt_chars
    string = app_commands.Range
    return [
        _picture("image", Text.ANIMATE_IMAGE, required=True),
        Option(
            name="prompt",
            kind=string[str, 1, longest],
            text=said(Text.ANIMATE_PROMPT),
            required=True,
        ),
        _number(config, "seconds", Text.ANIMATE_SECONDS, high=config.limits.max_seconds),
        Option(name="preset", kind=str, text=said(Text.ANIMATE_PRESET)),
        Option(
            name="quality",
            kind=str,
            text=said(Text.ANIMATE_QUALITY),
            choices={DRAFT: said(Text.QUALITY_DRAFT), FINAL: said(Text.QUALITY_FINAL)},
        ),
        Option(
            name="model",
            kind=str,
            text=said(Text.ANIMATE_MODEL),
            choices={Variant.I2V: said(Text.MODEL_I2V), Variant.F1: said(Text.MODEL_F1)},
        ),
        Option(
            name="shape",
            kind=str,
            text=said(Text.ANIMATE_SHAPE),
            choices={shape: said(text) for shape, text in SHAPES.items()},
        ),
        _number(config, "motion", Text.ANIMATE_MOTION),
        _number(config, "consistency", Text.ANIMATE_CONSISTENCY),
        _number(config, "guidance", Text.ANIMATE_GUIDANCE),
        Option(
            name="negative",
            kind=string[str, 1, int(limits("negative_prompt").high)],
            text=said(Text.ANIMATE_NEGATIVE),
        ),
        _number(config, "steps", Text.ANIMATE_STEPS),
        _number(config, "seed", Text.ANIMATE_SEED),
        _number(config, "resolution", Text.ANIMATE_RESOLUTION),
        _number(config, "fps", Text.ANIMATE_FPS),
        _picture("end_image", Text.ANIMATE_END_IMAGE),
        _number(config, "end_strength", Text.ANIMATE_END_STRENGTH),
        *(_picture(f"reference{n}", Text.ANIMATE_REFERENCE) for n in range(1, REFERENCES + 1)),
        Option(name="spoiler", kind=bool, text=said(Text.ANIMATE_SPOILER)),
    ]


def signature(shown: list[Option]) -> inspect.Signature:
    """The options as the signature that discord.py reads a command from."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = inspect.Parameter("interaction", kind, annotation=discord.Interaction)
    rest = [
        inspect.Parameter(
            option.name,
            kind,
            annotation=option.kind if option.required else option.kind | None,
            default=inspect.Parameter.empty if option.required else None,
        )
        for option in shown
    ]
    return inspect.Signature([first, *rest])


def settings_of(config: Config, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JobRequest that the given options set; pictures by their file names."""
    settings = {
        field: given[name] for name, field in SETTINGS.items() if given.get(name) is not None
    }
    if given.get("quality") is not None:
        settings["step_cache"] = step_cache(config, draft=given["quality"] == DRAFT)
    if given.get("end_image") is not None:
        settings["end_image"] = END_FILE
    if references := list(references_of(given)):
        settings["references"] = tuple(references)
    return settings


def step_cache(config: Config, *, draft: bool) -> StepCacheKind:
    """What may skip work: in a draft whatever the operator prefers, else TeaCache."""
    preferred = config.defaults.step_cache
    if not draft:
        return StepCacheKind.NONE
    return StepCacheKind.TEACACHE if preferred is StepCacheKind.NONE else preferred


def pictures_of(image: str, given: Mapping[str, Any]) -> dict[str, str]:
    """File name → address of every picture that was attached; `image` names the first's file."""
    pictures = {image: given["image"].url}
    if given.get("end_image") is not None:
        pictures[END_FILE] = given["end_image"].url
    return pictures | references_of(given)


def references_of(given: Mapping[str, Any]) -> dict[str, str]:
    """File name → address of the references that were attached, without gaps in their numbers."""
    names = (f"reference{n}" for n in range(1, REFERENCES + 1))
    return reference_files([given[name] for name in names if given.get(name) is not None])


def reference_files(attached: Sequence[discord.Attachment]) -> dict[str, str]:
    """File name → address of these references."""
    return {f"reference-{n}.png": file.url for n, file in enumerate(attached, start=1)}


def _picture(name: str, text: Text, *, required: bool = False) -> Option:
    return Option(name=name, kind=discord.Attachment, text=said(text), required=required)


def _number(config: Config, name: str, text: Text, high: float | None = None) -> Option:
    """A number's option; its kind, range and default are those of the field that it sets."""
    field = SETTINGS[name]
    bounds = limits(field)
    whole = field in ("seed", "steps", "resolution", "fps")
    kind = int if whole else float
    low, high = kind(bounds.low), kind(bounds.high if high is None else min(bounds.high, high))
    default = getattr(config.defaults, field, None)
    return Option(
        name=name,
        kind=app_commands.Range[kind, low, high],
        text=said(text, low=low, high=high, default=default),
    )
