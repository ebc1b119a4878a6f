"""A job that was stopped, torn or crashed ends in the same bytes as one that nobody disturbed."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from generator import resume
from generator.errors import OutOfMemoryError
from generator.pipeline import generate
from generator.protocol import ErrorKind, Finished, JobRequest, Progress, StepCacheKind, Variant
from generator.whole_file import partial_of
from generator.worker import failure
from generator.workshop import Workshop
from tests.generator.small_jobs import draw_picture, names_in, sha256, small_request, small_workshop

CASES: dict[str, dict[str, Any]] = {
    "i2v": {"steps": 4},
    "f1": {"steps": 4, "variant": Variant.F1},
    "teacache under true CFG": {
        "steps": 9,
        "step_cache": StepCacheKind.TEACACHE,
        "step_cache_threshold": 0.3,
        "true_cfg_scale": 2.0,
        "negative_prompt": "rain",
    },
    "magcache": {
        "steps": 6,
        "step_cache": StepCacheKind.MAGCACHE,
        "step_cache_threshold": 0.3,
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw_picture(tmp_path / "input.png")
    return tmp_path


def run(
    workshop: Workshop, folder: Path, request: JobRequest, stop_after: int | None = None
) -> int:
    """Make the video, or stop after so many steps; returns the steps that were made."""
    steps = 0
    with closing(generate("job", request, folder, workshop)) as events:
        for event in events:
            steps += isinstance(event, Progress) and event.step > 0
            if steps == stop_after:
                break
    return steps


def undisturbed(workshop: Workshop, folder: Path, request: JobRequest) -> str:
    """The digest of the MP4 that a run without a break makes."""
    fresh = folder / "fresh"
    fresh.mkdir()
    shutil.copy(folder / "input.png", fresh)
    run(workshop, fresh, request)
    return sha256(fresh / "framepack-job.mp4")


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_job_goes_on_to_the_same_bytes(
    case: str, workshop: Workshop, folder: Path
) -> None:
    request = small_request(**CASES[case])
    expected = undisturbed(workshop, folder, request)
    for stop_after in (1, 2, request.steps - 1, 1):
        assert run(workshop, folder, request, stop_after) == stop_after
    run(workshop, folder, request)
    assert sha256(folder / "framepack-job.mp4") == expected
    assert names_in(folder) == {"fresh", "input.png", "framepack-job.mp4", "framepack-job.json"}


def test_no_step_is_made_twice(workshop: Workshop, folder: Path) -> None:
    request = small_request(steps=4)
    made = [run(workshop, folder, request, stop_after) for stop_after in (3, 2, None)]
    assert made == [3, 2, 3]


def test_a_torn_section_is_made_again(
    workshop: Workshop, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = small_request(steps=3)
    expected = undisturbed(workshop, folder, request)
    run(workshop, folder, request, 4)  # one step into the second section
    kept = folder / resume.SECTIONS_FILE
    kept.write_bytes(kept.read_bytes()[:-7])
    assert run(workshop, folder, request) == 5  # the second section still goes on from its point
    assert sha256(folder / "framepack-job.mp4") == expected
    assert "torn" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file at all", None])
def test_a_damaged_point_costs_its_section_only(
    damage: bytes | None, workshop: Workshop, folder: Path
) -> None:
    request = small_request(steps=3)
    expected = undisturbed(workshop, folder, request)
    run(workshop, folder, request, 5)
    point = folder / resume.POINT_FILE
    point.write_bytes(point.read_bytes()[:-20] if damage is None else damage)
    assert run(workshop, folder, request) == 3
    assert sha256(folder / "framepack-job.mp4") == expected


@pytest.mark.parametrize("what", ["seed", "picture", "model"])
def test_what_does_not_fit_is_refused_with_the_reason(
    what: str, workshop: Workshop, folder: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(workshop, folder, small_request(steps=3), 5)
    request, again = small_request(steps=3, seed=8 if what == "seed" else 7), workshop
    if what == "picture":
        draw_picture(folder / "input.png", phase=9)
    if what == "model":
        other = shutil.copytree(tiny_model, folder / "other")
        (other / "vae" / "config.json").write_bytes(
            (other / "vae" / "config.json").read_bytes() + b" "
        )
        again = small_workshop(other)
    assert run(again, folder, request) == 6
    assert "of another request, model or version" in caplog.text


def test_a_moved_model_folder_still_fits(
    workshop: Workshop, folder: Path, tiny_model: Path
) -> None:
    run(workshop, folder, small_request(steps=3), 5)
    moved = shutil.copytree(tiny_model, folder / "elsewhere")
    assert run(small_workshop(moved), folder, small_request(steps=3)) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")],
)
def test_running_out_of_memory_keeps_the_steps(
    error: Exception, workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = small_request(steps=4)
    expected = undisturbed(workshop, folder, request)
    from generator.denoiser import Denoiser

    whole, calls = Denoiser._velocity, []

    def short_of_memory(self: Denoiser, *arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 7:
            raise error
        return whole(self, *arguments)

    monkeypatch.setattr(Denoiser, "_velocity", short_of_memory)
    with pytest.raises(OutOfMemoryError):
        run(workshop, folder, request)
    assert run(workshop, folder, request) == 2
    assert sha256(folder / "framepack-job.mp4") == expected


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells what is mapped")
def test_a_point_that_was_read_can_be_replaced_on_windows(workshop: Workshop, folder: Path) -> None:
    """There a file is neither replaced nor deleted while anything of it is mapped."""
    request = small_request(steps=4)
    run(workshop, folder, request, stop_after=2)
    assert (folder / resume.POINT_FILE).exists()
    with closing(generate("job", request, folder, workshop)) as events:
        next(event for event in events if isinstance(event, Progress) and event.step == 3)
        assert resume.POINT_FILE not in Path("/proc/self/maps").read_text("utf-8")


def test_points_are_written_when_due_and_not_before(folder: Path, workshop: Workshop) -> None:
    request = small_request(steps=6)
    written = []
    with closing(generate("job", request, folder, workshop)) as events:
        for event in events:
            if isinstance(event, Finished):
                break
            written.append((folder / resume.POINT_FILE).exists())
    assert not any(written)  # the whole job took less than EVERY_S


@pytest.mark.parametrize("what", ["point", "section"])
def test_a_disk_that_is_full_costs_what_it_had_no_space_for(
    what: str, workshop: Workshop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = small_request(steps=4)
    expected = undisturbed(workshop, folder, request)
    assert run(workshop, folder, request, 2) == 2
    with monkeypatch.context() as full:
        if what == "point":
            if not Path("/dev/full").exists():
                pytest.skip("only Linux has a device that is always full")
            full.setattr(workshop, "resume_every_s", 0.0)
            partial_of(folder / resume.POINT_FILE).symlink_to("/dev/full")
        else:

            def half(stream: Any) -> None:
                stream.truncate(stream.tell() - 50)
                raise OSError(28, "No space left on device")

            full.setattr(resume, "_sync", half)
        with pytest.raises(OSError, match="No space left on device") as caught:
            run(workshop, folder, request)
        found = failure("job", caught.value)
        assert found.kind is ErrorKind.DISK and "is full" in found.message
    partial_of(folder / resume.POINT_FILE).unlink(missing_ok=True)
    made = run(workshop, folder, request)
    assert made == 6  # two of the first section were kept, and stay so
    assert sha256(folder / "framepack-job.mp4") == expected
