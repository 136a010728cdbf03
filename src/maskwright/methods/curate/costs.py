"""How long labels take, in seconds of an annotator's time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maskwright.data.labels import Labels
from maskwright.errors import DataError

OPENING = 4.0
"""Seconds for opening an image and looking at it, whatever is drawn then."""

DEFAULTS: Mapping[str, float] = {
    "tag": 1.0,
    "point": 2.5,
    "box": 7.0,
    "scribble": 11.0,
    "mask": 20.0,
}
"""Seconds for one object (of a tag: one category) by kind of label. A box is four clicks at its extremes (Papadopoulos et al., ICCV
2017); a mask is one that SAM drafts and the annotator corrects; by hand it takes a minute."""

DEFAULT_WEIGHT = 10
"""How many observations a default counts as, beside those of the user."""


@dataclass(frozen=True)
class Costs:
    """Seconds by kind of label.

    >>> Costs().of("box", objects=2)
    18.0
    """

    seconds: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULTS))
    opening: float = OPENING

    @classmethod
    def load(cls, path: str | Path | None) -> Costs:
        """From a JSON file: ``{"box": 5.5, "mask": {"median": 31, "count": 40}, "opening": 3}``; None: the defaults.

        A number is taken as it is. A median of the user's own times counts beside the default, which counts as ten observations.

        Raises:
            DataError: the file cannot be read, or holds other kinds or values; all at once.
        """
        if path is None:
            return cls()
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(
                [f"{path}: is not there; write a file such as {json.dumps({'box': 6, 'mask': 45})}"]
            ) from None
        except (OSError, ValueError) as error:
            raise DataError([f"{path}: is no JSON that can be read ({error})"]) from None
        if not isinstance(content, dict):
            raise DataError([f"{path}: must be an object such as {json.dumps({'box': 6, 'mask': 45})}"])
        seconds, problems = dict(DEFAULTS), []
        opening = OPENING
        for kind, value in content.items():
            if kind not in (*DEFAULTS, "opening"):
                problems.append(f"{path}: {kind!r}: no kind of label; one of {', '.join(DEFAULTS)}, or opening")
                continue
            default = OPENING if kind == "opening" else DEFAULTS[kind]
            told = _seconds(value, default)
            if told is None:
                problems.append(f"{path}: {kind}: {value!r} must be seconds above 0, or a median and a count of times")
            elif kind == "opening":
                opening = told
            else:
                seconds[kind] = told
        if problems:
            raise DataError(problems, str(path))
        return cls(seconds, opening)

    def of(self, kind: str, objects: float = 1) -> float:
        """Seconds for an image with so many objects, opening it included."""
        return self.opening + max(1.0, objects) * self.seconds[kind]

    def spent(self, labels: Labels, objects: int = 1) -> float:
        """What the labels of an image have taken, with ``objects`` in its mask; 0 for no labels."""
        if labels == Labels():
            return 0.0
        drawn = (
            (labels.mask is not None) * objects * self.seconds["mask"]
            + len(labels.boxes) * self.seconds["box"]
            + len(labels.points) * self.seconds["point"]
            + len(labels.scribbles) * self.seconds["scribble"]
            + len(labels.tags) * self.seconds["tag"]
        )
        return self.opening + drawn


def _seconds(value: object, default: float) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if 0 < value < 1e6 else None
    if not isinstance(value, dict) or set(value) != {"median", "count"}:
        return None
    median, count = value["median"], value["count"]
    if not isinstance(median, int | float) or not isinstance(count, int) or not 0 < median < 1e6 or count < 0:
        return None
    return (DEFAULT_WEIGHT * default + count * median) / (DEFAULT_WEIGHT + count)
