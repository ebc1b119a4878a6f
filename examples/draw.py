"""Draws the example pictures: `python examples/draw.py` writes them beside this file.

Decides: what they show. They are drawn, not photographed, so that they belong to nobody else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.float32]  # (H, W, 3), 0 to 1
SCALE = 2  # drawn this much larger and then shrunk, so that edges are smooth
HERE = Path(__file__).parent


def rgb(code: str) -> Pixels:
    """A colour such as "ffb070"."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)


def gradient(height: int, width: int, stops: list[tuple[float, str]]) -> Pixels:
    """Colours from top to bottom; each stop is (place from 0 to 1, colour)."""
    places = [place for place, _ in stops]
    colours = np.stack([rgb(code) for _, code in stops])
    rows = np.linspace(0, 1, height)
    column = np.stack([np.interp(rows, places, colours[:, c]) for c in range(3)], axis=1)
    return np.repeat(column[:, None, :], width, axis=1).astype(np.float32)


def glow(picture: Pixels, centre: tuple[float, float], radius: float, colour: Pixels) -> None:
    """Add light that fades with the distance from `centre` (x, y), in place."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(x - centre[0], y - centre[1]) / radius
    picture += np.exp(-(distance**1.3))[..., None] * colour


def paint(picture: Pixels, mask: Image.Image, colour: Pixels, opacity: float = 1.0) -> None:
    """Lay a colour over the picture where the mask is white, in place."""
    alpha = np.asarray(mask, dtype=np.float32)[..., None] / 255 * opacity
    picture *= 1 - alpha
    picture += alpha * colour


def blank(picture: Pixels) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty mask of the picture's size, and the pen for it."""
    mask = Image.new("L", (picture.shape[1], picture.shape[0]), 0)
    return mask, ImageDraw.Draw(mask)


def ridge(picture: Pixels, base: float, rise: float, seed: int, colour: Pixels) -> None:
    """A line of hills: everything below a sum of waves."""
    height, width = picture.shape[:2]
    random = np.random.default_rng(seed)
    x = np.linspace(0, 1, width)
    line = np.zeros(width)
    for octave in range(1, 7):
        waves = np.sin(2 * np.pi * (x * octave * 1.3 + random.random()))
        line += waves * random.uniform(0.5, 1) / octave**1.25
    top = (base - rise * (line - line.min()) / np.ptp(line)) * height
    mask, pen = blank(picture)
    pen.polygon([(0, height), *zip(range(width), top, strict=True), (width, height)], fill=255)
    paint(picture, mask, colour)


def water(picture: Pixels, horizon: int, seed: int) -> None:
    """Mirror what is above the horizon, broken by ripples that grow towards the viewer."""
    height, width = picture.shape[:2]
    np.clip(picture, 0, 1, out=picture)  # a sun brighter than white would be mirrored green
    random = np.random.default_rng(seed)
    depth = np.arange(height - horizon, dtype=np.float32)
    wave = np.sin(depth**0.75 * 1.6 + random.random()) + 0.6 * np.sin(depth**0.6 * 3.1)
    shift = (wave * (1.5 + depth / 40)).astype(int)
    for row, moved in enumerate(shift):
        source = np.clip(horizon - 1 - int(row * 0.8) + moved, 0, horizon - 1)
        far = row / max(1, height - horizon)
        mirrored = np.roll(picture[source], moved, axis=0)
        picture[horizon + row] = mirrored * (0.9 - 0.4 * far) + rgb("1b2450") * 0.2 * far
    mask, pen = blank(picture)
    for _ in range(260):
        y = horizon + int((height - horizon) * random.random() ** 1.4)
        length = 10 + 90 * (y - horizon) / (height - horizon) * random.random()
        x = random.random() * width
        pen.line([(x, y), (x + length, y)], fill=int(40 + 80 * random.random()), width=SCALE)
    paint(picture, mask.filter(ImageFilter.GaussianBlur(SCALE)), rgb("ffe3c4"), 0.5)


def boat(picture: Pixels, x: float, y: float, size: float) -> None:
    """A small sailing boat whose waterline is at (x, y), with its reflection."""
    sail_left = [(-0.04, -0.12), (-0.04, -1.25), (-0.62, -0.16)]
    sail_right = [(0.03, -0.12), (0.03, -1.12), (0.46, -0.16)]
    hull = [(-0.72, -0.1), (0.66, -0.1), (0.46, 0.12), (-0.5, 0.12)]
    parts = [(hull, "5a2a22"), (sail_left, "fff4e2"), (sail_right, "ffd9a8")]
    for flip, opacity in ((-0.55, 0.32), (1.0, 1.0)):
        for shape, colour in parts:
            mask, pen = blank(picture)
            pen.polygon([(x + px * size, y + py * size * flip) for px, py in shape], fill=255)
            if flip < 0:
                mask = mask.filter(ImageFilter.GaussianBlur(2 * SCALE))
            paint(picture, mask, rgb(colour), opacity)


def birds(picture: Pixels, places: list[tuple[float, float, float]]) -> None:
    """Birds far away: (x, y, wing) each."""
    mask, pen = blank(picture)
    for x, y, wing in places:
        for side in (-1, 1):
            box = sorted((x, x + side * wing))
            pen.arc([box[0], y, box[1], y + wing * 0.9], 200, 340, fill=255, width=2 * SCALE)
    paint(picture, mask, rgb("3a2a45"), 0.85)


def save(picture: Pixels, name: str) -> None:
    """Shrink to the final size and write a JPEG."""
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    image = image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)
    image.save(HERE / name, quality=92, optimize=True)


def draw_lake() -> None:
    """A lake at sunset: sun, hills, a sailing boat, birds."""
    height, width = 640 * SCALE, 960 * SCALE
    horizon = int(height * 0.6)
    stops = [(0, "24407c"), (0.3, "7a6aa8"), (0.48, "f0907a"), (0.62, "ffcf86"), (1, "ffcf86")]
    picture = gradient(height, width, stops)
    sun = (width * 0.66, height * 0.46)
    glow(picture, sun, height * 0.16, rgb("ff8f5a") * 0.6)
    mask, pen = blank(picture)
    radius = height * 0.055
    pen.ellipse([sun[0] - radius, sun[1] - radius, sun[0] + radius, sun[1] + radius], fill=255)
    paint(picture, mask.filter(ImageFilter.GaussianBlur(SCALE)), rgb("fff3cf"))
    for base, rise, seed, colour in (
        (0.6, 0.2, 4, "b07c93"),
        (0.6, 0.15, 7, "7a5f86"),
        (0.61, 0.09, 12, "43456b"),
    ):
        ridge(picture, base, rise, seed, rgb(colour))
    water(picture, horizon, 3)
    boat(picture, width * 0.36, height * 0.75, height * 0.16)
    flock = [(0.2, 0.2, 15), (0.245, 0.17, 12), (0.28, 0.21, 10), (0.8, 0.14, 11), (0.83, 0.165, 9)]
    birds(picture, [(x * width, y * height, w * SCALE) for x, y, w in flock])
    save(picture, "lake.jpg")


def draw_lighthouse() -> None:
    """A lighthouse on a rock at night: moon, stars, a beam of light, waves."""
    height, width = 960 * SCALE, 640 * SCALE
    horizon = int(height * 0.7)
    stops = [(0, "0b1536"), (0.45, "24376e"), (0.7, "5f79a8"), (1, "5f79a8")]
    picture = gradient(height, width, stops)
    random = np.random.default_rng(5)
    mask, pen = blank(picture)
    for _ in range(240):
        x, y, r = random.random() * width, random.random() ** 1.5 * horizon, random.random() * SCALE
        pen.ellipse([x - r, y - r, x + r, y + r], fill=int(90 + 165 * random.random()))
    paint(picture, mask, rgb("fdf6e0"))
    moon = (width * 0.24, height * 0.17)
    glow(picture, moon, height * 0.1, rgb("9fb4e8") * 0.5)
    mask, pen = blank(picture)
    radius = height * 0.04
    pen.ellipse([moon[0] - radius, moon[1] - radius, moon[0] + radius, moon[1] + radius], fill=255)
    paint(picture, mask.filter(ImageFilter.GaussianBlur(SCALE)), rgb("f7f0da"))
    ridge(picture, 0.71, 0.06, 9, rgb("2c3f6b"))
    water(picture, horizon, 8)
    tower(picture, width * 0.66, height * 0.74, height * 0.36)
    save(picture, "lighthouse.jpg")


def tower(picture: Pixels, x: float, foot: float, size: float) -> None:
    """A striped tower on a rock; `foot` is its lower end, `size` its height."""
    lamp = (x, foot - size * 1.06)
    mask, pen = blank(picture)
    for far, spread in ((-1, 0.16), (1, 0.2)):
        end = x + far * size * 3
        pen.polygon(
            [lamp, (end, lamp[1] - size * spread), (end, lamp[1] + size * spread)], fill=150
        )
    paint(picture, mask.filter(ImageFilter.GaussianBlur(7 * SCALE)), rgb("ffeeb0"), 0.45)
    mask, pen = blank(picture)
    rock = [(-0.75, 0.3), (-0.5, 0.06), (-0.26, 0.09), (-0.1, -0.05), (0.2, -0.03), (0.42, 0.1)]
    shape = [*rock, (0.7, 0.14), (0.95, 0.3)]
    pen.polygon([(x + px * size, foot + py * size) for px, py in shape], fill=255)
    paint(picture, mask, rgb("1b2238"))
    for stripe in range(6):
        low, high = stripe / 6, (stripe + 1) / 6
        wide = [0.155 - 0.06 * part for part in (low, high)]
        corners = [(-wide[0], -low), (wide[0], -low), (wide[1], -high), (-wide[1], -high)]
        mask, pen = blank(picture)
        pen.polygon([(x + px * size, foot + py * size) for px, py in corners], fill=255)
        paint(picture, mask, rgb("e9e4da" if stripe % 2 else "b8403a"))
    shade, pen = blank(picture)
    side = [(0.03, 0), (0.14, 0), (0.085, -1), (0.03, -1)]
    pen.polygon([(x + px * size, foot + py * size) for px, py in side], fill=255)
    paint(picture, shade.filter(ImageFilter.GaussianBlur(5 * SCALE)), rgb("101830"), 0.4)
    for left, top, right, bottom, colour in (
        (-0.125, -1.02, 0.125, -1.0, "2a2f45"),
        (-0.07, -1.13, 0.07, -1.02, "ffe9a0"),
        (-0.09, -1.15, 0.09, -1.13, "2a2f45"),
    ):
        mask, pen = blank(picture)
        pen.rectangle(
            [x + left * size, foot + top * size, x + right * size, foot + bottom * size], fill=255
        )
        paint(picture, mask, rgb(colour))
    mask, pen = blank(picture)
    roof = [(-0.09, -1.15), (0.09, -1.15), (0, -1.25)]
    pen.polygon([(x + px * size, foot + py * size) for px, py in roof], fill=255)
    paint(picture, mask, rgb("8f2f2c"))
    glow(picture, lamp, size * 0.12, rgb("ffdf90") * 0.6)


if __name__ == "__main__":
    draw_lake()
    draw_lighthouse()
