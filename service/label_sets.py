"""Labels with a name: registered once, encoded once, asked for by name with every picture.

Sets come from a TOML file at start (``label_sets_file``: every replica that reads it agrees) or through
``PUT /v1/admin/label-sets/{name}``. The latter live in this process's memory: a restart forgets them and other replicas
do not know them, so they are for trying out. What the file defines cannot be changed through the API.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.zero_shot import DEFAULT_TEMPLATES, MAX_LABELS, MAX_TEMPLATES
from sightline.errors import NotFound, QueryError, SettingError

Matrix = npt.NDArray[np.float32]

MAX_LABEL_SETS = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Labels = Annotated[list[str], Field(min_length=1, max_length=MAX_LABELS, description="What it may be; each once.")]
Templates = Annotated[
    list[str], Field(min_length=1, max_length=MAX_TEMPLATES, description="Prompts with {} where the label goes.")
]
NoneThreshold = Annotated[
    float,
    Field(
        ge=-1.0,
        le=1.0,
        allow_inf_nan=False,
        description="The answer is 'none of these' when the best label stays below: its score (cosine) where the "
        "checkpoint's kind is softmax, its probability where it is sigmoid.",
    ),
]


class LabelSetSpec(BaseModel):
    """What a label set is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Labels
    templates: Templates = Field(default=list(DEFAULT_TEMPLATES))
    none_threshold: NoneThreshold | None = None


@dataclass(frozen=True)
class LabelSet:
    """A registered set; ``matrix`` float32 ``[L, D]`` holds a unit vector for each label."""

    name: str
    spec: LabelSetSpec
    origin: Literal["file", "api"]
    matrix: Matrix


class LabelSets:
    """The sets by name, bounded in number. For one thread."""

    def __init__(self) -> None:
        self._sets: dict[str, LabelSet] = {}

    def __len__(self) -> int:
        return len(self._sets)

    def all(self) -> list[LabelSet]:
        """Every set, by name."""
        return [self._sets[name] for name in sorted(self._sets)]

    def get(self, name: str) -> LabelSet:
        """Raises NotFound."""
        found = self._sets.get(name)
        if found is None:
            raise NotFound("There is no label set of this name; GET /v1/label-sets lists them.")
        return found

    def check_name(self, name: str) -> None:
        """Raise QueryError when no set of this name may be registered through the API."""
        if not _NAME.fullmatch(name):
            raise QueryError(
                "A label set's name has 1 to 64 letters, digits, dots, dashes and underscores and begins with a letter "
                "or a digit; choose such a name."
            )
        old = self._sets.get(name)
        if old is not None and old.origin == "file":
            raise QueryError(
                "This label set comes from label_sets_file, so that all replicas agree; change it there and restart."
            )
        if old is None and len(self._sets) >= MAX_LABEL_SETS:
            raise QueryError(
                f"There are {MAX_LABEL_SETS} label sets already; delete one first.", limit_label_sets=MAX_LABEL_SETS
            )

    def put(self, label_set: LabelSet) -> None:
        """Register or replace."""
        self._sets[label_set.name] = label_set

    def remove(self, name: str) -> LabelSet:
        """Raises NotFound, or QueryError for a set of the file."""
        found = self.get(name)
        self.check_name(name)
        del self._sets[name]
        return found


def read_label_sets(path: Path) -> Mapping[str, LabelSetSpec]:
    """The sets of a TOML file: a table for each, like ``[animals]`` with ``labels = ["cat", "dog"]``.

    Raises SettingError.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"The label_sets_file {path} cannot be read; check its path and rights.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(
            f'The label_sets_file {path} is not valid TOML; write tables like [animals] with labels = ["cat", "dog"].'
        ) from error
    if len(tables) > MAX_LABEL_SETS or not all(_NAME.fullmatch(name) for name in tables):
        raise SettingError(
            f"The label_sets_file {path} has more than {MAX_LABEL_SETS} sets, or a name with other signs than letters, "
            "digits, dots, dashes and underscores; correct it."
        )
    try:
        return TypeAdapter(dict[str, LabelSetSpec]).validate_python(tables)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SettingError(f"{place} in the label_sets_file {path} is wrong: {first['msg']}; correct it.") from error


class MatrixCache:
    """Matrices float32 ``[L, D]`` of labels that came without a name: a stream of pictures encodes its labels once.

    The least recently used go first; bounded in floats. For one thread.
    """

    def __init__(self, max_floats: int) -> None:
        self._max_floats = max_floats
        self._floats = 0
        self._matrices: OrderedDict[bytes, Matrix] = OrderedDict()

    @staticmethod
    def key(prompts: Iterable[str], num_labels: int) -> bytes:
        """A digest over length-prefixed prompts: two different lists never share a key."""
        digest = hashlib.sha256(num_labels.to_bytes(8, "little"))
        for prompt in prompts:
            encoded = prompt.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.digest()

    def get(self, key: bytes) -> Matrix | None:
        matrix = self._matrices.get(key)
        if matrix is not None:
            self._matrices.move_to_end(key)
        return matrix

    def put(self, key: bytes, matrix: Matrix) -> None:
        if key in self._matrices or matrix.size > self._max_floats:
            return
        self._matrices[key] = matrix
        self._floats += matrix.size
        while self._floats > self._max_floats:
            _, old = self._matrices.popitem(last=False)
            self._floats -= old.size
