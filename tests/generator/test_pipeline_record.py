"""What a job says of its video is true: beside the file, inside it and in the last message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_jobs import VIDEO, comment_of, draw_picture, frames_in, names_in, run_job, small_request

from generator.protocol import Stage
from generator.workshop import Workshop


def test_what_a_result_depends_on_is_beside_it_and_inside_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    prompt = 'quotes " and \\ and = ; # stay, ملك 🐈 too'
    _, finished = run_job(workshop, tmp_path, small_request(prompt=prompt, step_cache="teacache"))
    beside = json.loads((tmp_path / "framepack-job.json").read_text("utf-8"))
    measured = beside.pop("measured")
    assert comment_of(tmp_path / VIDEO) == beside
    assert beside["request"]["prompt"] == prompt
    assert (beside["request"]["seed"], beside["request"]["step_cache"]) == (7, "teacache")
    assert beside["versions"]["torch"] == torch.__version__
    assert beside["dtype"] == {"transformer": "float32", "encoders": "float32"}
    assert beside["device"] == "cpu"
    assert len(beside["model"]["digests"]) == 8
    assert measured["computed_steps"] == [[0, 1], [0, 1]]
    assert set(measured["stage_s"]) <= set(map(str, Stage))
    assert sum(measured["stage_s"].values()) == pytest.approx(finished.elapsed_s, abs=0.5)


def test_the_record_names_the_pictures_by_what_is_in_them(
    workshop: Workshop, tmp_path: Path
) -> None:
    records = []
    for phase in (0, 90):
        draw_picture(tmp_path / "input.png", phase=phase)
        run_job(workshop, tmp_path, small_request())
        records.append(comment_of(tmp_path / VIDEO))
    assert records[0] != records[1]


def test_the_finished_message_tells_the_truth(workshop: Workshop, tmp_path: Path) -> None:
    progress, finished = run_job(workshop, tmp_path, small_request())
    assert finished.video == VIDEO
    assert (finished.frames, finished.width, finished.height, finished.fps) == (9, 64, 64, 30)
    assert finished.size_bytes == (tmp_path / VIDEO).stat().st_size
    assert len(frames_in(tmp_path / VIDEO, 64, 64)) == 9
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert names_in(tmp_path) == {"input.png", VIDEO, "framepack-job.json"}
