"""The pictures that the demo model learns from: procedural scenes, panoramas and photographs.

Decides: what a training picture looks like. Scenes are drawn from a seed (fractal textures,
landscapes, night skies, water, leaves, buildings, faces, text, dead-leaves collages); the panoramas
and photographs in `pictures/` are CC0 (see its SOURCES.md). Refuses to know: motion, models. The
held-out photos of scikit-image and scikit-learn never come near this module.

Source of the dead-leaves model: Lee, Mumford, Huang, "Occlusion models for natural images", 2001.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 320
"""Height and width of a procedural picture in pixels."""

PANORAMAS = Path(__file__).parent / "pictures"
PHOTOGRAPHS = PANORAMAS / "photos"
HELD_BACK = ("venice", "park", "boats")
"""Pictures kept out of training: its own progress is measured on them."""

Rng = np.random.Generator
Canvas = np.ndarray  # (H, W, 3) float32, 0..1


def fractal(rng: Rng, height: int, width: int, beta: float) -> np.ndarray:
    """Noise with a 1/f^beta amplitude spectrum, scaled to 0..1. (height, width) float32."""
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.rfftfreq(width)[None, :] * width
    stretch = np.exp(rng.normal(0, 0.5))
    frequency = np.maximum(np.hypot(fy * stretch, fx / stretch), 1.0)
    phase = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    noise = np.fft.irfft2(phase * frequency**-beta, s=(height, width))
    low, high = np.percentile(noise, (1, 99))
    return np.clip((noise - low) / (high - low + 1e-9), 0, 1).astype(np.float32)


def palette(rng: Rng, count: int) -> np.ndarray:
    """Colours that go together: one hue family, sometimes with one contrasting. (count, 3) 0..1."""
    hue, spread = rng.random(), rng.choice([0.03, 0.08, 0.2, 0.5])
    saturation = rng.beta(1.4, 1.6)
    colours = []
    for value in np.sort(rng.beta(1.1, 1.0, count)):
        h = (hue + rng.normal(0, spread)) % 1.0
        s = float(np.clip(saturation + rng.normal(0, 0.15), 0, 1))
        colours.append(colorsys.hsv_to_rgb(h, s, value))
    return np.array(colours, np.float32)


def coloured(rng: Rng, field: np.ndarray) -> Canvas:
    """A 0..1 field through a random palette, linear in between."""
    colours = palette(rng, int(rng.integers(3, 7)))
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(field, stops, colours[:, c]) for c in range(3)], -1).astype(
        np.float32
    )


def texture(rng: Rng, height: int = SIDE, width: int = SIDE) -> Canvas:
    """A surface: clouds, marble, wood, cloth or grain, in the colours of one palette."""
    base = fractal(rng, height, width, rng.uniform(0.9, 2.2))
    kind = rng.choice(4, p=(0.55, 0.2, 0.17, 0.08))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    if kind == 1:
        base = 0.5 + 0.5 * np.sin(along / rng.uniform(2, 14) + base * rng.uniform(4, 30))
    elif kind == 2:
        base = np.abs(base - fractal(rng, height, width, 1.4)) ** rng.uniform(0.4, 1)
    elif kind == 3:
        across = -x * np.sin(angle) + y * np.cos(angle)
        period = rng.uniform(3, 16)
        weave = np.sign(np.sin(along / period)) * np.sign(np.sin(across / period))
        base = np.clip(0.5 + 0.2 * weave + 0.5 * (base - 0.5), 0, 1)
    result = coloured(rng, base)
    # A little of each channel's own noise: real surfaces are not one-dimensional in colour.
    for channel in range(3):
        result[..., channel] += 0.12 * rng.random() * (fractal(rng, height, width, 1.0) - 0.5)
    return result


def gradient(rng: Rng) -> Canvas:
    """A sky or a wall: two or three colours, top to bottom or at an angle."""
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    angle = rng.normal(np.pi / 2, 0.5)
    field = x * np.cos(angle) + y * np.sin(angle)
    field = (field - field.min()) / (field.max() - field.min())
    return coloured(rng, field ** rng.uniform(0.5, 2))


def _paste(canvas: Canvas, mask: Image.Image, fill: Canvas) -> Canvas:
    alpha = np.asarray(mask, np.float32)[..., None] / 255
    return canvas * (1 - alpha) + fill * alpha


def _mask(draw_shape: Callable[[ImageDraw.ImageDraw], None]) -> Image.Image:
    big = Image.new("L", (SIDE * 2, SIDE * 2))
    draw_shape(ImageDraw.Draw(big))
    return big.resize((SIDE, SIDE), Image.Resampling.BOX)


def _outline(rng: Rng, cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    """A closed, bumpy or angular curve around a centre, in the doubled coordinates of `_mask`."""
    if rng.random() < 0.35:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        radii = np.full(len(angles), radius)
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radii = radius * (
            1
            + sum(
                rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in (2, 3, 5)
            )
        )
    squash, turn = rng.uniform(0.35, 1), rng.uniform(0, np.pi)
    x, y = radii * np.cos(angles), squash * radii * np.sin(angles)
    return [
        (
            2 * (cx + a * np.cos(turn) - b * np.sin(turn)),
            2 * (cy + a * np.sin(turn) + b * np.cos(turn)),
        )
        for a, b in zip(x, y, strict=True)
    ]


def _shade(rng: Rng, fill: Canvas, cx: float, cy: float, radius: float) -> Canvas:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    light = rng.uniform(0, 2 * np.pi)
    slope = ((x - cx) * np.cos(light) + (y - cy) * np.sin(light)) / max(radius, 1)
    return fill * np.clip(1 + rng.uniform(0, 0.6) * slope, 0.2, 1.7)[..., None]


def dead_leaves(rng: Rng, canvas: Canvas | None = None, count: int | None = None) -> Canvas:
    """Overlapping objects of all sizes, flat or textured, shaded by one light."""
    canvas = texture(rng) if canvas is None else canvas
    surfaces = [texture(rng) for _ in range(3)]
    count = int(rng.integers(10, 50)) if count is None else count
    radii = np.sort(np.clip(6 / rng.random(count) ** 0.6, 4, 120))[::-1]
    for radius in radii:
        cx, cy = rng.uniform(0, SIDE, 2)
        outline = _outline(rng, cx, cy, radius)
        mask = _mask(lambda d, o=outline: d.polygon(o, fill=255))
        if rng.random() < 0.25:
            mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(1, 5))))
        colour = palette(rng, 3)[rng.integers(3)]
        flat = np.broadcast_to(colour, canvas.shape)
        surface = surfaces[rng.integers(3)]
        shift = tuple(rng.integers(0, SIDE, 2))
        mix = rng.choice([0.0, 0.3, 1.0])
        fill = (1 - mix) * flat + mix * np.roll(surface, shift, (0, 1))
        canvas = _paste(canvas, mask, _shade(rng, fill, cx, cy, radius))
    return canvas


def landscape(rng: Rng) -> Canvas:
    """Sky with clouds, ridges that fade into the distance, a ground; sometimes water or trees."""
    canvas = gradient(rng)
    clouds = np.clip(fractal(rng, SIDE, SIDE, 1.6) * 1.8 - rng.uniform(0.6, 1.4), 0, 1)[..., None]
    canvas = canvas * (1 - clouds) + clouds * rng.uniform(0.7, 1)
    haze = canvas[SIDE // 2].mean(0)
    layers = int(rng.integers(2, 6))
    for layer in range(layers):
        depth = (layer + 1) / layers
        top = SIDE * (0.35 + 0.4 * depth * rng.uniform(0.8, 1.1))
        profile = (
            top + (fractal(rng, 2, SIDE, rng.uniform(0.9, 1.6))[0] - 0.5) * SIDE * 0.35 / depth**0.5
        )
        rows = np.arange(SIDE, dtype=np.float32)[:, None]
        alpha = np.clip(rows - profile[None], 0, 1)[..., None]
        fill = texture(rng) * depth + haze * (1 - depth)
        canvas = canvas * (1 - alpha) + fill * alpha
    return water(rng, canvas) if rng.random() < 0.25 else canvas


def water(rng: Rng, canvas: Canvas | None = None) -> Canvas:
    """The upper part mirrored in ripples below a shore line."""
    canvas = landscape(rng) if canvas is None else canvas
    shore = int(SIDE * rng.uniform(0.4, 0.75))
    rows, columns = np.mgrid[shore:SIDE, 0:SIDE]
    depth = (rows - shore + 4).astype(np.float32)
    ripple = np.sin(600 / depth + 4 * fractal(rng, SIDE - shore, SIDE, 1.0)) * depth**0.5
    source = np.clip(shore - (rows - shore) + ripple, 0, shore - 1).astype(int)
    result = canvas.copy()
    result[shore:] = canvas[source, columns] * rng.uniform(0.6, 0.95)
    return result


def night(rng: Rng) -> Canvas:
    """A dark sky with stars and a glow, or a dark shore with lights."""
    glow = coloured(rng, fractal(rng, SIDE, SIDE, 2.0)) * rng.uniform(0.05, 0.4)
    stars = np.zeros((SIDE, SIDE), np.float32)
    count = int(rng.integers(50, 500))
    where = rng.integers(0, SIDE, (2, count))
    stars[where[0], where[1]] = rng.random(count) ** 2 * 255
    points = Image.fromarray(stars.astype(np.uint8))
    points = points.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 0.9))))
    return glow + np.asarray(points, np.float32)[..., None] / 60 * rng.uniform(0.7, 1.0, 3).astype(
        np.float32
    )


def buildings(rng: Rng) -> Canvas:
    """House fronts with rows of windows before a sky."""
    canvas = gradient(rng)
    left = -20.0
    while left < SIDE:
        width, top = rng.uniform(30, 120), SIDE * rng.uniform(0.05, 0.6)
        box = (2 * left, 2 * top, 2 * (left + width), 2 * SIDE)
        wall = texture(rng) * 0.4 + palette(rng, 3)[1] * 0.6
        canvas = _paste(canvas, _mask(lambda d, b=box: d.rectangle(b, fill=255)), wall)
        step_x, step_y = rng.uniform(9, 30, 2)
        share = rng.uniform(0.4, 0.75)
        windows = Image.new("L", (SIDE * 2, SIDE * 2))
        draw = ImageDraw.Draw(windows)
        for x in np.arange(left + 4, left + width - step_x * share, step_x):
            for y in np.arange(top + 6, SIDE, step_y):
                level = int(rng.choice([255, 255, 255, 120]))
                draw.rectangle(
                    (2 * x, 2 * y, 2 * (x + step_x * share), 2 * (y + step_y * share)), fill=level
                )
        pane = np.broadcast_to(palette(rng, 2)[rng.integers(2)], canvas.shape)
        canvas = _paste(canvas, windows.resize((SIDE, SIDE), Image.Resampling.BOX), pane)
        left += width + rng.choice([0, rng.uniform(0, 30)])
    return canvas


def face(rng: Rng) -> Canvas:
    """Round heads with hair, eyes, mouth and shoulders before a blurred background."""
    canvas = gradient(rng) * 0.5 + texture(rng) * 0.5
    for _ in range(int(rng.integers(1, 4))):
        r = rng.uniform(25, 95)
        cx, cy = rng.uniform(r, SIDE - r, 2)
        skin = np.array([1.0, 0.78, 0.64], np.float32) * rng.uniform(0.3, 1) + rng.normal(
            0, 0.04, 3
        )
        parts = [
            (0, 1.6, 1.4, 0.8, palette(rng, 3)[1]),
            (0, -0.2, 1.08, 1.25, np.array([0.5, 0.35, 0.2]) * rng.uniform(0.1, 1.6)),
            (0, 0.1, 0.85, 1.1, skin),
        ]
        for side in (-1, 1):
            parts += [
                (side * 0.35, -0.1, 0.17, 0.1, np.full(3, 0.92)),
                (side * 0.35, -0.1, 0.08, 0.09, np.full(3, 0.1)),
            ]
            parts.append((side * 0.35, -0.32, 0.2, 0.05, skin * 0.35))
        parts += [
            (0, 0.2, 0.1, 0.2, skin * 0.85),
            (0, 0.6, 0.3, 0.09, skin * np.array([0.9, 0.5, 0.5])),
        ]
        for dx, dy, w, h, colour in parts:
            box = tuple(
                2 * (c + s)
                for c, s in (
                    (cx + dx * r, -w * r),
                    (cy + dy * r, -h * r),
                    (cx + dx * r, w * r),
                    (cy + dy * r, h * r),
                )
            )
            mask = _mask(lambda d, b=box: d.ellipse(b, fill=255))
            mask = mask.filter(ImageFilter.GaussianBlur(r * 0.012))
            fill = np.broadcast_to(np.asarray(colour, np.float32), canvas.shape)
            canvas = _paste(canvas, mask, _shade(rng, fill, cx, cy, r * 1.4))
    return canvas


def foliage(rng: Rng) -> Canvas:
    """Leaves and twigs: many thin, similar shapes in one family of colours."""
    canvas = texture(rng) * rng.uniform(0.2, 1)
    colours = palette(rng, 6)
    layer = Image.fromarray((np.clip(canvas, 0, 1) * 255).astype(np.uint8)).resize(
        (SIDE * 2, SIDE * 2)
    )
    draw = ImageDraw.Draw(layer)
    length = rng.uniform(10, 60)
    for _ in range(int(rng.integers(60, 400))):
        x, y = rng.uniform(0, 2 * SIDE, 2)
        turn, size = rng.uniform(0, 2 * np.pi), length * rng.uniform(0.5, 2)
        colour = tuple(
            int(255 * c) for c in np.clip(colours[rng.integers(6)] + rng.normal(0, 0.06, 3), 0, 1)
        )
        if rng.random() < 0.15:
            draw.line(
                (x, y, x + 3 * size * np.cos(turn), y + 3 * size * np.sin(turn)),
                fill=colour,
                width=int(rng.integers(1, 7)),
            )
            continue
        t = np.linspace(0, 2 * np.pi, 18)
        a, b = size * np.cos(t), size * 0.35 * np.sin(t) * (1 - 0.5 * np.cos(t))
        draw.polygon(
            [
                (x + p * np.cos(turn) - q * np.sin(turn), y + p * np.sin(turn) + q * np.cos(turn))
                for p, q in zip(a, b, strict=True)
            ],
            fill=colour,
        )
    return np.asarray(layer.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


def lettering(rng: Rng) -> Canvas:
    """Lines of text on paper, a wall or a sign."""
    canvas = gradient(rng) * 0.7 + 0.3 * texture(rng)
    mask = Image.new("L", (SIDE * 2, SIDE * 2))
    draw = ImageDraw.Draw(mask)
    size = float(rng.choice([16, 24, 36, 60, 110]))
    font = ImageFont.load_default(size)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789      .,!?"
    for y in np.arange(8, 2 * SIDE, size * 1.4):
        line = "".join(rng.choice(list(letters), int(1400 / size)))
        draw.text((float(rng.uniform(0, 30)), float(y)), line, fill=255, font=font)
    mask = mask.rotate(float(rng.normal(0, 4))).resize((SIDE, SIDE), Image.Resampling.BOX)
    return _paste(canvas, mask, np.broadcast_to(palette(rng, 4)[rng.integers(4)], canvas.shape))


SCENES: tuple[tuple[Callable[[Rng], Canvas], float], ...] = (
    (dead_leaves, 0.26), (landscape, 0.2), (texture, 0.12), (buildings, 0.1), (foliage, 0.1),
    (face, 0.08), (water, 0.05), (night, 0.04), (lettering, 0.05),
)  # fmt: skip


def picture(seed: int) -> np.ndarray:
    """Training picture number `seed`: (SIDE, SIDE, 3) uint8, the same bytes for the same seed."""
    rng = np.random.default_rng((20261122, seed))
    makers, weights = zip(*SCENES, strict=True)
    maker = makers[rng.choice(len(makers), p=np.array(weights) / sum(weights))]
    canvas = maker(rng)
    if maker not in (dead_leaves, lettering) and rng.random() < 0.35:
        canvas = dead_leaves(rng, canvas, int(rng.integers(1, 12)))
    return finish(rng, canvas)


def finish(rng: Rng, canvas: Canvas) -> np.ndarray:
    """The camera's part: vignette, exposure, white balance, colourfulness, blur, grain → uint8."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    canvas = canvas * (1 - rng.uniform(0, 0.35) * (x * x + y * y) / 2)[..., None]
    canvas = np.clip(canvas, 0, None) * rng.uniform(0.9, 1.1, 3)
    grey = canvas.mean(-1, keepdims=True)
    canvas = grey + (canvas - grey) * (0.0 if rng.random() < 0.08 else rng.uniform(0.6, 1.4))
    canvas = np.clip(canvas, 0, 1) ** np.exp(rng.normal(0, 0.3))
    canvas = canvas + rng.normal(0, rng.uniform(0, 0.02), canvas.shape)
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    return np.asarray(image)


def panoramas(*, held_back: bool = False) -> list[np.ndarray]:
    """The CC0 panoramas for training, or those held back; (196, 512, 3) uint8 each, by name."""
    return _opened(PANORAMAS, held_back)


def photographs(*, held_back: bool = False) -> list[np.ndarray]:
    """The CC0 photographs for training, or those held back; uint8, the longer side 640."""
    return _opened(PHOTOGRAPHS, held_back)


def _opened(folder: Path, held_back: bool) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(path).convert("RGB"))
        for path in sorted(folder.glob("*.webp"))
        if (path.stem in HELD_BACK) == held_back
    ]
