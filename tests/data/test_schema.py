"""Closed objects: every field by its name, type and bounds, and all problems at once."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.data.schema import (
    Anything,
    Fields,
    Items,
    Kind,
    Maybe,
    Named,
    OneOf,
    OneOrMore,
    Real,
    Text,
    Truth,
    Whole,
)

SCHEMA = Fields(
    {
        "width": Whole(1, 64),
        "rate": Real(0, 1),
        "name": Text(8),
        "on": Truth(),
        "act": OneOf(("gelu", 1, None)),
        "sizes": Items(Whole(1, 9), 1, 3),
        "side": OneOrMore(Whole(1, 9)),
        "inner": Maybe(Fields({"depth": Whole(0, 3)})),
        "labels": Named(Text(5), 2),
        "note": Anything(),
    },
    optional=frozenset(["note"]),
)
RIGHT: dict[str, Any] = {
    "width": 64,
    "rate": 0,
    "name": "a",
    "on": False,
    "act": None,
    "sizes": [1, 2],
    "side": [3, 4],
    "inner": {"depth": 0},
    "labels": {"0": "x"},
}


def problems(values: Any) -> list[str]:
    return list(SCHEMA.problems(values, "net"))


def test_what_is_right_has_no_problem():
    assert problems(RIGHT) == []
    assert problems(RIGHT | {"note": [{}], "inner": None, "side": 4, "act": 1, "rate": 0.5}) == []


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "width": (0, 65, 1.0, True, "1", None, [1], math.nan, 10**5000),
        "rate": (-0.1, 1.1, math.nan, math.inf, True, "0", None, 10**400),
        "name": ("", "123456789", 1, None, ["a"]),
        "on": (0, 1, None, "true"),
        "act": ("relu", True, 1.0, False, 0, [], {}),
        "sizes": ([], [1, 2, 3, 4], [0], [1, "2"], 1, None, {"a": 1}),
        "side": (0, [1], [1, 2, 3], [1, 0], None),
        "inner": ({}, {"depth": 4}, {"depth": 1, "width": 1}, [], 0),
        "labels": ({"a": "x", "b": "x", "c": "x"}, {"a": 1}, [], None),
    }.items(),
)
def test_each_kind_refuses_what_it_is_not(name: str, values: tuple[Any, ...]):
    for value in values:
        found = problems(RIGHT | {name: value})
        assert found, value
        assert all(line.startswith(f"net.{name}") and len(line) < 300 for line in found), found


def test_all_problems_at_once_with_their_places():
    wrong = RIGHT | {"width": 0, "inner": {"depht": 1}, "sizes": [1, 10], "further": 1}
    del wrong["name"]
    assert problems(wrong) == [
        "net.width: must be a whole number from 1 to 64, found 0",
        "net.sizes[1]: must be a whole number from 1 to 9, found 10",
        "net.inner.depht: is not known; did you mean depth?",
        "net.inner.depth: is missing",
        "net.further: is not known",
        "net.name: is missing",
    ]


def test_an_open_object_refuses_slips_alone():
    schema = Fields({"width": Whole(1, 9), "depth": Whole(1, 9)}, optional=None, further={"dtype": Text()}, open=True)
    assert list(schema.problems({"author": "me", "dtype": "float32", "width": 2}, "")) == []
    assert list(schema.problems({"widht": 2, "dtype": 1}, "")) == [
        "widht: is not known; did you mean width?",
        "dtype: must be a text of 1 to 1000 characters, found 1",
    ]
    # Not a slip: the field itself is there.
    assert list(schema.problems({"widht": 2, "width": 2}, "")) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from([*SCHEMA.known]))
def test_whatever_json_holds_is_judged_without_an_exception(value: Any, name: str):
    kind: Kind = SCHEMA.known[name]
    for schema, values in ((SCHEMA, value), (SCHEMA, RIGHT | {name: value}), (kind, value)):
        assert all(isinstance(line, str) for line in schema.problems(values, "here"))
    json.dumps(problems(value))
