"""What a drawn scene is: its things, where they stand, and how that is written down and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict

Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]
Shape = Literal["circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond"]
Size = Literal["small", "medium", "large"]
Background = Literal["white", "grey", "black", "beige", "striped", "dotted"]
Place = Literal["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"]
Relation = Literal["alone", "left of", "above", "row", "column"]
Split = Literal["train", "held-out"]

COLOURS: tuple[Colour, ...] = get_args(Colour)
SHAPES: tuple[Shape, ...] = get_args(Shape)
SIZES: tuple[Size, ...] = get_args(Size)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
PLACES: tuple[Place, ...] = get_args(Place)

RECORD_KIND = "sightline-drawn-scene/1"
"""The ``kind`` of a record: zero-shot and swap tests need records that carry it."""


class Thing(BaseModel):
    """One shape of a scene.

    ``x`` and ``y`` are the centre and ``radius`` the half extent, all as fractions of the picture's side in
    (0, 1); ``tilt_degrees`` turns it counter-clockwise. ``place`` names the centre in a grid of three by
    three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: Colour
    shape: Shape
    size: Size
    place: Place
    x: float
    y: float
    radius: float
    tilt_degrees: float


class Scene(BaseModel):
    """One to three things on a background.

    ``relation`` reads from the first thing on: the first is "left of" or "above" the second; three things
    stand in a "row" from left to right or in a "column" from top to bottom; one thing is "alone".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    things: tuple[Thing, ...]
    relation: Relation
    background: Background


def place_of(x: float, y: float) -> Place:
    """The cell of the three-by-three grid that holds the point (x, y), as fractions from the top left."""
    column = min(int(x * 3), 2)
    row = min(int(y * 3), 2)
    return PLACES[3 * row + column]


def to_record(scene: Scene) -> dict[str, Any]:
    """The scene as plain JSON data, the exact truth that goes beside its picture."""
    return {"kind": RECORD_KIND, **scene.model_dump(mode="json")}


def from_record(record: Mapping[str, Any]) -> Scene | None:
    """The scene of a sample's metadata, or None when the metadata do not come from the drawn world."""
    inner = record.get("scene")
    if not isinstance(inner, Mapping) or inner.get("kind") != RECORD_KIND:
        return None
    fields = {name: value for name, value in cast(Mapping[str, Any], inner).items() if name != "kind"}
    return Scene.model_validate(fields)
