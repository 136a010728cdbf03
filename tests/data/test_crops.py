"""What a crop says is what the image's labels say of it, and no more; crops lie where the labels are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import LineString
from shapely.geometry import box as rectangle

from maskwright.data.batch import collate
from maskwright.data.crops import MIN_COVERED, MIN_VISIBLE, boxes_of, choose, clipped, cut_labels, suggest
from maskwright.data.items import Item
from maskwright.data.labels import Box, Kind, Labels, Mask, Point, Tag
from maskwright.nets.losses import box_projection_loss

WIDTH, HEIGHT = 100, 80
places = st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT))
lines = st.lists(places, min_size=1, max_size=6)


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return Box(x0, y0, draw(st.integers(x0 + 1, WIDTH)), draw(st.integers(y0 + 1, HEIGHT)), draw(st.integers(1, 3)))


@given(st.lists(boxes(), max_size=4), windows())
def test_a_box_becomes_the_box_of_what_is_left(all_boxes: list[Box], window: tuple[int, int, int, int]) -> None:
    x0, y0, _x1, _y1 = window
    expected = []
    for box in all_boxes:
        whole, view = rectangle(*box.xyxy), rectangle(*window)
        left = whole.intersection(view)
        share, covered = left.area / whole.area, left.area / view.area
        if left.area and (share >= MIN_VISIBLE or covered >= MIN_COVERED):
            bounds = left.bounds
            cut = "x" * ((bounds[0], bounds[2]) != (box.x0, box.x1)) + "y" * (
                (bounds[1], bounds[3]) != (box.y0, box.y1)
            )
            moved = tuple(b - o for b, o in zip(bounds, (x0, y0, x0, y0)))
            expected.append(Box(*moved, category=box.category, cut=cut))
    assert cut_labels(Labels(boxes=tuple(all_boxes)), window).boxes == tuple(expected)


@given(boxes(), windows(), st.data())
def test_a_crop_of_a_crop_is_a_crop(box: Box, window: tuple[int, int, int, int], data: st.DataObject) -> None:
    x0, y0, x1, y1 = window
    u0, v0 = data.draw(st.integers(0, x1 - x0 - 1)), data.draw(st.integers(0, y1 - y0 - 1))
    inner = u0, v0, data.draw(st.integers(u0 + 1, x1 - x0)), data.draw(st.integers(v0 + 1, y1 - y0))
    once = cut_labels(Labels(boxes=(box,)), (x0 + inner[0], y0 + inner[1], x0 + inner[2], y0 + inner[3])).boxes
    twice = cut_labels(cut_labels(Labels(boxes=(box,)), window), inner).boxes
    if once and twice:
        assert once == twice


@given(lines, windows())
def test_a_scribble_is_clipped(line: list[tuple[float, float]], window: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = window
    parts = clipped(tuple(line), window)
    for part in parts:
        assert all(0 <= x <= x1 - x0 and 0 <= y <= y1 - y0 for x, y in part)
    if len(line) > 1:
        inside = LineString(line).intersection(rectangle(*window)) if len(set(line)) > 1 else None
        length = sum(math.dist(a, b) for part in parts for a, b in itertools.pairwise(part))
        walked = sum(
            LineString(pair).intersection(rectangle(*window)).length
            for pair in itertools.pairwise(line)
            if pair[0] != pair[1]
        )
        # Along the border itself a line may count or not: crops are half-open.
        if inside is None or inside.distance(rectangle(*window).exterior) > 0 or inside.is_empty:
            assert length == pytest.approx(walked, abs=1e-6)
        assert length <= walked + 1e-6


@given(st.lists(places, max_size=5), windows())
def test_clicks_stay_or_go_and_tags_go(clicks: list[tuple[float, float]], window: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = window
    labels = Labels(points=tuple(Point(x, y, 1) for x, y in clicks), tags=(Tag(1), Tag(2)))
    cut = cut_labels(labels, window)
    assert cut.points == tuple(Point(x - x0, y - y0, 1) for x, y in clicks if x0 <= x < x1 and y0 <= y < y1)
    assert cut.tags == ()
    assert cut.kind == (Kind.POINT if cut.points else Kind.NONE)


def test_a_mask_that_shows_nothing_stays_a_mask() -> None:
    assert cut_labels(Labels(mask=Mask("a.png")), (0, 0, 5, 5)).kind == Kind.MASK


# ---------------------------------------------------------------------------------------------------------- what a cut box teaches


def test_a_cut_box_keeps_its_axes_through_a_quarter_turn() -> None:
    empty = np.zeros(0, np.int64)
    item = Item(
        np.zeros((64, 64, 3), np.uint8),
        (64, 64),
        Kind.BOX,
        None,
        np.array([[0.0, 8, 30, 40]]),
        np.array([1]),
        np.array([[True, False]]),
        np.zeros((0, 2)),
        empty,
        (),
        empty,
        empty,
    )
    upright, turned = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0.0, -1, 64], [1, 0, 0]])
    batch = collate([item, item], [upright, turned], 64, 2)
    assert batch.box_cut.tolist() == [[[True, False]], [[False, True]]]


def test_along_a_cut_axis_nothing_is_asked_of_the_other() -> None:
    box = torch.tensor([[[0.0, 2, 8, 12]]])
    columns = torch.full((1, 1, 16, 16), -12.0)
    columns[..., 4:6, 0:8] = 12.0  # some of it in every column, in few rows: as a part of an object may be
    none, across, both = (torch.tensor([[cut]]) for cut in ([False, False], [True, False], [True, True]))
    loss = {name: box_projection_loss(columns, box, cut=cut).item() for name, cut in zip("nab", (none, across, both))}
    assert loss["a"] == pytest.approx(0, abs=1e-3)
    assert loss["n"] > 1
    assert box_projection_loss(columns, box, cut=none).item() == box_projection_loss(columns, box).item()
    # Nothing is known inside, but outside it must still be empty.
    assert box_projection_loss(-columns, box, cut=both).item() > 1
    nothing = torch.full_like(columns, -12.0)
    assert (
        torch.autograd.grad(box_projection_loss(x := nothing.requires_grad_(), box, cut=both), x)[0][..., 2:12, 0:8]
        .abs()
        .max()
        == 0
    )


# ------------------------------------------------------------------------------------------------------- which crops, how large


@given(st.lists(boxes(), max_size=8), st.integers(8, 70), st.integers(1, 30), st.integers(0, 5))
def test_crops_lie_in_the_image_and_hold_what_fits(all_boxes: list[Box], side: int, most: int, seed: int) -> None:
    things = boxes_of(Labels(boxes=tuple(all_boxes)))
    choice = choose(things, (WIDTH, HEIGHT), side, most, np.random.default_rng(seed))
    assert 1 <= len(choice.windows) <= most
    for x0, y0, x1, y1 in choice.windows:
        assert (x1 - x0, y1 - y0) == (min(side, WIDTH), min(side, HEIGHT))
        assert 0 <= x0 <= x1 <= WIDTH
        assert 0 <= y0 <= y1 <= HEIGHT
    fits = [b for b in all_boxes if b.x1 - b.x0 <= side and b.y1 - b.y0 <= side]

    def held(box: Box) -> bool:
        return any(
            x0 - 1 <= box.x0 and box.x1 <= x1 + 1 and y0 - 1 <= box.y0 and box.y1 <= y1 + 1
            for x0, y0, x1, y1 in choice.windows
        )

    assert sum(not held(box) for box in fits) <= choice.missed


def test_most_crops_show_an_object_and_some_show_none() -> None:
    things = np.array([[500.0, 500, 520, 520], [3000, 3000, 3020, 3020]])
    choice = choose(things, (4000, 4000), 256, 8, np.random.default_rng(0))
    shows = [
        any(x0 < t[2] and x1 > t[0] and y0 < t[3] and y1 > t[1] for t in things) for x0, y0, x1, y1 in choice.windows
    ]
    assert (shows.count(True), shows.count(False), choice.missed) == (2, 1, 0)


@pytest.mark.parametrize(
    ("diameters", "sizes", "crop", "words"),
    [
        ([20.0] * 5, [(4000, 4000)], 256, "1.3 on the canvas of 256 .* which loses it; in a crop it has 20"),
        ([60.0] * 5, [(4000, 3000)], 640, "60 pixels across, and 3.8"),
        ([600.0] * 5, [(4000, 3000)], None, "whole images: the usual object is 600 pixels across, and 38.4"),
        ([10.0], [(350, 350)], None, "whole images: .* a crop would be hardly smaller"),
        ([], [(4000, 4000)], None, "no label tells how large the objects are"),
    ],
)
def test_a_crop_is_suggested_where_squashing_loses_the_objects(
    diameters: list[float], sizes: list[tuple[int, int]], crop: int | None, words: str
) -> None:
    found = suggest(diameters, sizes, 256)
    assert found.crop == crop
    with pytest.raises(ValueError, match=words):
        raise ValueError(found.reason)
