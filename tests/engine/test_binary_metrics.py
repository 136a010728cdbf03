"""F, E, S, MAE, BER, FR and mIoU of binary tasks against pysodmetrics (see ``pysodmetrics/make.py``) and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from maskwright.engine.metrics import BinaryMetrics, SegmentationMetrics, auroc
from maskwright.engine.saliency import counts_of_levels, e_measure, f_measure
from maskwright.errors import DataError

maps = arrays(np.float64, (5, 6), elements=st.floats(0, 1))
targets = arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 255]))


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "pysodmetrics" / "reference.npz"))


def measured(pairs, places=None) -> dict:
    metrics = BinaryMetrics()
    for i, (probability, target) in enumerate(pairs):
        metrics.update(probability, target, f"image-{i}", places=None if places is None else places[i])
    return json.loads(json.dumps(metrics.compute(), allow_nan=False))


def test_equal_to_pysodmetrics_image_by_image(reference) -> None:
    result = measured(zip(reference["predictions"] / 255, reference["masks"]))
    has_foreground = reference["masks"].any((1, 2))
    for place, entry in enumerate(result["per_image"]):
        for name in ("mae", "e", "e_adaptive", "s"):
            assert entry[name] == pytest.approx(reference[name][place], abs=1e-9), (place, name)
        if has_foreground[place]:  # the package scores what cannot be scored as 0
            for name in ("f", "f_adaptive", "iou"):
                assert entry[name] == pytest.approx(reference[name][place], abs=1e-9), (place, name)
        else:
            assert entry["f"] is entry["f_adaptive"] is None
    assert result["images"] == 12


def test_presence_and_pixels_of_all_images_by_hand() -> None:
    metrics = BinaryMetrics()
    full, half, none = np.ones((1, 4)), np.array([[1, 1, 0, 0]]), np.zeros((1, 4))
    metrics.update(half, full, "shown", presence=0.9)  # IoU 2 / 4
    metrics.update(none, none, "empty", presence=0.2)  # IoU 1
    metrics.update(half, none, "found where nothing is", presence=0.5)  # IoU 0
    metrics.update(full, half, "shown too", presence=0.5)  # IoU 2 / 4
    metrics.update(half, np.full((1, 4), 255), "unknown", presence=0.0)
    result = metrics.compute()
    assert result["miou"] == pytest.approx((0.5 + 1 + 0 + 0.5) / 4)
    assert result["miou_present"] == pytest.approx(0.5)
    assert result["iou_pooled"] == pytest.approx((2 + 2) / (4 + 2 + 4))
    # Of the four pairs three are in order, and one is a tie.
    assert result["presence"] == pytest.approx(3.5 / 4)
    assert [entry["present"] for entry in result["per_image"]] == [True, False, False, True, None]
    assert measured([(half, full)])["presence"] is None


@settings(max_examples=50)
@given(
    positive=st.lists(st.integers(0, 5), min_size=1, max_size=9),
    negative=st.lists(st.integers(0, 5), min_size=1, max_size=9),
)
def test_auroc_counts_pairs(positive: list[int], negative: list[int]) -> None:
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))


def test_curves_and_pooled_numbers_equal_pysodmetrics(reference) -> None:
    probabilities, masks = reference["predictions"] / 255, reference["masks"].astype(bool)
    for place, (probability, mask) in enumerate(zip(probabilities, masks)):
        levels = counts_of_levels(probability.ravel(), mask.ravel())
        np.testing.assert_allclose(e_measure(levels), reference["e_curve"][place], atol=1e-9)
        if mask.any():
            np.testing.assert_allclose(f_measure(levels), reference["f_curve"][place], atol=1e-9)
    result = measured(zip(probabilities, masks))
    with_foreground = masks.any((1, 2))
    assert result["f_max"] == pytest.approx(reference["f_curve"][with_foreground].mean(0).max())
    assert result["f"] == pytest.approx(reference["f"][with_foreground].mean())
    assert result["e_max"] == pytest.approx(reference["e_curve"].mean(0).max())
    assert result["e_mean"] == pytest.approx(reference["e_curve"].mean())
    assert result["s"] == pytest.approx(reference["s"].mean())
    assert result["ber"] == pytest.approx(100 * reference["ber"])


@given(pairs=st.lists(st.tuples(maps, targets), min_size=1, max_size=3))
def test_unknown_pixels_are_as_if_cut_out(pairs) -> None:
    """Everything but S-measure, which knows places, is the same on the known pixels laid out in a row."""
    cut = [(p[t != 255][None], t[t != 255][None]) for p, t in pairs]
    whole, row = measured(pairs), measured(cut)
    for name in ("miou", "mae", "f", "f_adaptive", "f_max", "e", "e_adaptive", "e_max", "e_mean", "ber", "images"):
        assert whole[name] == pytest.approx(row[name]), name
    changed = measured([(np.where(t == 255, 1 - p, p), t) for p, t in pairs])
    assert changed["s"] == pytest.approx(whole["s"])


@given(pairs=st.lists(st.tuples(maps, targets), min_size=1, max_size=3))
def test_miou_is_that_of_the_other_metrics(pairs) -> None:
    metrics = SegmentationMetrics(("background", "it"))
    for i, (probability, target) in enumerate(pairs):
        metrics.update((probability >= 0.5).astype(int), target, str(i))
    other, own = metrics.compute(), measured(pairs)
    assert own["miou"] == pytest.approx(other["iou"])
    assert [entry["iou"] for entry in own["per_image"]] == [entry["iou"] for entry in other["per_image"]]


def test_hand_worked() -> None:
    target = np.array([[1, 1, 0, 0]])
    result = measured([([[0.9, 0.2, 0.6, 0.0]], target), ([[1.0, 1.0, 0.0, 0.0]], target)], [[True, False], [True]])
    # First image: P = R = 1/2, so F = 1/2; TP, FN, FP, TN are 1 each; the second is perfect.
    assert result["per_image"][0]["f"] == pytest.approx(0.5)
    assert result["per_image"][0]["mae"] == pytest.approx((0.1 + 0.8 + 0.6 + 0.0) / 4)
    assert result["per_image"][0]["iou"] == pytest.approx(1 / 3)
    # Pooled: 3 of 4 right on both sides.
    assert result["ber"] == pytest.approx(25)
    assert result["fr"] == pytest.approx(2 / 3)
    assert result["miou"] == pytest.approx(2 / 3)
    # Adaptive threshold of the first image is 2 · 0.425 = 0.85: P = 1, R = 1/2.
    assert result["per_image"][0]["f_adaptive"] == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))


def test_nothing_to_measure() -> None:
    nothing = measured([])
    assert nothing.pop("per_image") == []
    assert nothing.pop("images") == 0
    assert set(nothing.values()) == {None}
    unknown = measured([(np.zeros((2, 2)), np.full((2, 2), 255))])
    assert unknown["images"] == 0
    assert unknown["miou"] is unknown["ber"] is unknown["fr"] is None
    empty = measured([(np.zeros((2, 2)), np.zeros((2, 2), int))])
    assert (empty["miou"], empty["mae"], empty["s"], empty["f"], empty["ber"]) == (1.0, 0.0, 1.0, None, None)


@pytest.mark.parametrize(
    ("probability", "target", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), r"case-7: prediction \(2, 2\) and target \(2, 3\)"),
        (np.full((2, 2), 1.5), np.full((2, 2), 7), r"case-7: .*all in 0\.\.1 and the target holds \[7\]"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), r"case-7: the prediction must be probabilities"),
    ],
)
def test_what_does_not_fit_is_named(probability, target, message: str) -> None:
    with pytest.raises(DataError, match=message):
        BinaryMetrics().update(probability, target, "case-7")
