from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)
from torchmetrics.functional.segmentation import dice_score, mean_iou

from maskwright.engine.metrics import (
    SegmentationMetrics,
    confusion_matrix,
    dice_from_confusion,
    iou_from_confusion,
    paired_bootstrap,
    soft_dice,
)
from maskwright.errors import DataError

NAMES = ("background", "cat", "dog", "bird")
ids = arrays(np.uint8, (4, 5), elements=st.integers(0, 3))
targets = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255]))
images = st.lists(st.tuples(ids, targets), min_size=1, max_size=4)


def measured(pairs, names=NAMES) -> dict:
    metrics = SegmentationMetrics(names)
    for i, (pred, target) in enumerate(pairs):
        metrics.update(pred, target, f"image-{i}")
    return json.loads(json.dumps(metrics.compute(), allow_nan=False))


@settings(max_examples=25, deadline=None)
@given(pairs=images)
def test_pooled_numbers_equal_torchmetrics(pairs) -> None:
    result = measured(pairs)
    pred = torch.from_numpy(np.stack([p for p, _ in pairs])).long()
    target = torch.from_numpy(np.stack([t for _, t in pairs])).long()
    reference = MulticlassConfusionMatrix(4, ignore_index=255)(pred, target).numpy()
    own = sum(confusion_matrix(p, t, 4) for p, t in pairs)
    assert np.array_equal(own, reference)
    if not reference.sum():
        assert result["pooled"] == {"dice": None, "iou": None, "miou": None, "pixel_accuracy": None}
        return
    iou = MulticlassJaccardIndex(4, average=None, ignore_index=255)(pred, target).numpy()
    dice = MulticlassF1Score(4, average=None, ignore_index=255)(pred, target).numpy()
    there = reference.sum(0) + reference.sum(1) > 0
    for c, name in enumerate(NAMES):
        if there[c]:
            assert result["per_category"][name]["pooled_iou"] == pytest.approx(iou[c], abs=1e-6)
            assert result["per_category"][name]["pooled_dice"] == pytest.approx(dice[c], abs=1e-6)
        else:
            assert result["per_category"][name]["pooled_iou"] is None
    assert result["pooled"]["miou"] == pytest.approx(iou[there].mean(), abs=1e-6)
    if there[1:].any():
        assert result["pooled"]["iou"] == pytest.approx(iou[1:][there[1:]].mean(), abs=1e-6)
        assert result["pooled"]["dice"] == pytest.approx(dice[1:][there[1:]].mean(), abs=1e-6)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=255)(pred, target)
    assert result["pooled"]["pixel_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(ids, ids), min_size=1, max_size=4))
def test_numbers_per_image_equal_torchmetrics(pairs) -> None:
    result = measured(pairs)
    for (pred, target), entry in zip(pairs, result["per_image"]):
        p, t = torch.from_numpy(pred).long()[None], torch.from_numpy(target).long()[None]
        dice = dice_score(p, t, 4, average="none", input_format="index")[0]
        iou = mean_iou(p, t, 4, per_class=True, input_format="index")[0]
        there = [c for c in range(4) if (pred == c).any() or (target == c).any()]
        assert list(entry["per_category"]) == [NAMES[c] for c in there]
        for c in there:
            assert entry["per_category"][NAMES[c]]["dice"] == pytest.approx(dice[c].item(), abs=1e-6)
            assert entry["per_category"][NAMES[c]]["iou"] == pytest.approx(iou[c].item(), abs=1e-6)
        foreground = [c for c in there if c]
        expected = np.mean([dice[c].item() for c in foreground]) if foreground else 1.0
        assert entry["dice"] == pytest.approx(expected, abs=1e-6)
    assert result["dice"] == pytest.approx(np.mean([e["dice"] for e in result["per_image"]]))
    assert result["iou"] == pytest.approx(np.mean([e["iou"] for e in result["per_image"]]))


def test_hand_worked_binary() -> None:
    half = np.array([[1, 1, 0, 0]])
    quarter = np.array([[1, 0, 0, 0]])
    empty = np.zeros((1, 4), int)
    unknown = np.full((1, 4), 255)
    result = measured([(half, quarter), (empty, empty), (quarter, empty), (half, unknown)], ("background", "polyp"))
    assert [e["dice"] for e in result["per_image"]] == [pytest.approx(2 / 3), 1.0, 0.0, None]
    assert [e["iou"] for e in result["per_image"]] == [pytest.approx(1 / 2), 1.0, 0.0, None]
    assert result["images"] == 3
    assert result["dice"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["iou"] == pytest.approx(1.5 / 3)
    assert result["per_category"]["polyp"]["images"] == 2  # the empty image is not among those that have it
    assert result["per_category"]["polyp"]["dice"] == pytest.approx(1 / 3)
    assert result["pooled"]["iou"] == pytest.approx(1 / 3)


def test_ignored_pixels_count_nowhere() -> None:
    target = np.array([[1, 255], [0, 255]], np.uint8)
    assert measured([(np.array([[1, 1], [0, 0]]), target)]) == measured([(np.array([[1, 0], [0, 1]]), target)])


def test_no_image_at_all() -> None:
    result = measured([])
    assert (result["dice"], result["pooled"]["miou"], result["images"], result["per_image"]) == (None, None, 0, [])


@settings(max_examples=50)
@given(pairs=images)
def test_bounds_and_their_relation(pairs) -> None:
    for pred, target in pairs:
        confusion = confusion_matrix(pred, target, 4)
        dice, iou = dice_from_confusion(confusion), iou_from_confusion(confusion)
        assert np.array_equal(np.isnan(dice), np.isnan(iou))
        dice, iou = dice[np.isfinite(dice)], iou[np.isfinite(iou)]
        assert ((iou >= 0) & (iou <= dice) & (dice <= 1)).all()
        np.testing.assert_allclose(dice, 2 * iou / (1 + iou))


@pytest.mark.parametrize(
    ("pred", "target", "message"),
    [
        (
            np.zeros((2, 2), int),
            np.zeros((2, 3), int),
            r"case-7: prediction \(2, 2\) and target \(2, 3\) differ in size",
        ),
        (np.full((2, 2), 4), np.zeros((2, 2), int), r"case-7: the prediction holds \[4\].*0\.\.3"),
        (np.full((2, 2), -1), np.full((2, 2), 9), r"case-7: the target holds \[9\] and the prediction holds \[-1\]"),
    ],
)
def test_what_does_not_fit_is_named(pred, target, message: str) -> None:
    with pytest.raises(DataError, match=message):
        SegmentationMetrics(NAMES).update(pred, target, "case-7")
    with pytest.raises(ValueError, match="background"):
        SegmentationMetrics(["background"])


def test_paired_bootstrap_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    b = rng.uniform(0.5, 0.9, 60)
    a = b + rng.normal(0.03, 0.05, 60)
    mean, low, high = paired_bootstrap(a, b, n=100_000)
    reference = bootstrap((a - b,), np.mean, method="percentile", n_resamples=100_000, rng=np.random.default_rng(1))
    assert mean == pytest.approx((a - b).mean())
    assert low == pytest.approx(reference.confidence_interval.low, abs=5e-4)
    assert high == pytest.approx(reference.confidence_interval.high, abs=5e-4)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b)
    assert paired_bootstrap(a, b, seed=1) != paired_bootstrap(a, b)
    assert paired_bootstrap(b, a)[0] == pytest.approx(-mean)


def test_paired_bootstrap_in_chunks_and_alone() -> None:
    scores = np.linspace(0, 1, 3000)
    mean, low, high = paired_bootstrap(scores, np.zeros(3000), n=700)  # 333 resamples fit into a chunk
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / np.sqrt(3000), rel=0.2)
    assert paired_bootstrap([0.75], [0.5]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([float("nan")], [1.0]), ([[[1.0]]], [[[1.0]]])])
def test_paired_bootstrap_refuses(a, b) -> None:
    with pytest.raises(ValueError, match="scores"):
        paired_bootstrap(a, b)


def test_targets_of_one_image_count_as_one() -> None:
    rng = np.random.default_rng(2)
    per_image = rng.normal(0.02, 0.1, 40)
    alone = paired_bootstrap(per_image, np.zeros(40))
    # Every image says the same twenty times: nothing more is known than by saying it once.
    often, images = np.repeat(per_image, 20), np.repeat(np.arange(40), 20)
    order = rng.permutation(800)
    together = paired_bootstrap(often[order], np.zeros(800), images=images[order])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    # Taken for independent, they would give an interval that is √20 times too narrow.
    low, high = paired_bootstrap(often, np.zeros(800))[1:]
    assert (alone[2] - alone[1]) / (high - low) == pytest.approx(np.sqrt(20), rel=0.1)
    with pytest.raises(ValueError, match="images must name those of all 800"):
        paired_bootstrap(often, np.zeros(800), images=images[:3])


def test_trainings_are_resampled_too() -> None:
    rng = np.random.default_rng(3)
    images, trainings = rng.normal(0, 0.05, 200), rng.normal(0, 0.03, 6)
    scores = 0.1 + trainings[:, None] + images
    mean, low, high = paired_bootstrap(scores, np.zeros_like(scores))
    assert mean == pytest.approx(scores.mean())
    # Sums of independent parts: their variances add.
    spread = np.sqrt(trainings.var() / 6 + images.var() / 200)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    narrow = paired_bootstrap(scores.mean(0), np.zeros(200))
    assert high - low > 2 * (narrow[2] - narrow[1])
    assert paired_bootstrap(scores[:1], np.zeros((1, 200))) == paired_bootstrap(scores[0], np.zeros(200))


def test_soft_dice_by_hand():
    masks = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    truth = torch.tensor([[[1.0, 0.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(soft_dice(masks, truth), torch.tensor([2 / 3.5, 1.0]), atol=1e-3, rtol=0)
    counted = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).expand(2, 2, 2)
    torch.testing.assert_close(soft_dice(masks, truth, counted), torch.tensor([2 / 2.5, 1.0]), atol=1e-3, rtol=0)
    # What a pixel is worth does not make a perfect answer worse.
    torch.testing.assert_close(soft_dice(truth, truth, 0.3 * counted), torch.ones(2))
