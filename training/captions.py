"""What one may say to the demo model, and what its camera then does.

Decides: the seven motions, the grammar that describes them, and the sentences outside the grammar
that mean calm. Refuses to know: pictures, tokens, models. Evaluation uses `TEST_SUBJECTS`, which no
training caption names.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np


class Motion(StrEnum):
    """A camera motion. CALM is what a sentence without any of the others gets: a slight push in."""

    LEFT = "pan left"
    RIGHT = "pan right"
    UP = "pan up"
    DOWN = "pan down"
    ZOOM_IN = "zoom in"
    ZOOM_OUT = "zoom out"
    STILL = "still"
    CALM = "calm"


PANS = (Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN)
ZOOMS = (Motion.ZOOM_IN, Motion.ZOOM_OUT)
TOLD = (*PANS, *ZOOMS, Motion.STILL)
"""The motions that a prompt can ask for."""

OPPOSITE = {
    Motion.LEFT: Motion.RIGHT, Motion.RIGHT: Motion.LEFT,
    Motion.UP: Motion.DOWN, Motion.DOWN: Motion.UP,
    Motion.ZOOM_IN: Motion.ZOOM_OUT, Motion.ZOOM_OUT: Motion.ZOOM_IN,
}  # fmt: skip

_PAN = (
    "the camera pans {0}", "camera pans {0}", "pan {0}", "a pan to the {0}", "the view pans {0}",
    "the camera moves {0}", "the camera slides {0}", "slow pan {0}", "panning {0}", "moving {0}",
    "the camera drifts {0}", "the camera turns {0}", "the shot pans to the {0}", "camera moves {0}",
    "the camera glides to the {0}", "smooth camera pan {0}", "{0} pan", "the camera looks {0}",
)  # fmt: skip
_TILT = (
    "the camera tilts {0}",
    "tilt {0}",
    "camera tilts {0}",
    "tilting {0}",
    "the view tilts {0}",
)
_VERTICAL = {
    Motion.UP: ("the camera rises", "the camera moves upward", "the camera climbs", "crane up"),
    Motion.DOWN: (
        "the camera sinks",
        "the camera moves downward",
        "the camera descends",
        "crane down",
    ),
}
_ZOOM = {
    Motion.ZOOM_IN: (
        "the camera zooms in", "zoom in", "zooming in", "slow zoom in", "the camera moves closer",
        "the camera pushes in", "dolly in", "a slow push in", "the view moves closer",
        "zoom into the picture",
        "the camera goes closer", "camera zooms in", "the camera moves forward", "move forward",
    ),
    Motion.ZOOM_OUT: (
        "the camera zooms out", "zoom out", "zooming out", "slow zoom out", "the camera moves away",
        "the camera pulls back", "dolly out", "a slow pull back", "the view widens",
        "zoom out of the picture",
        "the camera goes back", "camera zooms out", "the camera moves backward", "move back",
    ),
    Motion.STILL: (
        "the camera stands still", "still", "static shot", "the camera does not move", "no motion",
        "a still picture", "nothing moves", "static camera", "the camera holds still",
        "fixed camera",
        "the view stays", "the picture stays still", "no camera movement", "a static view",
    ),
}  # fmt: skip
_NOUNS = (
    "forest", "sea", "street", "house", "mountain", "lake", "woman", "man", "friend", "dog",
    "tower", "garden", "sky", "river", "flower", "boat", "leaf", "wall", "room", "bridge", "cat",
    "cloud", "landscape", "scene", "stone", "letter", "child", "harbour", "desert", "tree", "car",
    "bird", "horse", "market", "window", "girl", "boy", "robot", "castle", "beach", "road", "train",
    "mirror", "book", "face", "hand", "island", "city", "village", "snow", "fire", "moon", "sun",
    "picture", "painting", "table", "lamp", "fish", "dancer", "soldier", "king", "door", "hill",
)  # fmt: skip
_ADJECTIVES = (
    "red", "blue", "old", "small", "big", "quiet", "dark", "bright", "wooden", "green", "young",
    "beautiful", "strange", "golden", "white", "black", "tall", "sleeping", "wild", "lonely",
)  # fmt: skip
TEST_SUBJECTS = (
    "an astronaut",
    "a cup of coffee",
    "a temple",
    "a rocket",
    "a yellow flower",
    "a kitten",
)
_LINKS = (
    "over {0}",
    "across {0}",
    "in front of {0}",
    "while we look at {0}",
    "showing {0}",
    "past {0}",
)
_STYLES = (
    "cinematic", "soft light", "photo", "high quality", "calm mood", "warm colours", "evening",
    "sharp details", "film grain", "beautiful", "natural light", "slow and smooth", "wide shot",
)  # fmt: skip
_ACTIONS = (
    "{0} smiles", "{0} dances gracefully", "{0} in the wind", "{0} comes to life", "{0} breathes",
    "{0}, with clear movements, full of charm", "{0} waves", "{0} glows", "gentle movement, {0}",
    "{0} moves a little", "{0}", "a video of {0}", "{0} with a soft breeze", "make {0} move",
    "animate {0}", "{0} talks and laughs", "water flows near {0}", "{0} turns around",
)  # fmt: skip


def phrases(motion: Motion) -> tuple[str, ...]:
    """Every way in which the grammar names this motion."""
    if motion in PANS:
        word = motion.removeprefix("pan ")
        forms = _PAN + (_TILT if motion in _VERTICAL else ())
        return tuple(form.format(word) for form in forms) + _VERTICAL.get(motion, ())
    return _ZOOM[motion]


def _subject(rng: np.random.Generator) -> str:
    """Something to look at; now and then a word that does not exist, so none is relied on."""
    noun = str(rng.choice(_NOUNS))
    if rng.random() < 0.25:
        noun = "".join(rng.choice(list("aabcdeefghiiklmnooprstuuvwyz"), int(rng.integers(3, 10))))
    if rng.random() < 0.4:
        noun = f"{rng.choice(_ADJECTIVES)} {noun}"
    return f"{rng.choice(['a', 'the', 'the', 'two', 'an', 'some', 'my', ''])} {noun}".strip()


def caption(rng: np.random.Generator, motion: Motion, subjects: tuple[str, ...] = ()) -> str:
    """One sentence that asks for `motion`, with or without filler before and after it.

    The filler is about one of `subjects`, by default about anything.
    """
    subject = str(rng.choice(subjects)) if subjects else _subject(rng)
    if motion is Motion.CALM:
        core = str(rng.choice(_ACTIONS)).format(subject)
    else:
        core = str(rng.choice(phrases(motion)))
        if rng.random() < 0.45:
            core += " " + str(rng.choice(_LINKS)).format(subject)
        elif rng.random() < 0.3:
            core = f"{subject}, {core}"
    styles = ", ".join(rng.choice(_STYLES, int(rng.choice([0, 0, 1, 2])), replace=False))
    if styles:
        core = f"{styles}, {core}" if rng.random() < 0.4 else f"{core}, {styles}"
    core = core[0].upper() + core[1:] if rng.random() < 0.6 else core
    return core + ("." if rng.random() < 0.5 else "")
