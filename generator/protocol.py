"""What the bot and the generator say to each other, and the range of every setting.

Decides: the messages, their fields, defaults and ranges. Each range is declared once, here, on the
field it limits; commands, CLI and config read it with `limits()`. Refuses to know: models, torch,
Discord, SQL. This is the only module of the generator that others may import, so it needs nothing
but the standard library and msgspec.

One message is one line of JSON in UTF-8. The bot writes `ToGenerator` to the child's stdin, the
child writes `FromGenerator` to its stdout; a job ends with exactly one of `TERMINAL`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

PROTOCOL_VERSION = 4
MODEL_FPS = 30
"""Frames per second that FramePack's models were trained at."""


class Variant(StrEnum):
    """Which end of the video grows: I2V makes the end first, F1 goes forward."""

    I2V = "i2v"
    F1 = "f1"

    @property
    def grows_backward(self) -> bool:
        """Whether the sections that are made first are the video's end."""
        return self is Variant.I2V


class Shape(StrEnum):
    """The video's sides: nearest to the picture's, or as named, with the picture cut to it."""

    PICTURE = "picture"
    SQUARE = "square"
    PORTRAIT = "portrait"
    LANDSCAPE = "landscape"


class StepCacheKind(StrEnum):
    """What may skip the transformer's blocks in a step."""

    NONE = "none"
    TEACACHE = "teacache"
    MAGCACHE = "magcache"
    FIRST_BLOCK = "first_block"


class Resampling(StrEnum):
    """How frames are made at another rate: the nearest frame, or a mix of its neighbours."""

    NEAREST = "nearest"
    BLEND = "blend"


class Mode(StrEnum):
    """Where the transformer's weights lie while it samples."""

    AUTO = "auto"  # the machine is measured
    RESIDENT = "resident"  # every part stays on the GPU
    SWAP = "swap"  # the transformer on the GPU, other parts come and go
    STREAM = "stream"  # its blocks pass through the GPU, from pinned RAM as far as there is room
    DISK = "disk"  # its blocks pass through the GPU, all of them from their files


class Storage(StrEnum):
    """In how many bits the transformer's blocks are held."""

    NATIVE = "native"
    FP8 = "fp8"  # all matrices of the blocks: 12.3 GiB
    FP8_KEEP_NORMS = "fp8-keep-norms"  # but the AdaLN ones, as diffusers' own patterns: 15.5 GiB


class Attention(StrEnum):
    """Which attention kernel the transformer uses."""

    AUTO = "auto"
    NATIVE = "native"
    FLASH = "flash"
    XFORMERS = "xformers"
    SAGE = "sage"


Prompt = Annotated[str, Meta(min_length=1, max_length=2000)]


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that decides what a video looks like. File names are relative to the job's folder.

    Build it with `job_request()`, which checks the ranges; msgspec's constructors do not.
    """

    prompt: Prompt
    seed: Annotated[int, Meta(ge=0, le=2**53 - 1)]
    image: str = "input.png"
    negative_prompt: Annotated[str, Meta(max_length=2000)] = ""
    variant: Variant = Variant.I2V
    seconds: Annotated[float, Meta(ge=0.1, le=120)] = 5.0
    steps: Annotated[int, Meta(ge=1, le=100)] = 25
    resolution: Annotated[int, Meta(ge=64, le=1280)] | None = None  # None: the model's own
    shape: Shape = Shape.PICTURE
    latent_window_size: Annotated[int, Meta(ge=1, le=33)] = 9
    guidance_scale: Annotated[float, Meta(ge=1, le=32)] = 10.0
    true_cfg_scale: Annotated[float, Meta(ge=1, le=32)] = 1.0
    guidance_rescale: Annotated[float, Meta(ge=0, le=1)] = 0.0
    motion_bias: Annotated[float, Meta(ge=0.5, le=25)] | None = None
    consistency_boost: Annotated[float, Meta(ge=1, le=2)] = 1.0
    references: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    end_image: str | None = None
    end_strength: Annotated[float, Meta(ge=0, le=1)] = 1.0
    step_cache: StepCacheKind = StepCacheKind.NONE
    step_cache_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.15
    fps: Annotated[int, Meta(ge=1, le=60)] = MODEL_FPS
    resampling: Resampling = Resampling.NEAREST
    crf: Annotated[int, Meta(ge=0, le=51)] = 16


class Stage(StrEnum):
    """What the generator is doing, in the order in which it is done."""

    LOADING = "loading"
    TEXT = "text"
    IMAGE = "image"
    SAMPLING = "sampling"
    DECODING = "decoding"
    ENCODING = "encoding"


class ErrorKind(StrEnum):
    """Whose business a failure is: the asker's, the machine's, or ours."""

    INPUT = "input"
    MEMORY = "memory"
    MODEL = "model"
    DISK = "disk"
    INTERNAL = "internal"


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Make this job's video. `folder` is absolute, holds the input and receives the output.

    With `only_finished` no step is made: the video is of the sections that the folder holds.
    """

    job_id: str
    folder: str
    request: JobRequest
    only_finished: bool = False


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Stop this job within one step. A job that already ended is ignored."""

    job_id: str


class Suspend(msgspec.Struct, frozen=True, kw_only=True, tag="suspend"):
    """End this job's turn at the next step that is kept; what was made stays in its folder.

    The same `Generate` goes on from there. A job that only has its frames to draw goes on to its
    end; one that already ended is ignored.
    """

    job_id: str


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """Stop this job within one step and make the video of the sections that are finished by then.

    Without any it fails with INPUT. A job that only has its frames to draw goes on to its end; one
    that already ended is ignored.
    """

    job_id: str


class Unload(msgspec.Struct, frozen=True, kw_only=True, tag="unload"):
    """Give VRAM and pinned RAM back once the jobs that were sent before this are done.

    Nothing answers. The process stays, and the next job loads again what it needs.
    """


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Say what memory there is and what is loaded; `Measured` answers, also during a job."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The first line of a child that can take jobs."""

    protocol_version: int
    model: str
    device: str
    device_name: str
    dtype: str
    placement: str
    versions: dict[str, str]


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """The answer to `Measure`, in bytes; what is on no GPU is 0.

    `vram_used` and `ram_used` are what this process holds, `variant` the transformer that is
    loaded, if any, `placement` where weights lie and why, `ram_limit` what bounds the RAM.
    """

    placement: str
    ram_used: int
    ram_free: int
    ram_limit: str
    variant: Variant | None = None
    vram_used: int = 0
    vram_free: int = 0
    vram_total: int = 0


class Broken(msgspec.Struct, frozen=True, kw_only=True, tag="broken"):
    """The first and only line of a child that can not take jobs; `message` says what to do."""

    kind: ErrorKind
    message: str


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a job is. Sections and steps count from 1 while sampling, else 0.

    `fraction` runs from 0 to 1 over the whole job; `remaining_s` is None until something was
    measured; `preview` is a new file in the job's folder (animated WebP of the newest section).
    `stage_s` holds the seconds spent in each stage so far.
    """

    job_id: str
    stage: Stage
    section: int = 0
    sections: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    step_s: float | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    preview: str | None = None
    stage_s: dict[Stage, float] = msgspec.field(default_factory=dict)


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The video is in the job's folder: `sections_made` of the `sections` that were asked for.

    `given_up` names in words what the job had to give up for want of memory.
    """

    job_id: str
    video: str
    frames: int
    width: int
    height: int
    fps: int
    size_bytes: int
    elapsed_s: float
    stage_s: dict[Stage, float]
    sections_made: int
    sections: int
    given_up: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """No video. `message` is one sentence for the asker: what is wrong, and what to do."""

    job_id: str
    kind: ErrorKind
    message: str


class Cancelled(msgspec.Struct, frozen=True, kw_only=True, tag="cancelled"):
    """The job was stopped because somebody asked for it."""

    job_id: str


class Suspended(msgspec.Struct, frozen=True, kw_only=True, tag="suspended"):
    """The job's turn is over; its folder holds what was made so far."""

    job_id: str


ToGenerator = Generate | Cancel | Suspend | Finish | Unload | Measure
FromGenerator = Ready | Broken | Measured | Progress | Finished | Failed | Cancelled | Suspended
Event = Progress | Finished | Failed | Cancelled | Suspended
TERMINAL = (Finished, Failed, Cancelled, Suspended)

_encoder = msgspec.json.Encoder()
_to_generator = msgspec.json.Decoder(ToGenerator)
_from_generator = msgspec.json.Decoder(FromGenerator)


def encode_line(message: ToGenerator | FromGenerator) -> bytes:
    """One message as one line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_to_generator(line: bytes) -> ToGenerator:
    """Parse a line of the child's stdin. Raises msgspec.ValidationError or DecodeError."""
    return _to_generator.decode(line)


def decode_from_generator(line: bytes) -> FromGenerator:
    """Parse a line of the child's stdout. Raises msgspec.ValidationError or DecodeError."""
    return _from_generator.decode(line)


class RequestError(ValueError):
    """A setting is out of its range; the text names the setting, the value and the range."""


class Limits(NamedTuple):
    """The smallest and the largest value (or length, for texts and lists) of a setting."""

    low: float
    high: float


def _find_limits() -> dict[str, Limits]:
    found = {}
    for field in msgspec.inspect.type_info(JobRequest).fields:  # type: ignore[attr-defined]
        types = getattr(field.type, "types", (field.type,))
        for kind in types:
            low, high = getattr(kind, "ge", None), getattr(kind, "le", None)
            if low is None and high is None:
                low, high = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
            if high is not None:
                found[field.name] = Limits(low or 0, high)
    return found


_LIMITS = _find_limits()


def limits(setting: str) -> Limits:
    """The range of a JobRequest field. KeyError for a field without one."""
    return _LIMITS[setting]


def job_request(**settings: Any) -> JobRequest:
    """A checked JobRequest. RequestError names the first setting that is wrong, and its range."""
    prompt = settings.get("prompt")
    if isinstance(prompt, str) and not prompt.strip():
        raise RequestError("prompt is empty; write one sentence about what should move")
    if not _is_unicode(settings):
        raise RequestError("the prompt holds characters that are not valid Unicode; retype them")
    for name, value in settings.items():
        _check_range(name, value)
    try:
        return msgspec.convert(settings, JobRequest)
    except msgspec.ValidationError as error:
        raise RequestError(str(error)) from None


def _is_unicode(settings: dict[str, Any]) -> bool:
    try:
        f"{settings.get('prompt')}{settings.get('negative_prompt')}".encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_range(name: str, value: Any) -> None:
    bounds = _LIMITS.get(name)
    if bounds is None or value is None:
        return
    if isinstance(value, str | tuple | list):
        size, what = len(value), "characters" if isinstance(value, str) else "entries"
        if not bounds.low <= size <= bounds.high:
            raise RequestError(
                f"{name} has {size:,} {what}; {bounds.low:g} to {bounds.high:,g} are allowed"
            )
    elif isinstance(value, int | float) and not bounds.low <= value <= bounds.high:
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.15g}"
        raise RequestError(
            f"{name} is {shown}; it must be between {bounds.low:g} and {bounds.high:,.16g}"
        )
