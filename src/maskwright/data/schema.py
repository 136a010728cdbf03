"""What may stand in JSON that a program wrote: every field by its name, its type and its bounds, all problems at once.

A configuration decides what is built, so nothing in it is taken on trust: a field that is unknown or missing, of another type or out of
its bounds is a problem with its place, and sizes are bounded before any memory is taken for them::

    SCHEMA = Fields({"width": Whole(1, 4096), "rate": Real(0, 1), "parts": Items(Fields({...}), 1, 8)})
    problems = list(SCHEMA.problems(values, "network"))    # ["network.width: must be a whole number from 1 to 4096, found 0", ...]
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from maskwright.data.fields import shown


class Kind(Protocol):
    """What a value may be."""

    def problems(self, value: Any, place: str) -> Iterator[str]:
        """What is wrong with a value of parsed JSON, one line each, beginning with its place; nothing where it is right."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds, both included, and a multiple of ``step``."""

    low: int
    high: int
    step: int = 1

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if type(value) is not int or not self.low <= value <= self.high or value % self.step:
            what = "a whole number" if self.step == 1 else f"a multiple of {self.step}"
            yield f"{place}: must be {what} from {self.low} to {self.high}, found {shown(value)}"


@dataclass(frozen=True)
class Real:
    """A finite number within bounds, both included."""

    low: float
    high: float

    def problems(self, value: Any, place: str) -> Iterator[str]:
        # The bounds come first: a whole number of thousands of digits is no float.
        right = type(value) in (int, float) and self.low <= value <= self.high and math.isfinite(value)
        if not right:
            yield f"{place}: must be a number from {self.low:g} to {self.high:g}, found {shown(value)}"


@dataclass(frozen=True)
class Text:
    """A text of at most so many characters, and at least one."""

    most: int = 1000

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, str) or not 0 < len(value) <= self.most:
            yield f"{place}: must be a text of 1 to {self.most} characters, found {shown(value)}"


@dataclass(frozen=True)
class Truth:
    """True or false."""

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, bool):
            yield f"{place}: must be true or false, found {shown(value)}"


@dataclass(frozen=True)
class OneOf:
    """One of some texts, numbers, truth values or None."""

    values: tuple[Any, ...]

    def problems(self, value: Any, place: str) -> Iterator[str]:
        # By type too: in Python, true is 1.
        if not any(type(value) is type(one) and value == one for one in self.values):
            yield f"{place}: must be one of {', '.join(map(shown, self.values))}, found {shown(value)}"


@dataclass(frozen=True)
class Items:
    """A list of ``least`` to ``most`` values of one kind."""

    kind: Kind
    least: int = 0
    most: int = 64

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            count = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
            yield f"{place}: must be a list of {count}, found {shown(value)}"
            return
        for number, item in enumerate(value):
            yield from self.kind.problems(item, f"{place}[{number}]")


@dataclass(frozen=True)
class Maybe:
    """A value of a kind, or null."""

    kind: Kind

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if value is not None:
            yield from self.kind.problems(value, place)


@dataclass(frozen=True)
class OneOrMore:
    """A value of a kind, or a list of ``least`` to ``most`` of them."""

    kind: Kind
    least: int = 2
    most: int = 2

    def problems(self, value: Any, place: str) -> Iterator[str]:
        kind = Items(self.kind, self.least, self.most) if isinstance(value, list) else self.kind
        yield from kind.problems(value, place)


@dataclass(frozen=True)
class Named:
    """An object whose names are free, with values of one kind."""

    kind: Kind
    most: int = 10_000

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, dict) or len(value) > self.most:
            yield f"{place}: must be an object of at most {self.most} fields, found {shown(value)}"
            return
        for name, entry in value.items():
            yield from self.kind.problems(entry, f"{place}.{name}")


@dataclass(frozen=True)
class Anything:
    """Whatever JSON holds: notes that decide nothing."""

    def problems(self, value: Any, place: str) -> Iterator[str]:
        yield from ()


@dataclass(frozen=True)
class Fields:
    """An object with known fields and no others.

    Attributes:
        known: by name.
        optional: names that may be missing; None: all of them.
        further: names that nobody misses; what stands in them is checked.
        open: other names are allowed too, unless they look like a slip in a known one that is missing.
    """

    known: Mapping[str, Kind]
    optional: frozenset[str] | None = frozenset()
    further: Mapping[str, Kind] = field(default_factory=dict)
    open: bool = False

    def problems(self, value: Any, place: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{place or 'the file'}: must be an object, found {shown(value)}"
            return
        within = f"{place}." if place else ""
        missing = [name for name in self.known if name not in value]
        for name in value:
            if kind := self.known.get(name) or self.further.get(name):
                yield from kind.problems(value[name], within + name)
                continue
            near = difflib.get_close_matches(str(name), missing, 1, 0.8)
            meant = f"; did you mean {near[0]}?" if near else ""
            if near or not self.open:
                yield f"{within}{name}: is not known{meant}"
        for name in missing:
            if self.optional is not None and name not in self.optional:
                yield f"{within}{name}: is missing"
