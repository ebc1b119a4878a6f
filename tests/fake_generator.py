"""A child that speaks the generator's protocol and misbehaves on request. For tests only.

    python tests/fake_generator.py [--steps N] [--step-s S] [BEHAVIOUR ...]

It needs neither torch nor a model; the "video" is a few bytes that begin like an MP4. Like the real
one it keeps its steps: its video ends in a digest chained over all of them, each made once.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import queue
import shutil
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generator.protocol import (
    PROTOCOL_VERSION,
    Broken,
    Cancel,
    Cancelled,
    ErrorKind,
    Failed,
    Finish,
    Finished,
    FromGenerator,
    Generate,
    Measure,
    Measured,
    Progress,
    Ready,
    Stage,
    Suspend,
    Suspended,
    Unload,
    Variant,
    decode_to_generator,
    encode_line,
)

BEHAVIOURS = (
    "good",
    "slow_start",  # Ready after 30 s
    "dies_at_start",
    "broken",
    "wrong_version",
    "garbage_start",  # rubbish before Ready
    "dies",  # at the second step of every job
    "dies_once",  # at the second step of each job's first attempt
    "hangs",  # says nothing more after the first step
    "garbage",  # rubbish between the steps
    "only_garbage",
    "long_lines",  # a line of 2 MiB between the steps
    "flood",  # 20,000 lines on stderr per step
    "grows",  # takes 8 MiB every 20 ms after the first step, up to 2 GiB
    "once",  # misbehaves at the second step of each job's first attempt only
    "ignores_cancel",
    "ignores_eof",
    "ignores_suspend",
    "fails_memory",
    "fails_path",  # Failed whose sentence holds a path
    "no_video",  # Finished, but there is no file
    "elsewhere",  # Finished, with a video outside the job's folder
    "other_job",  # speaks of a job nobody asked for
    "dies_idle",  # ends after each job
    "never_measures",
    "real_video",  # the file that FAKE_VIDEO names
)

MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(2000)
DRAWN_S = 0.25
"""What it says that the frames of a section took."""
KEPT = "kept-steps"
WEBP = bytes.fromhex(
    "524946461a000000574542505650384c0d0000002f000000100711118888fe070000"
)  # one black pixel


def say(message: FromGenerator) -> None:
    say_bytes(encode_line(message))


def say_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def complain(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def ready(version: int = PROTOCOL_VERSION) -> Ready:
    return Ready(
        protocol_version=version,
        model="fake",
        device="cpu",
        device_name="a fake",
        dtype="float32",
        placement="resident",
        versions={"python": sys.version.split()[0]},
    )


def measured(variant: Variant | None) -> Measured:
    return Measured(
        placement="stream: 8.0 GiB of VRAM are too few for all of it",
        variant=variant,
        ram_used=3 << 30,
        ram_free=12 << 30,
        ram_limit="what the machine has left",
        vram_used=5 << 30,
        vram_free=2 << 30,
        vram_total=8 << 30,
    )


def next_link(chain: str, step: int) -> str:
    return hashlib.sha256(f"{chain} {step}".encode()).hexdigest()


def video_bytes(steps: int) -> bytes:
    """The video of a job that nobody disturbed."""
    chain = ""
    for step in range(1, steps + 1):
        chain = next_link(chain, step)
    return MP4 + bytes.fromhex(chain)


def kept_steps(folder: Path) -> tuple[int, str]:
    if not (folder / KEPT).exists():
        return 0, ""
    step, chain = (folder / KEPT).read_text().split()
    return int(step), chain


def keep_steps(folder: Path, step: int, chain: str) -> None:
    (folder / f"{KEPT}.part").write_text(f"{step} {chain}")
    (folder / f"{KEPT}.part").replace(folder / KEPT)


def fill(file: Path, marker: Path | None) -> None:
    """While the marker is there, what goes to this file goes to a device that is full."""
    if marker is not None and marker.exists():
        file.unlink(missing_ok=True)
        file.symlink_to("/dev/full")


class Fake:
    full_while: Path | None = None

    def __init__(self, behaviours: set[str], steps: int, step_s: float) -> None:
        self.behaviours, self.steps, self.step_s = behaviours, steps, step_s
        self.section_steps, self.steps_per_second = steps, 0.0
        self.jobs: queue.Queue[Generate | None] = queue.Queue()
        self.cancelled: set[str] = set()
        self.suspended: set[str] = set()
        self.finishing: set[str] = set()
        self.variant: Variant | None = None

    def listen(self) -> None:
        for line in sys.stdin.buffer:
            message = decode_to_generator(line)
            if isinstance(message, Cancel):
                if "ignores_cancel" not in self.behaviours:
                    self.cancelled.add(message.job_id)
            elif isinstance(message, Suspend):
                if "ignores_suspend" not in self.behaviours:
                    self.suspended.add(message.job_id)
            elif isinstance(message, Finish):
                self.finishing.add(message.job_id)
            elif isinstance(message, Unload):
                complain("unloaded")
                self.variant = None
            elif isinstance(message, Measure):
                if "never_measures" not in self.behaviours:
                    say(measured(self.variant))
            else:
                self.suspended.discard(message.job_id)
                self.finishing.discard(message.job_id)
                self.jobs.put(message)
        if "ignores_eof" not in self.behaviours:
            os._exit(0)

    def serve(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        while True:
            order = self.jobs.get()
            assert order is not None
            try:
                self.generate(order)
            except OSError as error:
                self.fail_of_disk(order, error)
            if "dies_idle" in self.behaviours:
                os._exit(0)

    def generate(self, order: Generate) -> None:
        folder, began = Path(order.folder), time.monotonic()
        assert (folder / order.request.image).is_file(), "no picture in the job's folder"
        if self.steps_per_second:
            self.steps = max(1, round(self.steps_per_second * order.request.seconds))
        done, chain = kept_steps(folder)
        if order.only_finished:
            return self.end(order, folder, chain, 0.0, done // self.section_steps)
        self.variant = order.request.variant
        for step in range(done + 1, self.steps + 1):
            chain = next_link(chain, step)
            preview = None
            if step == self.steps // 2:
                preview = f"preview-{step}.webp"
                (folder / preview).write_bytes(WEBP)
            say(
                Progress(
                    job_id=order.job_id,
                    stage=Stage.SAMPLING,
                    section=1 + (step - 1) // self.section_steps,
                    sections=self.sections,
                    step=1 + (step - 1) % self.section_steps,
                    steps=self.section_steps,
                    fraction=step / self.steps,
                    step_s=self.step_s,
                    elapsed_s=time.monotonic() - began,
                    remaining_s=(self.steps - step) * self.step_s,
                    preview=preview,
                )
            )
            self.misbehave(order, step)
            if order.job_id in self.cancelled:
                (folder / KEPT).unlink(missing_ok=True)
                return say(Cancelled(job_id=order.job_id))
            fill(folder / f"{KEPT}.part", self.full_while)
            keep_steps(folder, step, chain)
            if order.job_id in self.finishing:
                made = step // self.section_steps
                return self.end(order, folder, chain, time.monotonic() - began, made)
            if order.job_id in self.suspended:
                return say(Suspended(job_id=order.job_id))
            time.sleep(self.step_s)
        self.end(order, folder, chain, time.monotonic() - began)

    def fail_of_disk(self, order: Generate, error: OSError) -> None:
        """As the real one says it; what was kept before stays."""
        if error.errno != errno.ENOSPC:
            raise error
        for file in Path(order.folder).iterdir():
            if file.is_symlink():
                file.unlink()
        message = "The disk of the bot's machine is full; its operator must free some space."
        say(Failed(job_id=order.job_id, kind=ErrorKind.DISK, message=message))

    @property
    def sections(self) -> int:
        return -(-self.steps // self.section_steps)

    def end(
        self, order: Generate, folder: Path, chain: str, elapsed_s: float, made: int | None = None
    ) -> None:
        job_id = order.job_id
        if made == 0:
            message = "None of its sections is finished, so there is nothing to send"
            return say(Failed(job_id=job_id, kind=ErrorKind.INPUT, message=message))
        if "fails_memory" in self.behaviours:
            return say(
                Failed(job_id=job_id, kind=ErrorKind.MEMORY, message="too big; ask for less")
            )
        if "fails_path" in self.behaviours:
            message = f"can not write {folder}{os.sep}frame.png"
            return say(Failed(job_id=job_id, kind=ErrorKind.MODEL, message=message))
        all_made = self.sections if made is None else made
        video = f"framepack-{job_id}.mp4"
        if "elsewhere" in self.behaviours:
            video = "../" + video
        fill(folder / video, self.full_while)
        if "no_video" not in self.behaviours:
            (folder / video).write_bytes(MP4 + bytes.fromhex(chain))
        if "real_video" in self.behaviours:
            shutil.copyfile(os.environ["FAKE_VIDEO"], folder / video)
        (folder / KEPT).unlink(missing_ok=True)
        say(
            Finished(
                job_id=job_id,
                video=video,
                frames=33,
                width=64,
                height=64,
                fps=30,
                size_bytes=len(MP4) + len(chain) // 2,
                elapsed_s=elapsed_s,
                stage_s={Stage.SAMPLING: elapsed_s, Stage.DECODING: DRAWN_S * all_made},
                sections_made=all_made,
                sections=self.sections,
            )
        )

    def misbehave(self, order: Generate, step: int) -> None:
        wants = self.behaviours.__contains__
        marker = Path(order.folder) / "died"
        if wants("once"):
            if step != 2 or marker.exists():
                return
            marker.touch()
        if step == 2 and (wants("dies") or (wants("dies_once") and not marker.exists())):
            marker.touch()
            complain("Traceback: something terrible")
            os._exit(9)
        if wants("grows"):
            taken = []
            while len(taken) < 256:
                taken.append(bytes(range(256)) * (1 << 15))
                time.sleep(0.02)
        if wants("hangs"):
            time.sleep(3600)
        if wants("garbage"):
            say_bytes(b"hello from a library\n{}\n\xff\xfe\n")
        if wants("only_garbage"):
            while True:
                say_bytes(b"all work and no play\n")
        if wants("long_lines"):
            say_bytes(b"x" * (2 << 20) + b"\n")
        if wants("flood"):
            complain("\n".join(["the same warning again"] * 20_000))
        if wants("other_job"):
            say(Cancelled(job_id="somebody"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("behaviours", nargs="*", help=", ".join(BEHAVIOURS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--start-s", type=float, default=0.0, help="until it is ready")
    parser.add_argument("--step-s", type=float, default=0.01)
    parser.add_argument("--steps-per-second", type=float, default=0.0, help="instead of --steps")
    parser.add_argument("--section-steps", type=int, help="steps a section; otherwise all")
    parser.add_argument("--full-while", type=Path, help="the disk is full while this file exists")
    parser.add_argument("--broken-while", type=Path, help="as this file says, while it exists")
    arguments = parser.parse_args()
    behaviours = set(arguments.behaviours)
    assert behaviours <= set(BEHAVIOURS), behaviours
    if "dies_at_start" in behaviours:
        complain("the GPU is on fire")
        sys.exit(3)
    if "broken" in behaviours:
        say(Broken(kind=ErrorKind.MODEL, message="the model folder has no vae; download it again"))
        sys.exit(1)
    if arguments.broken_while is not None and arguments.broken_while.exists():
        kind = arguments.broken_while.read_text()
        if kind in list(ErrorKind):
            say(Broken(kind=ErrorKind(kind), message="the driver is another one; restart"))
        sys.exit(1)
    if "slow_start" in behaviours:
        threading.Timer(30, say, [ready()]).start()
        sys.stdin.buffer.read()
        os._exit(0)
    if "garbage_start" in behaviours:
        say_bytes(b"Loading checkpoint shards: 100%\n")
    time.sleep(arguments.start_s)
    say(ready(99 if "wrong_version" in behaviours else PROTOCOL_VERSION))
    fake = Fake(behaviours, arguments.steps, arguments.step_s)
    fake.full_while = arguments.full_while
    fake.steps_per_second = arguments.steps_per_second
    fake.section_steps = arguments.section_steps or arguments.steps
    fake.serve()


if __name__ == "__main__":
    main()
