"""Draw a scene: large without smoothing, then shrunk, so that edges are smooth at any thumbnail size."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageDraw

from training.world.scene import Background, Colour, Scene, Thing

SIDE_PX = 128
SCALE = 3
"""Pictures are drawn at three times their side: nine samples a pixel."""

Rgb = tuple[int, int, int]
Point = tuple[float, float]

INK: dict[Colour, Rgb] = {
    "red": (220, 38, 38),
    "orange": (245, 130, 32),
    "yellow": (250, 208, 40),
    "green": (34, 160, 74),
    "blue": (37, 99, 225),
    "purple": (126, 48, 180),
    "pink": (244, 130, 185),
    "brown": (130, 80, 40),
}
PAPER: dict[Background, tuple[Rgb, Rgb]] = {
    "white": ((250, 250, 250), (250, 250, 250)),
    "grey": ((160, 163, 168), (160, 163, 168)),
    "black": ((22, 22, 26), (22, 22, 26)),
    "beige": ((232, 214, 180), (232, 214, 180)),
    "striped": ((236, 240, 244), (186, 198, 212)),
    "dotted": ((244, 240, 234), (168, 176, 160)),
}


class Painter:
    """Draws scenes. Keeps the six backgrounds once drawn; not thread-safe, one for each process or thread."""

    def __init__(self, side_px: int = SIDE_PX) -> None:
        self.side_px = side_px
        self._canvas_px = side_px * SCALE
        self._papers: dict[Background, Image.Image] = {}

    def paint(self, scene: Scene, rng: random.Random) -> Image.Image:
        """The picture, RGB, ``side_px`` square. ``rng`` varies the inks a little."""
        canvas = self._paper(scene.background).copy()
        draw = ImageDraw.Draw(canvas)
        for thing in scene.things:
            _draw_thing(draw, thing, _vary(INK[thing.colour], rng), self._canvas_px)
        return canvas.reduce(SCALE)

    def png(self, scene: Scene, rng: random.Random) -> bytes:
        """The picture as PNG bytes."""
        buffer = io.BytesIO()
        self.paint(scene, rng).save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()

    def _paper(self, background: Background) -> Image.Image:
        if background not in self._papers:
            self._papers[background] = _paper(background, self._canvas_px)
        return self._papers[background]


def _paper(background: Background, side: int) -> Image.Image:
    plain, mark = PAPER[background]
    paper = Image.new("RGB", (side, side), plain)
    draw = ImageDraw.Draw(paper)
    step = side / 8
    if background == "striped":
        for index in range(-8, 16):
            left = index * step
            draw.polygon(
                [(left, side), (left + step / 2, side), (left + step / 2 + side, 0), (left + side, 0)],
                fill=mark,
            )
    elif background == "dotted":
        dot = step * 0.22
        for row in range(8):
            for column in range(8):
                x, y = (column + 0.5) * step, (row + 0.5) * step
                draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=mark)
    return paper


def _vary(ink: Rgb, rng: random.Random) -> Rgb:
    red, green, blue = (min(max(channel + rng.randint(-10, 10), 0), 255) for channel in ink)
    return red, green, blue


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, ink: Rgb, side: int) -> None:
    x, y, radius = thing.x * side, thing.y * side, thing.radius * side
    if thing.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    elif thing.shape == "ring":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=round(radius * 0.42))
    else:
        turn = math.radians(thing.tilt_degrees)
        cos, sin = math.cos(turn), math.sin(turn)
        points = [
            (x + radius * (px * cos + py * sin), y + radius * (py * cos - px * sin)) for px, py in OUTLINES[thing.shape]
        ]
        draw.polygon(points, fill=ink)


def _star() -> list[Point]:
    corners: list[Point] = []
    for index in range(10):
        reach = 1.08 if index % 2 == 0 else 0.44
        angle = math.pi * index / 5
        corners.append((reach * math.sin(angle), 0.06 - reach * math.cos(angle)))
    return corners


def _heart() -> list[Point]:
    points: list[Point] = []
    for index in range(48):
        t = 2 * math.pi * index / 48
        across = 16 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((across / 16, -(up + 2.5) / 15.5))
    return points


def _cross() -> list[Point]:
    arm = 0.34
    return [
        (-arm, -1.0),
        (arm, -1.0),
        (arm, -arm),
        (1.0, -arm),
        (1.0, arm),
        (arm, arm),
        (arm, 1.0),
        (-arm, 1.0),
        (-arm, arm),
        (-1.0, arm),
        (-1.0, -arm),
        (-arm, -arm),
    ]


OUTLINES: dict[str, list[Point]] = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -0.98), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "diamond": [(0.0, -1.06), (0.78, 0.0), (0.0, 1.06), (-0.78, 0.0)],
}
"""Corners within the unit square, y downwards."""
