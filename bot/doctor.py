"""`framepack-bot doctor`: everything the bot needs, one line each, with what to do about it.

Decides: what is looked at, and what counts as a problem. Refuses to know: torch; what the generator
can see it is asked (`python -m generator probe`), so a doctor without torch still says so kindly.
Nothing is sent anywhere, the token is never shown, and nothing is changed but that the data folder
is made where it is missing.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from bot.backend import MACHINE_SETTINGS, generator_words
from bot.config import Config, ConfigError, Device, load_config, read_token
from bot.instance import InstanceError, sole_instance

PROBE_TIMEOUT_S = 300
GIB = 1 << 30
FREE_GIB_WANTED = 5.0
BUILT_IN_MODELS = ("demo", "tiny")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at. With a `remedy` it is a problem."""

    what: str
    seen: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{'problem' if self.remedy else 'ok':<8}{self.what + ':':<14}{self.seen}"
        return f"{line}\n{'':<22}→ {self.remedy}" if self.remedy else line


def examine(config_path: Path | None, environ: Mapping[str, str], out: TextIO) -> int:
    """Write the findings, each as soon as it is there. Returns 0 when none is a problem, else 1."""
    problems = 0
    for finding in findings(config_path, environ):
        out.write(f"{finding}\n")
        out.flush()
        problems += bool(finding.remedy)
    out.write("\nEverything is in place.\n" if not problems else f"\nProblems: {problems}.\n")
    return 1 if problems else 0


def findings(config_path: Path | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is looked at, quick things first."""
    yield _python()
    config, finding = _config(config_path, environ)
    yield finding
    yield _token(environ)
    yield _data_dir(config)
    yield _disk(config)
    probe = _probe()
    yield from _torch(probe)
    yield _gpu(probe, config)
    yield _ffmpeg(probe)
    yield from _model(config)


def _python() -> Finding:
    seen = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 11):  # noqa: UP036 - pip may have been told to ignore it
        return Finding(what="Python", seen=seen, remedy="install Python 3.11 or newer")
    return Finding(what="Python", seen=seen)


def _config(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, Finding]:
    try:
        config = load_config(path, environ)
    except ConfigError as error:
        remedy = "correct it; the defaults are looked at in what follows"
        return Config(), Finding(what="config", seen=str(error), remedy=remedy)
    found = path or ("config.toml" if Path("config.toml").is_file() else "no file, all defaults")
    return config, Finding(what="config", seen=str(found))


def _token(environ: Mapping[str, str]) -> Finding:
    try:
        read_token(environ)
    except ConfigError as error:
        seen, _, remedy = str(error).partition(": ")
        return Finding(what="token", seen=seen, remedy=remedy or "set DISCORD_TOKEN")
    return Finding(what="token", seen="there is one (whether it is right, only Discord knows)")


def _data_dir(config: Config) -> Finding:
    folder = config.storage.data_dir
    try:
        with sole_instance(folder):
            pass
    except InstanceError as error:
        if "another framepack-bot" in str(error):
            return Finding(what="data folder", seen=f"{folder}, in use by a running bot")
        seen, _, remedy = str(error).partition("; ")
        return Finding(what="data folder", seen=seen, remedy=remedy)
    return Finding(what="data folder", seen=str(folder))


def _disk(config: Config) -> Finding:
    folder = config.storage.data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_gib = shutil.disk_usage(folder).free / GIB
    seen = f"{free_gib:.1f} GiB free at {folder}"
    if free_gib >= FREE_GIB_WANTED:
        return Finding(what="disk", seen=seen)
    remedy = f"free some: below {FREE_GIB_WANTED:g} GiB videos may soon not be kept"
    return Finding(what="disk", seen=seen, remedy=remedy)


def _probe() -> dict[str, Any] | str:
    """What the generator sees, or why it sees nothing."""
    try:
        done = _generator("probe")
        found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"the generator does not start ({error})"
    return found if isinstance(found, dict) else "the generator's answer is not what it should be"


def _torch(probe: dict[str, Any] | str) -> Iterator[Finding]:
    remedy = "pip install 'framepack-bot[generator]' (the README has the lines for CPU and CUDA)"
    if isinstance(probe, str):
        yield Finding(what="generator", seen=probe, remedy=remedy)
        return
    if probe.get("torch"):
        build = f"for CUDA {probe['cuda']}" if probe.get("cuda") else "for the CPU"
        yield Finding(what="torch", seen=f"{probe['torch']}, built {build}")
    for problem in probe.get("problems", ()):
        what = next((w for w in ("torch", "ffmpeg", "driver") if problem.startswith(w)), "packages")
        if what == "driver":
            problem, _, cure = problem.removeprefix("driver: ").rstrip(".").partition("; ")
        yield Finding(what=what, seen=problem, remedy=cure if what == "driver" else remedy)


def _gpu(probe: dict[str, Any] | str, config: Config) -> Finding:
    gpus = probe.get("gpus", []) if isinstance(probe, dict) else []
    if gpus:
        seen = ", ".join(
            f"{gpu['name']} with {gpu['vram_gib']} GiB, {gpu['free_gib']} GiB free" for gpu in gpus
        )
        return Finding(what="GPU", seen=seen)
    if config.generator.device is Device.CUDA:
        remedy = "install the NVIDIA driver and a CUDA build of torch, or set generator.device"
        return Finding(what="GPU", seen="none seen, but generator.device is cuda", remedy=remedy)
    slow = "" if config.generator.model in BUILT_IN_MODELS else "; FramePack takes hours without"
    return Finding(what="GPU", seen=f"no NVIDIA GPU seen{slow}")


def _ffmpeg(probe: dict[str, Any] | str) -> Finding:
    path = probe.get("ffmpeg") if isinstance(probe, dict) else None
    remedy = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg"
    if not path:
        return Finding(what="ffmpeg", seen="not found", remedy=remedy)
    try:
        done = _call([path, "-hide_banner", "-version"])
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(what="ffmpeg", seen=f"{path} does not run ({error})", remedy=remedy)
    return Finding(what="ffmpeg", seen=" ".join(done.stdout.split()[:3]))


def _model(config: Config) -> Iterator[Finding]:
    """All that the generator looks at before it takes jobs, with the settings it will get."""
    generator = config.generator
    named = f"{generator.model}, which comes with the bot"
    name = named if generator.model in BUILT_IN_MODELS else generator.model
    try:
        settings = {name: getattr(generator, name) for name in MACHINE_SETTINGS}
        done = _generator("check", *generator_words(settings))
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(what="model", seen=str(error), remedy="make the generator run first")
        return
    words = done.stdout.strip().splitlines()
    if done.returncode == 0 and words:
        yield Finding(what="model", seen=name)
        yield Finding(what="placement", seen=words[-1])
        return
    words = done.stderr.strip().splitlines()
    seen = words[-1].removeprefix("framepack-bot: ") if words else f"{name} was refused"
    remedy = "the generator will take no job until this is put right (README, docs/memory.md)"
    yield Finding(what="model", seen=seen, remedy=remedy)


def _generator(*words: str) -> subprocess.CompletedProcess[str]:
    return _call([sys.executable, "-m", "generator", *words])


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=PROBE_TIMEOUT_S,
        env={k: v for k, v in os.environ.items() if not k.startswith("DISCORD_TOKEN")},
    )
