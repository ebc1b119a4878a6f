"""A cancelled job ends before the next layer, in whatever part computes, and leaves nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from small_jobs import draw_picture, names_in, run_job, serve_settings, sha256, small_request

from generator.pipeline import generate
from generator.protocol import Progress, Stage, Variant
from generator.resume import discard
from generator.stopping import NoLongerWanted, always
from generator.workshop import Workshop, open_workshop

COMPUTING = (Stage.TEXT, Stage.IMAGE, Stage.SAMPLING, Stage.DECODING)


class Asked:
    """Counts how often is asked in each stage; after `limit` times in `stage` the answer is no."""

    def __init__(self, stage: Stage | None = None, limit: int = 0):
        self.times: Counter[Stage] = Counter()
        self.now = Stage.TEXT
        self._stage, self._limit = stage, limit

    def __call__(self) -> None:
        self.times[self.now] += 1
        if self.now is self._stage and self.times[self.now] > self._limit:
            raise NoLongerWanted


def run(workshop: Workshop, folder: Path, asked: Asked, **changes: Any) -> None:
    folder.mkdir()
    draw_picture(folder / "input.png")
    workshop.placement.still_wanted = asked
    try:
        with closing(generate("job", small_request(**changes), folder, workshop)) as events:
            for event in events:
                if isinstance(event, Progress):
                    asked.now = event.stage
    finally:
        workshop.placement.still_wanted = always


def workshop_of(model: Path, **words: Any) -> Workshop:
    return open_workshop(serve_settings(model=str(model), **words))


@pytest.fixture(scope="module")
def workshop(tiny_model: Path) -> Workshop:
    return workshop_of(tiny_model)


@pytest.mark.parametrize("stage", COMPUTING)
def test_whatever_computes_can_be_left_in_its_middle(
    workshop: Workshop, tmp_path: Path, stage: Stage
) -> None:
    folder = tmp_path / "job"
    _, before = run_job(workshop, tmp_path / "before", small_request())
    whole = Asked()
    run(workshop, tmp_path / "whole", whole)
    assert whole.times[stage] > 2, "asked about once a layer"
    half = whole.times[stage] // 2
    cut = Asked(stage, half)
    with pytest.raises(NoLongerWanted):
        run(workshop, folder, cut, seed=3, step_cache="teacache")
    assert cut.times[stage] == half + 1
    discard(folder)
    assert names_in(folder) <= {"input.png", "preview-1.webp"}
    run_job(workshop, tmp_path / "after", small_request())
    videos = [tmp_path / name / before.video for name in ("before", "after")]
    assert sha256(videos[0]) == sha256(videos[1])


def test_reading_weights_can_be_left_and_taken_up_again(tiny_model: Path, tmp_path: Path) -> None:
    workshop = workshop_of(tiny_model, placement="stream")
    _, before = run_job(workshop, tmp_path / "before", small_request())
    workshop.placement.unload()
    whole = Asked()
    run(workshop, tmp_path / "whole", whole)
    assert whole.times[Stage.LOADING] > 10, "asked before each tensor"
    workshop.placement.unload()
    with pytest.raises(NoLongerWanted):
        run(workshop, tmp_path / "cut", Asked(Stage.LOADING, whole.times[Stage.LOADING] // 2))
    assert not workshop.placement.is_loaded("transformer")
    run_job(workshop, tmp_path / "after", small_request())
    videos = [tmp_path / name / before.video for name in ("before", "after")]
    assert sha256(videos[0]) == sha256(videos[1])
    workshop.placement.unload()


def test_no_hook_stays_behind(workshop: Workshop, tmp_path: Path) -> None:
    run_job(workshop, tmp_path / "before", small_request())
    with workshop.placement.on_gpu("transformer", Variant.I2V) as transformer:
        pass

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) for module in transformer.modules())

    before = hooks()
    with workshop.placement.on_gpu("transformer", Variant.I2V):
        assert hooks() > before
    with pytest.raises(NoLongerWanted):
        run(workshop, tmp_path / "job", Asked(Stage.SAMPLING, 3))
    assert hooks() == before
