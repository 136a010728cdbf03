"""AP against pycocotools, and run lengths against theirs."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as reference
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskwright.data.formats import rle
from maskwright.methods.instances import coco
from maskwright.methods.instances.coco import Detection, cut, of_ids

SIZE = (60, 40)
CATEGORIES = ("background", "cell", "dot", "never")


def scene(seed: int, count: int) -> list[Detection]:
    """Ellipses anywhere, of two categories."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    found = []
    for _ in range(count):
        cx, cy, rx, ry = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), *rng.uniform(3, 12, 2)
        one = cut(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1, int(rng.integers(1, 3)), float(rng.random()))
        if one is not None:
            found.append(one)
    return found


def shaken(objects: list[Detection], seed: int) -> list[Detection]:
    """The same, moved a little, some of another category, some lost, with false ones."""
    rng = np.random.default_rng(seed)
    found = []
    for one in objects:
        if rng.random() < 0.15:
            continue
        whole = np.zeros((SIZE[1], SIZE[0]), bool)
        x0, y0, x1, y1 = one.box
        whole[y0:y1, x0:x1] = one.mask
        moved = np.roll(whole, rng.integers(-2, 3, 2), (0, 1))
        category = one.category if rng.random() < 0.85 else 3 - one.category
        found.append(cut(moved, category, float(rng.random())))
    return [one for one in found if one is not None] + scene(seed + 1, 2)


def by_pycocotools(truths, found, kind: str) -> list[float]:
    with redirect_stdout(io.StringIO()):
        document = coco._document(truths, [SIZE] * len(truths), CATEGORIES)
        dataset = COCO()
        dataset.dataset = document
        dataset.createIndex()
        results = [{"image_id": i, **d.as_json(SIZE)} for i, image in enumerate(found, 1) for d in image]
        evaluation = COCOeval(dataset, dataset.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def test_equal_to_pycocotools():
    truths = [scene(seed, 6) for seed in range(12)] + [[]]
    found = [shaken(objects, seed) for seed, objects in enumerate(truths)]
    scores = coco.scores(truths, found, [SIZE] * len(truths), CATEGORIES)
    ap, ap50, ap75, *_ = by_pycocotools(truths, found, "segm")
    assert (scores["ap"], scores["ap50"], scores["ap75"]) == pytest.approx((ap, ap50, ap75), abs=1e-9)
    assert scores["box_ap"] == pytest.approx(by_pycocotools(truths, found, "bbox")[0], abs=1e-9)
    assert 0.1 < ap < 0.9
    assert scores["per_category"]["never"] == {"ap": None, "ap50": None, "ap75": None, "box_ap": None, "objects": 0}
    each = [scores["per_category"][name]["ap"] for name in ("cell", "dot")]
    assert np.mean(each) == pytest.approx(ap)
    assert scores["objects"] == sum(map(len, truths))
    assert scores["images"] == 13


def test_truth_against_itself_is_one():
    truths = [scene(seed, 5) for seed in range(4)]
    scores = coco.scores(truths, truths, [SIZE] * 4, CATEGORIES)
    assert [scores[name] for name in ("ap", "ap50", "ap75", "box_ap")] == [1.0] * 4


def test_nothing_found_and_nothing_there():
    truths = [scene(0, 5), []]
    scores = coco.scores(truths, [[], []], [SIZE] * 2, CATEGORIES)
    assert scores["ap"] == 0.0
    assert scores["per_category"]["never"]["ap"] is None
    empty = coco.scores([[]], [scene(0, 3)], [SIZE], CATEGORIES)
    assert empty["ap"] is None
    assert empty["objects"] == 0


def test_only_the_best_100_count():
    one = scene(3, 1)
    junk = [Detection(one[0].category, 0.9, 0, 0, np.ones((1, 1), bool))] * 100
    last = [Detection(one[0].category, 0.1, one[0].left, one[0].top, one[0].mask)]
    assert coco.scores([one], [junk + last], [SIZE], CATEGORIES)["ap"] == 0
    assert coco.scores([one], [junk[:99] + last], [SIZE], CATEGORIES)["ap"] > 0


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0, 1))
def test_run_lengths_of_a_part_are_those_of_the_whole(seed: int, height: int, width: int, share: float):
    mask = np.random.default_rng(seed).random((height, width)) < share
    one = cut(mask, 1, 0.5)
    if one is None:
        assert not mask.any()
        return
    found = one.segmentation((width, height))
    assert found == {"size": [height, width], "counts": rle.compress(rle.encode(mask))}
    assert found["counts"] == reference.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert one.area == mask.sum()


def test_objects_of_an_instance_mask():
    ids = np.zeros((6, 8), np.int32)
    ids[1:3, 2:5], ids[5, 7] = 1, 3
    first, last = of_ids(ids, [2, 1, 1])
    assert (first.box, first.category, first.area) == ((2, 1, 5, 3), 2, 6)
    assert (last.box, last.category) == ((7, 5, 8, 6), 1)
