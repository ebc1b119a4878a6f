"""What this machine has, for `doctor`: versions, GPU, ffmpeg. It reports; it never fails."""

from __future__ import annotations

import json
import platform
import shutil
from typing import Any


def probe() -> str:
    """One JSON object. What is missing is null, with a sentence under `problems`."""
    found: dict[str, Any] = {"python": platform.python_version(), "problems": []}
    _probe_torch(found)
    _probe_ffmpeg(found)
    try:
        from generator.record import library_versions

        found["versions"] = library_versions()
    except ImportError as error:
        found["versions"] = None
        found["problems"].append(f"The generator's packages are incomplete: {error}.")
    return json.dumps(found)


def probe_in_words() -> str:
    """One line for a person: which build of torch this is, and whether a GPU was seen."""
    found: dict[str, Any] = {"problems": []}
    _probe_torch(found)
    if found["torch"] is None:
        return str(found["problems"][0])
    build = f"for CUDA {found['cuda']}" if found["cuda"] else "for the CPU"
    gpus = ", ".join(f"{gpu['name']} ({gpu['vram_gib']} GiB)" for gpu in found["gpus"])
    return f"torch {found['torch']}, built {build}; NVIDIA GPU: {gpus or 'none seen'}"


def _probe_torch(found: dict[str, Any]) -> None:
    found |= {"torch": None, "cuda": None, "gpus": []}
    try:
        import torch
    except (ImportError, OSError) as error:
        found["problems"].append(f"torch can not be imported: {error}.")
        return
    from generator.machine import driver_problem

    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
    problem = driver_problem()
    if problem is not None:
        found["problems"].append(f"driver: {problem}.")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gib = round(properties.total_memory / 2**30, 1)
        free_gib = round(torch.cuda.mem_get_info(index)[0] / 2**30, 1)
        gpu = {"name": properties.name, "vram_gib": gib, "free_gib": free_gib}
        found["gpus"].append(gpu)


def _probe_ffmpeg(found: dict[str, Any]) -> None:
    found["ffmpeg"] = None
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        found["problems"].append(f"ffmpeg was not found: {error}.")
        return
    found["ffmpeg"] = shutil.which(program)
    if found["ffmpeg"] is None:
        found["problems"].append(f"ffmpeg was not found: {program} is not a program.")
