"""config.toml becomes frozen structs; the token comes only from the environment.

Decides: every setting of the bot, its default, its range, and the sentence for a wrong one. Refuses
to know: what settings are used for. Source: `config.example.toml` says why each exists; the ranges
of `[defaults]` are those of `generator.protocol.JobRequest`.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from bot.turns import TurnsConfig
from generator.protocol import (
    Attention,
    JobRequest,
    Mode,
    Resampling,
    Shape,
    StepCacheKind,
    Storage,
    Variant,
    limits,
)

DEFAULT_FILE = Path("config.toml")
TOKEN_VARIABLE = "DISCORD_TOKEN"
TOKEN_FILE_VARIABLE = "DISCORD_TOKEN_FILE"

_REQUEST = {field.name: field.default for field in msgspec.structs.fields(JobRequest)}


class ConfigError(Exception):
    """A setting that can not be used; the text is one sentence with its path, value and range."""


class Device(StrEnum):
    """Where the generator computes; auto takes an NVIDIA GPU where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class Dtype(StrEnum):
    """The generator's number format; auto takes what the device is good at."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class DiscordConfig(Struct, frozen=True, kw_only=True):
    """Which Discord, and where on it. Empty addresses mean Discord's own."""

    api_url: str = ""
    gateway_url: str = ""
    guild_ids: tuple[Annotated[int, Meta(ge=1, le=2**63 - 1)], ...] = ()
    allow_dms: bool = False


class StorageConfig(Struct, frozen=True, kw_only=True):
    """Where what survives a restart lies. Absolute once loaded."""

    data_dir: Path = Path("data")
    keep_days: Annotated[float, Meta(ge=1, le=3650)] = 30.0
    keep_gib: Annotated[float, Meta(ge=0.1, le=100_000)] = 20.0


class AdminsConfig(Struct, frozen=True, kw_only=True):
    """Who may use /admin, besides having the permission Manage Server there."""

    user_ids: tuple[Annotated[int, Meta(ge=1, le=2**63 - 1)], ...] = ()
    role_ids: tuple[Annotated[int, Meta(ge=1, le=2**63 - 1)], ...] = ()


class GeneratorConfig(Struct, frozen=True, kw_only=True):
    """How the generator's process is started and stopped."""

    model: Annotated[str, Meta(min_length=1, max_length=4096)] = "demo"
    variant: Variant = Variant.I2V
    device: Device = Device.AUTO
    dtype: Dtype = Dtype.AUTO
    placement: Mode = Mode.AUTO
    storage: Storage = Storage.NATIVE
    attention: Attention = Attention.AUTO
    compile: bool = False
    preserve_vram_gib: Annotated[float, Meta(ge=0, le=128)] = 0.0
    resume_every_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    idle_unload_s: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    start_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 300.0
    cancel_grace_s: Annotated[float, Meta(ge=1, le=600)] = 30.0
    silence_limit_s: Annotated[float, Meta(ge=10, le=86400)] = 1800.0
    allow_lossy_fallback: bool = False
    memory_limit_gib: Annotated[float, Meta(ge=0, le=4096)] = 0.0


class Defaults(Struct, frozen=True, kw_only=True):
    """What a job gets that asks for nothing else: fields of JobRequest, with its ranges."""

    seconds: float = _REQUEST["seconds"]
    steps: int = _REQUEST["steps"]
    resolution: int | None = _REQUEST["resolution"]
    shape: Shape = _REQUEST["shape"]
    latent_window_size: int = _REQUEST["latent_window_size"]
    guidance_scale: float = _REQUEST["guidance_scale"]
    true_cfg_scale: float = _REQUEST["true_cfg_scale"]
    guidance_rescale: float = _REQUEST["guidance_rescale"]
    negative_prompt: str = _REQUEST["negative_prompt"]
    consistency_boost: float = _REQUEST["consistency_boost"]
    step_cache: StepCacheKind = _REQUEST["step_cache"]
    step_cache_threshold: float = _REQUEST["step_cache_threshold"]
    fps: int = _REQUEST["fps"]
    resampling: Resampling = _REQUEST["resampling"]
    crf: int = _REQUEST["crf"]


_SECONDS, _PROMPT = limits("seconds"), limits("prompt")


class Limits(Struct, frozen=True, kw_only=True):
    """What people may ask for, and how large their pictures and our posts may be."""

    max_seconds: Annotated[float, Meta(ge=_SECONDS.low, le=_SECONDS.high)] = 20.0
    max_waiting_per_user: Annotated[int, Meta(ge=1, le=1000)] = 3
    max_per_day: Annotated[int, Meta(ge=0, le=10000)] = 0
    blocked_words: tuple[Annotated[str, Meta(min_length=1, max_length=100)], ...] = ()
    max_prompt_chars: Annotated[int, Meta(ge=1, le=int(_PROMPT.high))] = int(_PROMPT.high)
    upload_limit_mib: Annotated[float, Meta(ge=0.1, le=500)] = 10.0
    max_attachment_mib: Annotated[float, Meta(ge=0.1, le=100)] = 25.0
    max_picture_megapixels: Annotated[float, Meta(ge=0.1, le=100)] = 50.0
    picture_timeout_s: Annotated[float, Meta(ge=1, le=300)] = 30.0
    picture_memory_mib: Annotated[int, Meta(ge=512, le=16384)] = 1024


class Config(Struct, frozen=True, kw_only=True):
    """All settings, checked."""

    discord: DiscordConfig = DiscordConfig()
    admins: AdminsConfig = AdminsConfig()
    storage: StorageConfig = StorageConfig()
    generator: GeneratorConfig = GeneratorConfig()
    defaults: Defaults = Defaults()
    limits: Limits = Limits()
    turns: TurnsConfig = TurnsConfig()


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The settings of this file, or of $FRAMEPACK_BOT_CONFIG, or of ./config.toml if there is one.

    With none of them every setting has its default. Relative folders are relative to the file (to
    the current folder without one), `~` is the home folder. Raises ConfigError.
    """
    if path is None and environ.get("FRAMEPACK_BOT_CONFIG"):
        path = Path(environ["FRAMEPACK_BOT_CONFIG"])
    if path is None and DEFAULT_FILE.is_file():
        path = DEFAULT_FILE
    base = Path.cwd() if path is None else path.absolute().parent
    try:
        return _checked({} if path is None else _read(path), base)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_token(environ: Mapping[str, str]) -> str:
    """The bot's token, from DISCORD_TOKEN or the file that DISCORD_TOKEN_FILE names.

    Only Discord judges its form. Raises ConfigError, which never holds any of it.
    """
    if token := environ.get(TOKEN_VARIABLE, "").strip():
        return _sendable(token, TOKEN_VARIABLE)
    name = environ.get(TOKEN_FILE_VARIABLE, "").strip()
    if not name:
        raise ConfigError(
            f"there is no bot token: set {TOKEN_VARIABLE}, or {TOKEN_FILE_VARIABLE} to a file that "
            "holds it (discord.com/developers/applications → your application → Bot → Reset Token)"
        )
    try:
        token = Path(name).expanduser().read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{TOKEN_FILE_VARIABLE}: {name} can not be read: {reason}") from None
    if not token:
        raise ConfigError(f"{TOKEN_FILE_VARIABLE}: {name} is empty; put the bot's token into it")
    return _sendable(token, TOKEN_FILE_VARIABLE)


def _sendable(token: str, source: str) -> str:
    if not token.isprintable():
        raise ConfigError(
            f"{source} holds a line break or a control character inside the token; copy it again"
        )
    return token


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("there is no such file; copy config.example.toml there") from None
    except OSError as error:
        raise ConfigError(f"it can not be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError("it is not UTF-8 text; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:  # its text ends in "(at line 3, column 5)"
        raise ConfigError(f"this is not TOML: {error}") from None


def _checked(table: dict[str, Any], base: Path) -> Config:
    sections = get_type_hints(Config)
    _refuse_unknown(table, sections, prefix="")
    config = Config(**{name: _section(name, sections[name], table[name]) for name in table})
    if config.defaults.seconds > config.limits.max_seconds:
        raise ConfigError(
            f"defaults.seconds is {config.defaults.seconds:g}; it must be at most "
            f"limits.max_seconds, which is {config.limits.max_seconds:g}"
        )
    discord, generator = config.discord, config.generator
    return msgspec.structs.replace(
        config,
        discord=msgspec.structs.replace(
            discord,
            api_url=_checked_url("discord.api_url", discord.api_url, "http"),
            gateway_url=_checked_url("discord.gateway_url", discord.gateway_url, "ws"),
        ),
        storage=msgspec.structs.replace(
            config.storage, data_dir=base / config.storage.data_dir.expanduser()
        ),
        generator=msgspec.structs.replace(generator, model=_model(generator.model, base)),
    )


def _section(name: str, kind: type[Any], table: Any) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} is {_shown(table)}; it must be a section that begins [{name}]")
    # The fields of [defaults] carry no ranges of their own: the protocol's are the only ones.
    kinds = get_type_hints(JobRequest if kind is Defaults else kind, include_extras=True)
    known = msgspec.structs.fields(kind)
    _refuse_unknown(table, {field.name: None for field in known}, prefix=f"{name}.")
    return kind(**{key: _value(f"{name}.{key}", kinds[key], table[key]) for key in table})


def _value(path: str, kind: Any, value: Any) -> Any:
    try:
        return msgspec.convert(value, kind, dec_hook=_as_path)
    except msgspec.ValidationError:
        expected = _described(msgspec.inspect.type_info(kind))
        raise ConfigError(f"{path} is {_shown(value)}; it must be {expected}") from None


def _as_path(kind: type[Any], value: Any) -> Any:
    if kind is not Path or not isinstance(value, str) or not value.strip():
        raise ValueError
    return Path(value)


def _described(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType(types=(inner, *_)):  # a setting that may be left out
            return _described(inner)
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case msgspec.inspect.FloatType(ge=low, le=high):
            return f"a number from {low:g} to {high:g}"
        case msgspec.inspect.StrType(min_length=low, max_length=high) if high is not None:
            return f"a text of {low or 0} to {high} characters"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.EnumType(cls=members):
            return "one of " + ", ".join(f'"{member.value}"' for member in members)
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"a list, each entry {_described(item)}"
        case msgspec.inspect.TupleType(item_types=items):
            return "a list of " + " and ".join(map(_described, items))
        case msgspec.inspect.CustomType():
            return "the path of a folder, as a text"
        case _:
            return "a text"


def _shown(value: Any) -> str:
    # JSON writes what TOML does, but for nan and inf.
    text = str(value) if isinstance(value, float) else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text):,} characters)"


def _refuse_unknown(table: Mapping[str, Any], known: Mapping[str, Any], *, prefix: str) -> None:
    for key, value in table.items():
        if key in known:
            continue
        if not prefix and isinstance(value, dict):
            raise ConfigError(f"there is no section [{key}]; {_nearest(key, list(known))}")
        if "token" in key.lower():
            raise ConfigError(f"{prefix}{key}: no token belongs in this file; set {TOKEN_VARIABLE}")
        raise ConfigError(f"{prefix}{key} is no setting; {_nearest(prefix + key, _all_paths())}")


def _nearest(path: str, known: list[str]) -> str:
    key = path.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == key]
    near = elsewhere or difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"the known ones are {', '.join(known)}"


def _all_paths() -> list[str]:
    return [
        f"{section}.{field.name}"
        for section, kind in get_type_hints(Config).items()
        for field in msgspec.structs.fields(kind)
    ]


def _checked_url(path: str, url: str, scheme: str) -> str:
    """The address without a last slash, if it is encrypted or stays on this host. ConfigError."""
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # a port that is no number, a bracket too few
        whole = False
    expected = f"an address like {scheme}s://HOST/PATH, or empty for Discord's own"
    if not whole or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"{path} is {_shown(url)}; it must be {expected}")
    if parts.scheme == scheme and not _is_loopback(parts.hostname or ""):
        raise ConfigError(
            f"{path} is {_shown(url)}; plain {scheme}:// would send the token readable for all, so "
            f"it is allowed to 127.0.0.1, [::1] and localhost only: use {scheme}s://"
        )
    if parts.scheme not in (scheme, f"{scheme}s"):
        raise ConfigError(f"{path} is {_shown(url)}; it must be {expected}")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _model(name_or_folder: str, base: Path) -> str:
    """A bare word is a name that the generator knows; anything like a path is a folder."""
    if name_or_folder.startswith((".", "~")) or "/" in name_or_folder or "\\" in name_or_folder:
        return str(base / Path(name_or_folder).expanduser())
    return name_or_folder
