"""Jobs of a second or two: what the generator's tests share.

`SMALL` is 9 frames of 64 × 64 in two sections of one latent frame.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from generator.__main__ import _parser
from generator.pipeline import generate
from generator.protocol import Finished, JobRequest, Progress, Stage, job_request
from generator.workshop import Workshop, open_workshop

SMALL: dict[str, Any] = {
    "prompt": "a cat walks",
    "seed": 7,
    "resolution": 64,
    "latent_window_size": 1,
    "seconds": 0.2,
    "steps": 2,
}

VIDEO = "framepack-job.mp4"
"""What a job of the name `job` makes."""


def small_request(**changes: Any) -> JobRequest:
    return job_request(**{**SMALL, **changes})


def small_workshop(model: Path, cache_dir: Path | None = None) -> Workshop:
    """A workshop as a fresh process would open it."""
    return open_workshop(serve_settings(model=str(model), cache_dir=cache_dir))


def serve_settings(**changes: Any) -> Any:
    """The words of `serve` with their defaults, on the CPU."""
    settings = _parser().parse_args(["serve", "--device", "cpu"])
    return Namespace(**{**vars(settings), **changes})


def draw_picture(path: Path, width: int = 64, height: int = 64, phase: int = 0) -> Path:
    """A picture with something in every place and channel."""
    y, x = np.indices((height, width))
    channels = [(x * 3 + y + phase) % 256, (y * 5 + 40 * phase) % 256, (x ^ y) % 256]
    Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).save(path)
    return path


def run_job(
    workshop: Workshop, folder: Path, request: JobRequest, job_id: str = "job", **options: Any
) -> tuple[list[Progress], Finished]:
    """Run a job to its end. Draws `input.png` when the folder has none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "input.png").exists():
        draw_picture(folder / "input.png")
    *progress, finished = generate(job_id, request, folder, workshop, **options)
    assert isinstance(finished, Finished)
    return progress, finished  # type: ignore[return-value]


def sampled(workshop: Workshop, folder: Path, request: JobRequest) -> dict[str, torch.Tensor]:
    """The latents of a job and its `computed_steps_KK`; the video itself is not made.

    Each call works in a folder of its own, so that nothing is left to go on from.
    """
    own = Path(tempfile.mkdtemp(dir=folder))
    draw_picture(own / "input.png")
    file = own / "latents.safetensors"
    with closing(generate("job", request, own, workshop, latents_out=file)) as events:
        next(event for event in events if event.stage is Stage.DECODING)  # type: ignore[union-attr]
    return load_file(file)


def computed_steps(tensors: dict[str, torch.Tensor]) -> list[list[int]]:
    """Of each section: the steps that ran the transformer's blocks."""
    return [tensors[name].tolist() for name in sorted(tensors) if name.startswith("computed")]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def frames_in(mp4: Path, width: int, height: int) -> np.ndarray:
    """What a player shows: uint8 (frames, H, W, 3)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(mp4)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def comment_of(mp4: Path) -> Any:
    """The JSON in the file's metadata, as ffmpeg prints it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(mp4)]
    text = subprocess.run(
        [*command, "-f", "ffmetadata", "-"], check=True, capture_output=True
    ).stdout.decode()
    (line,) = [line for line in text.replace("\\\n", "\n").split("\n") if line[:8] == "comment="]
    escaped = iter(line.removeprefix("comment="))
    return json.loads("".join(next(escaped) if char == "\\" else char for char in escaped))
