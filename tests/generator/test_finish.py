"""What is done is sent: the finished sections of a job become a video of their own."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generator import resume
from generator.errors import InputError
from generator.pipeline import generate
from generator.protocol import (
    Cancelled,
    ErrorKind,
    Failed,
    Finish,
    Finished,
    FromGenerator,
    Generate,
    JobRequest,
    Measure,
    Measured,
    Progress,
    Stage,
    StepCacheKind,
    Suspend,
    Suspended,
    Variant,
)
from generator.worker import _run
from generator.workshop import Workshop
from tests.generator.small_jobs import (
    draw_picture,
    frames_in,
    names_in,
    run_job,
    sha256,
    small_request,
)
from tests.generator.test_suspend import child, order

THREE = {"seconds": 0.4, "steps": 2, "crf": 0}
"""Three sections of one latent frame each; what ffmpeg is given comes out again unchanged."""


def stop_after(workshop: Workshop, folder: Path, request: JobRequest, steps: int) -> None:
    """Make so many steps of the job; what was made stays in the folder."""
    folder.mkdir(exist_ok=True)
    draw_picture(folder / "input.png")
    events = generate("job", request, folder, workshop)
    made = 0
    while made < steps:
        event = next(events)
        made += isinstance(event, Progress) and event.step > 0
    events.close()


def finished_part(workshop: Workshop, folder: Path, request: JobRequest) -> Finished:
    *_, end = generate("job", request, folder, workshop, only_finished=True)
    assert isinstance(end, Finished)
    return end


def pixels(folder: Path) -> np.ndarray:
    return frames_in(folder / "framepack-job.mp4", 64, 64)


@pytest.mark.parametrize("variant", list(Variant))
def test_the_finished_sections_are_the_end_of_i2vs_video_and_the_beginning_of_f1s(
    variant: Variant, workshop: Workshop, tmp_path: Path
) -> None:
    request = small_request(**THREE, variant=variant)
    run_job(workshop, tmp_path / "whole", request)
    stop_after(workshop, tmp_path / "part", request, 5)
    end = finished_part(workshop, tmp_path / "part", request)
    assert (end.sections_made, end.sections) == (2, 3)
    whole, part = pixels(tmp_path / "whole"), pixels(tmp_path / "part")
    assert len(part) == end.frames == (9 if variant is Variant.F1 else 5)
    assert len(whole) == 13
    if variant is Variant.F1:
        assert (part == whole[:9]).all()
    else:  # its first frame is decoded without what would have been before it
        assert (part[1:] == whole[-4:]).all()
    assert names_in(tmp_path / "part") == {"input.png", "framepack-job.mp4", "framepack-job.json"}


def test_record_and_file_say_what_part_of_the_video_it_is(
    workshop: Workshop, tmp_path: Path
) -> None:
    request = small_request(**THREE)
    stop_after(workshop, tmp_path, request, 3)
    end = finished_part(workshop, tmp_path, request)
    assert (end.sections_made, end.frames) == (1, 1)
    made = {"sections": 1, "of": 3, "part": "end"}
    assert json.loads((tmp_path / "framepack-job.json").read_text())["made"] == made
    mp4 = (tmp_path / "framepack-job.mp4").read_bytes()
    assert b'"made": {"of": 3, "part": "end", "sections": 1}' in mp4
    run_job(workshop, tmp_path / "whole", request)
    assert "made" not in json.loads((tmp_path / "whole" / "framepack-job.json").read_text())


def test_without_a_finished_section_there_is_nothing_to_send(
    workshop: Workshop, tmp_path: Path
) -> None:
    request = small_request(**THREE)
    stop_after(workshop, tmp_path, request, 1)
    with pytest.raises(InputError, match="None of the 3 sections of this video is finished"):
        finished_part(workshop, tmp_path, request)
    run_job(workshop, tmp_path, request)  # and nothing was lost by asking


def test_all_sections_make_the_whole_video(workshop: Workshop, tmp_path: Path) -> None:
    request = small_request(**THREE)
    _, end = run_job(workshop, tmp_path / "whole", request)
    assert (end.sections_made, end.sections) == (3, 3)
    (tmp_path / "asked").mkdir()
    draw_picture(tmp_path / "asked" / "input.png")
    with closing(generate("job", request, tmp_path / "asked", workshop)) as events:
        next(event for event in events if event.stage is Stage.DECODING)  # type: ignore[union-attr]
    assert finished_part(workshop, tmp_path / "asked", request).sections_made == 3
    assert sha256(tmp_path / "asked" / "framepack-job.mp4") == sha256(
        tmp_path / "whole" / "framepack-job.mp4"
    )


class Asker:
    """A parent that asks for what is done as soon as it hears of a certain step."""

    def __init__(self, section: int, step: int, *, cancels: bool = False) -> None:
        self.at, self.cancels = (section, step), cancels
        self.heard: list[Any] = []
        self.asked = False

    def send(self, message: FromGenerator) -> None:
        self.heard.append(message)
        assert isinstance(message, Progress)
        self.asked = self.asked or (message.section, message.step) == self.at

    def is_finishing(self, job_id: str) -> bool:
        return self.asked

    def is_cancelled(self, job_id: str) -> bool:
        return self.asked and self.cancels

    def is_suspended(self, job_id: str) -> bool:
        return False

    @property
    def steps(self) -> list[tuple[int, int]]:
        return [(e.section, e.step) for e in self.heard if e.step]


@pytest.mark.parametrize(
    ("at", "sections", "last_step"),
    [((2, 1), 1, (2, 1)), ((2, 2), 2, (3, 1)), ((3, 2), 3, (3, 2))],
)
def test_the_running_job_stops_within_a_step_and_loses_no_section(
    workshop: Workshop,
    tmp_path: Path,
    at: tuple[int, int],
    sections: int,
    last_step: tuple[int, int],
) -> None:
    asker: Any = Asker(*at)
    end = _run(order(tmp_path / "job", small_request(**THREE)), workshop, asker, asker)
    assert isinstance(end, Finished), end
    assert (end.sections_made, end.sections) == (sections, 3)
    assert asker.steps[-1] == last_step
    assert asker.heard[-1].fraction == 1.0


def test_asked_before_a_section_is_finished_it_fails_with_a_sentence(
    workshop: Workshop, tmp_path: Path
) -> None:
    asker: Any = Asker(1, 1)
    end = _run(order(tmp_path / "job", small_request(**THREE)), workshop, asker, asker)
    assert isinstance(end, Failed) and end.kind is ErrorKind.INPUT
    assert "nothing to send" in end.message


def test_cancel_counts_more(workshop: Workshop, tmp_path: Path) -> None:
    asker: Any = Asker(2, 1, cancels=True)
    end = _run(order(tmp_path / "job", small_request(**THREE)), workshop, asker, asker)
    assert end == Cancelled(job_id="job")
    assert names_in(tmp_path / "job") == {"input.png"}


def test_of_a_step_cache_whose_sections_only_are_kept_they_are_sent_too(
    workshop: Workshop, tmp_path: Path
) -> None:
    asker: Any = Asker(2, 1)
    request = small_request(**{**THREE, "steps": 4}, step_cache=StepCacheKind.MAGCACHE)
    end = _run(order(tmp_path / "job", request), workshop, asker, asker)
    assert isinstance(end, Finished) and end.sections_made == 1


@pytest.mark.slow
@pytest.mark.timeout(600)  # two real children, each loads torch
def test_a_suspended_job_is_finished_in_another_child_without_a_step(
    tiny_model: Path, tmp_path: Path
) -> None:
    request = small_request(**{**THREE, "steps": 6})
    wish = order(tmp_path / "job", request)
    with child(tiny_model) as first:
        first.say(wish)
        while not (isinstance(event := first.hear(), Progress) and event.section == 2):
            pass
        first.say(Measure())
        first.say(Suspend(job_id="job"))
        heard: list[FromGenerator] = []
        while not (heard and isinstance(heard[-1], Suspended)):
            heard.append(first.hear())
        [measured] = [message for message in heard if isinstance(message, Measured)]
        assert measured.variant is Variant.I2V
        assert measured.ram_used > 50 << 20
        assert measured.ram_free > 0
        assert measured.placement
    assert (tmp_path / "job" / resume.SECTIONS_FILE).exists()
    with child(tiny_model) as second:
        only = Generate(job_id="job", folder=wish.folder, request=request, only_finished=True)
        second.say(only)
        events: list[Any] = []
        while not (events and isinstance(events[-1], Finished)):
            events.append(second.hear())
        assert events[-1].sections_made in (1, 2)
        assert not any(event.step for event in events[:-1])
        second.say(Measure())
        after = second.hear()
        assert isinstance(after, Measured) and after.variant is None  # no transformer was loaded
        second.say(Finish(job_id="job"))  # of a job that is over: means nothing
        second.say(Measure())
        assert isinstance(second.hear(), Measured)
