"""Ceiling, AP of all detections and F1, against counts by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.methods.instances import beyond_ap, coco
from maskwright.methods.instances.coco import Detection, of_ids

NAMES = ("background", "cell", "other")


def grid(count: int, side: int = 4) -> np.ndarray:
    """So many squares, a pixel apart."""
    across = int(np.ceil(np.sqrt(count)))
    ids = np.zeros((across * (side + 1),) * 2, np.int64)
    for number in range(count):
        y, x = divmod(number, across)
        ids[y * (side + 1) : y * (side + 1) + side, x * (side + 1) : x * (side + 1) + side] = number + 1
    return ids


def test_more_objects_than_cocos_protocol_counts():
    ids = grid(150)
    truth = of_ids(ids, [1] * 150)
    size = ids.shape[1], ids.shape[0]
    found = beyond_ap.scores([truth], [truth], [size], NAMES, 0.5)
    assert found["ceiling"] == pytest.approx(coco.scores([truth], [truth], [size], NAMES)["ap"])
    assert found["ceiling"] == pytest.approx(100 / 150, abs=0.01)
    assert found["ap_all"] == pytest.approx(1)
    assert found["f1"] == 1
    assert found["per_category"]["other"] == {"ceiling": None, "ap_all": None, "f1": None}
    assert found["per_category"]["cell"]["f1"] == 1


def test_where_there_is_no_object_and_where_nothing_is_found():
    empty = beyond_ap.scores([[]], [[]], [(8, 8)], NAMES, 0.5)
    assert {empty["ceiling"], empty["ap_all"], empty["f1"]} == {None}
    truth = of_ids(grid(4), [1, 1, 2, 2])
    none = beyond_ap.scores([truth], [[]], [(10, 10)], NAMES, 0.5)
    assert (none["ceiling"], none["ap_all"], none["f1"]) == (pytest.approx(1), 0, 0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 1))
def test_f1_is_that_of_all_pairs_compared(seed: int, threshold: float):
    rng = np.random.default_rng(seed)
    truths: list[list[Detection]] = []
    detections: list[list[Detection]] = []
    for _ in range(2):
        ids = grid(9, 6)
        truths.append(of_ids(ids, rng.integers(1, 3, 9).tolist()))
        moved = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
        guesses = of_ids(moved * (rng.random(ids.shape) < 0.95), rng.integers(1, 3, 9).tolist())
        detections.append([replace(one, score=float(rng.random())) for one in guesses])
    sizes = [(21, 21)] * 2
    wanted = []
    for category in (1, 2):
        hits = total = 0
        for true, found in zip(truths, detections):
            full = [_full(one) for one in true if one.category == category]
            mine = sorted((o for o in found if o.category == category and o.score >= threshold), key=lambda o: -o.score)
            total += len(full) + len(mine)
            taken: set[int] = set()
            for one in mine:
                mask = _full(one)
                iou = [(mask & t).sum() / (mask | t).sum() if k not in taken else 0 for k, t in enumerate(full)]
                if iou and max(iou) >= 0.5:
                    taken.add(int(np.argmax(iou)))
                    hits += 1
        if any(one.category == category for true in truths for one in true):
            wanted.append(2 * hits / total)
    found = beyond_ap.scores(truths, detections, sizes, NAMES, threshold)["f1"]
    assert found == pytest.approx(np.mean(wanted))


def _full(one: Detection) -> np.ndarray:
    mask = np.zeros((21, 21), bool)
    x0, y0, x1, y1 = one.box
    mask[y0:y1, x0:x1] = one.mask
    return mask
