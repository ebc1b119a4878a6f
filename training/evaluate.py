"""`python -m training.evaluate MODEL_FOLDER`: what a demo model can do, measured on photos.

Decides: the test set (fixed before anything was trained), the settings of each question, the page
in docs/. Every video is made by `generator.pipeline.generate`, written as MP4 and read back. The
photos are the scenes and objects among the pictures that scikit-image and scikit-learn ship; scans,
microscopy and plain surfaces are left out. None was trained on.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from generator.encoders import bucket_size, cover_crop
from generator.models import open_model
from generator.pipeline import generate
from generator.placement import Placement
from generator.protocol import Finished, Mode, Progress, Stage, Storage, Variant, job_request
from generator.workshop import Workshop
from training.captions import OPPOSITE, PANS, TEST_SUBJECTS, TOLD, ZOOMS, Motion, caption
from training.pages import write_table
from training.scores import Score, score

log = logging.getLogger(__name__)

SECTION_FRAMES = 36
RESOLUTION = 128
SHOWN_PHOTOS = (1, 2)
SKIMAGE, SKLEARN = "skimage/data", "sklearn/datasets/images"
PAGE, SHEET = Path("docs") / "demo-model.md", Path("docs") / "demo-model.webp"
PHOTOS = {
    "astronaut": SKIMAGE, "coffee": SKIMAGE, "china": SKLEARN, "chelsea": SKIMAGE,
    "rocket": SKIMAGE, "flower": SKLEARN, "motorcycle_left": SKIMAGE, "camera": SKIMAGE,
    "coins": SKIMAGE, "hubble_deep_field": SKIMAGE,
}  # fmt: skip
OTHER_WORDS = {
    Motion.LEFT: "everything shifts because we look further to the left side",
    Motion.RIGHT: "the filmmaker walks right, parallel to the scene",
    Motion.UP: "our eyes wander upwards",
    Motion.DOWN: "looking down slowly",
    Motion.ZOOM_IN: "we get nearer and nearer",
    Motion.ZOOM_OUT: "everything becomes smaller as we retreat",
    Motion.STILL: "a frozen moment",
}


def photos() -> dict[str, Image.Image]:
    """The held-out photos by name. ImportError tells how to install them."""
    try:
        import skimage
        import sklearn
    except ImportError as error:
        raise ImportError("install the photos: pip install 'framepack-bot[training]'") from error
    site = {"skimage": Path(skimage.__file__).parent, "sklearn": Path(sklearn.__file__).parent}
    found = {}
    for name, folder in PHOTOS.items():
        package, _, inside = folder.partition("/")
        (path,) = (site[package] / inside).glob(f"{name}.*")
        found[name] = Image.open(path).convert("RGB")
    return found


class Studio:
    """Makes and measures videos of held-out photos with one model."""

    def __init__(
        self,
        model: str,
        folder: Path,
        motion_bias: float | None = None,
        *,
        dtype: str = "auto",
        storage: Storage = Storage.NATIVE,
    ):
        self._motion_bias = motion_bias
        placement = Placement(
            open_model(model),
            device="cpu",
            dtype=dtype,
            mode=Mode.AUTO,
            preserve_vram_gib=0.0,
            storage=storage,
        )
        self._workshop, self._folder = Workshop(placement=placement), folder
        self._made = 0
        self.cpu_s: Counter[Stage] = Counter()
        """Processor seconds by stage of all videos so far: what a busy machine does not change."""

    def film(self, photo: Image.Image, prompt: str, **settings: Any) -> tuple[np.ndarray, float]:
        """The frames (T, H, W, 3) uint8 of one video and the seconds it took."""
        self._made += 1
        name = f"{self._made:04}"
        photo.save(self._folder / f"{name}.png")
        defaults = {"seconds": 2.4, "steps": 10, "resolution": RESOLUTION, "seed": self._made}
        defaults["motion_bias"] = self._motion_bias
        request = job_request(prompt=prompt, image=f"{name}.png", **(defaults | settings))
        began, spent, stage = time.monotonic(), time.process_time(), Stage.LOADING
        for event in generate(name, request, self._folder, self._workshop):
            self.cpu_s[stage] += time.process_time() - spent
            spent = time.process_time()
            if isinstance(event, Progress):
                stage = event.stage
        assert isinstance(event, Finished)
        frames = _read(self._folder / event.video, event.height, event.width)
        return frames, time.monotonic() - began

    def judge(self, photo: Image.Image, prompt: str, told: Motion, **settings: Any) -> Score:
        """One video's figures."""
        return self.judge_and_show(photo, prompt, told, **settings)[0]

    def judge_and_show(
        self, photo: Image.Image, prompt: str, told: Motion, **settings: Any
    ) -> tuple[Score, np.ndarray]:
        """One video's figures and its frames."""
        frames, seconds = self.film(photo, prompt, **settings)
        size = bucket_size(photo.height, photo.width, settings.get("resolution", RESOLUTION))
        figures = score(
            frames, cover_crop(photo, size), told, section_frames=SECTION_FRAMES, seconds=seconds
        )
        log.info("%-40s seen %-9s %s %.1f dB %.1f s", prompt[:40], figures.seen,
                 " ".join(f"{s:+.2f}" for s in figures.section_shares), figures.first_frame_db,
                 seconds)  # fmt: skip
        return figures, frames


def _read(path: Path, height: int, width: int) -> np.ndarray:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"]
    raw = subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def main_table(
    studio: Studio, pictures: dict[str, Image.Image]
) -> tuple[dict[Variant, list[Score]], list[np.ndarray], str]:
    """Seven motions over every photo, the variants taking turns.

    Returns the figures, a few videos to look at, and how near each photo's first frames are to it.
    """
    scores: dict[Variant, list[Score]] = {variant: [] for variant in Variant}
    shown, nearness = [], dict.fromkeys(pictures, 0.0)
    rng = np.random.default_rng(71)
    for i, (name, photo) in enumerate(pictures.items()):
        for j, motion in enumerate(TOLD):
            variant = tuple(Variant)[(i + j) % 2]
            prompt = caption(rng, motion, TEST_SUBJECTS)
            figures, frames = studio.judge_and_show(photo, prompt, motion, variant=variant)
            scores[variant].append(figures)
            nearness[name] += figures.first_frame_db / len(TOLD)
            if i in SHOWN_PHOTOS:
                shown.append(frames[:: SECTION_FRAMES // 2])
    return scores, shown, ", ".join(f"{name} {db:.1f}" for name, db in nearness.items())


def side_questions(studio: Studio, pictures: dict[str, Image.Image]) -> Iterator[tuple[str, str]]:
    """The lines below the main table, as they are found: question and answer."""
    few = [pictures[name] for name in ("astronaut", "coffee", "china")]
    pans = list(zip(few, (Motion.LEFT, Motion.RIGHT, Motion.UP), strict=True))

    def ask(**settings: Any) -> list[Score]:
        return [studio.judge(p, f"the camera {_verb(m)}", m, **settings) for p, m in pans]

    for boost in (1.0, 1.5):
        seams = [s.seam for s in ask(consistency_boost=boost)]
        yield (f"seam ratio of three pans, consistency_boost {boost:g}", _mean(seams))
    for name, settings in {
        "three pans with 25 steps": {"steps": 25},
        "three pans of one section (1.2 s)": {"seconds": 1.2},
        "three pans of three sections (3.6 s)": {"seconds": 3.6},
        "three pans of five sections (6 s), F1": {"seconds": 6.0, "variant": "f1"},
        "three pans at resolution 96": {"resolution": 96},
    }.items():
        yield name, _way(ask(**settings))
    sentences: dict[str, Callable[[Motion], str]] = {
        "three pans": lambda m: f"the camera {_verb(m)}",
        "'the scene'": lambda m: "the scene",
    }
    for name, sentence in sentences.items():
        for scale in (1.0, 2.0, 3.0):  # 1: the negative prompt is not looked at
            found = [
                studio.judge(
                    photo,
                    sentence(m),
                    m,
                    negative_prompt=sentences["three pans"](OPPOSITE[m]),
                    true_cfg_scale=scale,
                )
                for photo, m in pans
            ]
            yield f"{name} against the opposite pan, true CFG {scale:g}", _way(found)
    other = [studio.judge(few[1], words, motion) for motion, words in OTHER_WORDS.items()]
    right = sum(s.seen is s.told for s in other)
    yield ("wordings outside the grammar understood", f"{right} of {len(other)}")


def _verb(motion: Motion) -> str:
    return motion.replace("pan", "pans")


def _mean(values: Iterable[float]) -> str:
    return f"{np.nanmean(list(values)):.2f}"


def _way(scores: list[Score]) -> str:
    right = sum(s.seen is s.told for s in scores)
    sections = np.mean([s.section_shares for s in scores], axis=0)
    shares = ", ".join(f"{share:.2f}" for share in sections)
    return f"{right} of {len(scores)} right; share of the nominal way by section {shares}"


def report(
    command: str,
    pictures: list[str],
    scores: dict[Variant, list[Score]],
    side: list[tuple[str, str]],
) -> str:
    """The measured part of the page, in Markdown."""
    everything = [s for part in scores.values() for s in part]
    lines = [
        f"Made by `python -m training.evaluate {command}` on {len(everything)} videos of "
        f"{len(pictures)} photos of scikit-image and scikit-learn that training never saw "
        f"({', '.join(pictures)}), {RESOLUTION} px, 2.4 s, 10 "
        "steps, each written as MP4 and read back. The motion is measured by registering frames; "
        "a share of 1 is the speed of the training clips.",
        "",
        "![Each row is a video](demo-model.webp)",
        "",
        "| motion told | right, I2V | right, F1 | share of the nominal way, section 1, 2 |",
        "|---|---|---|---|",
    ]
    for group in (*((m,) for m in TOLD), PANS, ZOOMS, TOLD):
        name = {PANS: "**all pans**", ZOOMS: "**all zooms**", TOLD: "**all seven**"}.get(
            group, str(group[0])
        )
        counts = []
        for part in scores.values():
            of = [s for s in part if s.told in group]
            counts.append(f"{sum(s.seen is s.told for s in of)} of {len(of)}")
        moving = [s.section_shares for s in everything if s.told in group]
        shares = ", ".join(f"{v:.2f}" for v in np.mean(moving, axis=0))
        lines.append(f"| {name} | {' | '.join(counts)} | {'' if group == TOLD else shares} |")
    lines += ["", "| question | answer |", "|---|---|"]
    columns: dict[str, Callable[[Score], float]] = {
        "first frame to the picture, PSNR in dB, mean": lambda s: s.first_frame_db,
        "brightness of the last frame ÷ the first, mean": lambda s: s.brightness,
        "contrast of the last frame ÷ the first, mean": lambda s: s.contrast,
        "fine detail of the last frame ÷ the first, mean": lambda s: s.grain,
        "seconds a video, mean": lambda s: s.seconds,
    }
    lines += [f"| {name} | {_mean(map(of, everything))} |" for name, of in columns.items()]
    kept = [s for s in everything if s.told is Motion.STILL]
    within = sum(abs(s.brightness - 1) <= 0.1 and abs(s.contrast - 1) <= 0.1 for s in kept)
    lines.append(
        f"| still videos with brightness and contrast within 10 % | {within} of {len(kept)} |"
    )
    seams = _mean(s.seam for s in everything if s.told is not Motion.STILL)
    lines.append(
        f"| frame difference at section borders ÷ inside, mean of moving videos | {seams} |"
    )
    blurred = _mean(s.grain for s in everything if s.told in ZOOMS)
    lines.append(f"| fine detail of the last frame ÷ the first where a zoom is told | {blurred} |")
    lines += [f"| {name} | {answer} |" for name, answer in side]
    return "\n".join(lines)


def contact_sheet(videos: list[np.ndarray], path: Path) -> None:
    """One video a row, its frames from left to right; WebP."""
    width = max(sum(f.shape[1] for f in video) for video in videos)
    height = sum(video.shape[1] for video in videos)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for video in videos:
        for column, frame in enumerate(video):
            sheet.paste(Image.fromarray(frame), (column * frame.shape[1], top))
        top += video.shape[1]
    sheet.save(path, quality=80, method=6)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the page. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("model", help="demo, or a model folder")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--sheet", type=Path, default=SHEET)
    parser.add_argument("--photos", type=int, default=10, help="the first N of them only")
    parser.add_argument("--motion-bias", type=float, help="flow shift; unset by default")
    parser.add_argument("--no-side-questions", action="store_true", help="the main table only")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pictures = photos()
    pictures = dict(list(pictures.items())[: arguments.photos])
    words = sys.argv[1:] if argv is None else list(argv)
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(arguments.model, Path(folder), arguments.motion_bias)
        scores, shown, by_photo = main_table(studio, pictures)
        side = [("first frame to the picture by photo, PSNR in dB", by_photo)]
        contact_sheet(shown, arguments.sheet)
        questions = iter(()) if arguments.no_side_questions else side_questions(studio, photos())
        while True:  # the page is there after the main table, and grows by one answer at a time
            page = report(" ".join(words), list(pictures), scores, side)
            write_table(arguments.page, "The demo model, measured", page)
            answer = next(questions, None)
            if answer is None:
                break
            side.append(answer)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
