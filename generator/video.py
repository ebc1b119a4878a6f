"""Decoded chunks become one MP4, frame by frame; latents become a small moving preview.

Decides: the cross-fade between chunks, the output rate, quantisation, ffmpeg's arguments, the
preview map. Refuses to know: models. No more than two chunks of pixels are in memory at a time.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generator.errors import DiskError, GeneratorError, ModelError
from generator.protocol import MODEL_FPS, Resampling

PREVIEW_FRAME_MS = 133  # four video frames pass in one latent frame
PREVIEW_QUALITY = 60
STDERR_TAIL = 2000

# The linear RGB map that ComfyUI publishes for HunyuanVideo's latents.
PREVIEW_FACTORS = (
    (-0.0395, -0.0331, 0.0445),
    (0.0696, 0.0795, 0.0518),
    (0.0135, -0.0945, -0.0282),
    (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224),
    (-0.0804, -0.0254, -0.0639),
    (-0.0991, 0.0271, -0.0669),
    (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894),
    (-0.0799, -0.0208, -0.0375),
    (0.1166, 0.1627, 0.0962),
    (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355),
    (-0.0270, 0.0401, -0.0821),
    (-0.0616, -0.0997, -0.0727),
    (0.0249, -0.0469, -0.1703),
)
PREVIEW_BIAS = (0.0259, -0.0192, -0.0761)


def cross_fade(chunks: Iterable[Tensor], overlap: int) -> Iterator[Tensor]:
    """Join chunks (T, 3, H, W) whose neighbours share `overlap` frames; yields pieces in order.

    The earlier chunk fades out linearly, from weight 1 to 0. Sums are in float32.
    """
    weights = torch.linspace(1, 0, overlap).view(-1, 1, 1, 1)
    tail: Tensor | None = None
    for chunk in chunks:
        if tail is not None:
            chunk = torch.cat([tail * weights + chunk[:overlap] * (1 - weights), chunk[overlap:]])
        yield chunk[:-overlap]
        tail = chunk[-overlap:].clone()
        del chunk  # while the next one is decoded
    if tail is not None:
        yield tail


def quantise(pixels: Tensor) -> np.ndarray:
    """Pixels (T, 3, H, W) in −1…1 become uint8 (T, H, W, 3), truncated as the reference does."""
    scaled = pixels.clamp(-1, 1) * 127.5 + 127.5
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def frame_total(frames: int, fps: int) -> int:
    """How many frames `frames` at 30 fps become at `fps`, so that the seconds stay the same."""
    return max(round(frames * fps / MODEL_FPS), 1)


def resample(
    frames: Iterable[np.ndarray], count: int, fps: int, how: Resampling
) -> Iterator[np.ndarray]:
    """`count` frames (H, W, 3) at 30 fps become frames at `fps` that last as long.

    Output frame k shows the time of its own middle: NEAREST repeats or drops frames, BLEND mixes
    the two around it.
    """
    if fps == MODEL_FPS:
        yield from frames
        return
    total, source = frame_total(count, fps), iter(frames)
    position, current = 0, next(source)
    following: np.ndarray | None = next(source, None)
    for k in range(total):
        time = min(max((k + 0.5) * count / total - 0.5, 0), count - 1)
        while position + 1 <= time and following is not None:
            position, current, following = position + 1, following, next(source, None)
        share = time - position
        if following is None or share == 0:
            yield current
        elif how is Resampling.NEAREST:
            yield current if share < 0.5 else following
        else:
            mixed = current * (1 - share) + following * share
            yield (mixed + 0.5).astype(np.uint8)
    for _ in source:  # what lies behind the last output frame must still be drawn from the decoder
        pass


def find_ffmpeg() -> str:
    """The ffmpeg to use. GeneratorError when there is none."""
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        program = ""
    found = shutil.which(program) if program else None
    if found is None:
        raise GeneratorError(
            f"There is no ffmpeg{f' at {program}' if program else ''}; reinstall imageio-ffmpeg, "
            "or let IMAGEIO_FFMPEG_EXE name an ffmpeg program."
        )
    return found


class Mp4Writer:
    """Frames go to ffmpeg as they come; `close` makes the file whole, `abort` leaves nothing.

    H.264, yuv420p, faststart. `metadata` becomes the file's comment, as JSON.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int, crf: int, metadata: Any):
        height, width = size
        self._path, self._partial = path, path.with_name(path.name + ".part")
        command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        command += ["-r", str(fps), "-i", "-", "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p"]
        # Said in the file, for players guess the matrix from the height, and then tint the picture.
        command += ["-colorspace", "smpte170m", "-color_range", "tv"]
        command += ["-crf", str(crf), "-preset", "medium", "-movflags", "+faststart"]
        command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
        command += [
            "-metadata",
            "comment=" + json.dumps(metadata, sort_keys=True, ensure_ascii=False),
        ]
        command += ["-f", "mp4", str(self._partial)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self.frames = 0

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def write(self, frame: np.ndarray) -> None:
        """Append one uint8 (H, W, 3) frame. DiskError or GeneratorError when ffmpeg gave up."""
        try:
            self._stdin.write(frame.tobytes())
        except OSError:
            raise self._failure() from None
        self.frames += 1

    def close(self) -> Path:
        """Finish the file and return its path."""
        try:
            self._stdin.close()
        except OSError:
            raise self._failure() from None
        if self._process.wait() != 0:
            raise self._failure()
        self._close_stderr()
        self._partial.replace(self._path)
        return self._path

    def abort(self) -> None:
        """Stop and remove what was written. Harmless after `close`."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._close_stderr()
        self._partial.unlink(missing_ok=True)

    def _failure(self) -> GeneratorError:
        stderr = self._process.stderr
        text = stderr.read().decode(errors="replace")[-STDERR_TAIL:] if stderr else ""
        self.abort()
        if "No space left" in text:
            return DiskError("The disk is full: the video could not be written; free some space.")
        reason = text.strip().splitlines()[-1] if text.strip() else "it gave no reason"
        return GeneratorError(f"ffmpeg could not write the video: {reason}.")

    def _close_stderr(self) -> None:
        if self._process.stderr and not self._process.stderr.closed:
            self._process.stderr.close()


def preview_map(settings: Any | None) -> tuple[Tensor, Tensor]:
    """The 16→3 map and its bias: the model's own preview.json, else the published one."""
    settings = settings or {"factors": PREVIEW_FACTORS, "bias": PREVIEW_BIAS}
    try:
        factors, bias = (
            torch.tensor(settings[name], dtype=torch.float32) for name in ("factors", "bias")
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(f"preview.json needs factors (16 × 3) and bias (3): {error!r}.") from None
    if factors.shape != (len(PREVIEW_FACTORS), 3) or bias.shape != (3,):
        raise ModelError(
            f"preview.json holds factors {tuple(factors.shape)} and bias {tuple(bias.shape)}; "
            "(16, 3) and (3,) are needed."
        )
    return factors, bias


def preview_rgb(x0: Tensor, factors: Tensor, bias: Tensor) -> Tensor:
    """Latents (1, 16, T, h, w) become colours (T, h, w, 3) in 0…1, one pixel a latent pixel."""
    rgb = torch.einsum("cthw,cd->thwd", x0[0].float(), factors.to(x0.device))
    return (rgb + bias.to(x0.device)).clamp(0, 1)


def write_preview(path: Path, rgb: Tensor) -> None:
    """An animated WebP of colours (T, h, w, 3) in 0…1 that loops at the video's own speed."""
    frames = [Image.fromarray(f) for f in (rgb * 255).round().to(torch.uint8).cpu().numpy()]
    stream = io.BytesIO()
    frames[0].save(
        stream,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=PREVIEW_FRAME_MS,
        loop=0,
        quality=PREVIEW_QUALITY,
        method=0,
    )
    path.write_bytes(stream.getvalue())


def frames_of(pieces: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """The single uint8 frames (H, W, 3) of pieces of pixels."""
    return itertools.chain.from_iterable(map(quantise, pieces))
