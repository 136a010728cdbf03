"""Planted errors are what they are called, evidence speaks against them, and the ranking finds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.methods.curate.audit import Case, folds_of, rank
from maskwright.methods.curate.evidence import NAMES, SamObject, gather
from maskwright.methods.curate.planted_errors import CORRECT, ERROR_KINDS, plant
from maskwright.methods.curate.regions import iou, moved, objects_of, parts_of, rectangle
from maskwright.methods.curate.suspicion import SOUND, learn

SIDE = 64


def disc(y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def scene() -> np.ndarray:
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[disc(20, 20, 10)] = 1
    labels[disc(44, 46, 8)] = 2
    return labels


def sure(labels: np.ndarray, categories: int = 3) -> np.ndarray:
    """What a good model would say."""
    return 0.001 + 0.997 * np.stack([labels == c for c in range(categories)]).astype(np.float32)


def evidence(labels: np.ndarray, truth: np.ndarray):
    sam = [SamObject(truth == category, 0.9) for category, _ in objects_of(labels)]
    return gather(labels, sure(truth), sam, np.zeros((SIDE, SIDE), np.float32))


@given(st.integers(0, 10_000), st.sampled_from(ERROR_KINDS))
def test_planted_errors_are_what_they_are_called(seed: int, kind) -> None:
    labels = scene()
    spoiled = plant(labels, kind, 3, np.random.default_rng(seed), scene()[::-1])
    if spoiled is None:
        return
    assert spoiled.dtype == labels.dtype
    assert set(np.unique(spoiled)) <= {0, 1, 2}
    before, after = {c: labels == c for c in (1, 2)}, {c: spoiled == c for c in (1, 2)}
    if kind == "missed":
        assert sum(not region.any() for region in after.values()) == 1
    elif kind == "extra":
        assert (spoiled[labels > 0] == labels[labels > 0]).all()
        assert (spoiled > 0).sum() > (labels > 0).sum()
    elif kind == "swapped":
        assert ((spoiled > 0) == (labels > 0)).all()
        assert (spoiled != labels).any()
    else:
        assert min(iou(before[c], after[c]) for c in (1, 2)) <= CORRECT
        assert all(region.any() for region in after.values())


def test_one_category_cannot_be_swapped_and_nothing_cannot_be_missed() -> None:
    random = np.random.default_rng(0)
    assert plant((scene() == 1).astype(np.uint8), "swapped", 2, random, scene()) is None
    assert plant(np.zeros((SIDE, SIDE), np.uint8), "missed", 3, random, scene()) is None


def test_a_sound_mask_has_nothing_against_it() -> None:
    found = evidence(scene(), scene())
    values = dict(zip(NAMES, found.values, strict=True))
    assert values["disagreement"] < 0.15
    assert values["missed"] == values["extra_part"] == values["sam_mask"] == 0
    assert abs(values["shift_gain"]) < 0.02
    assert values["swapped"] < 0


@pytest.mark.parametrize("kind", ERROR_KINDS)
def test_evidence_names_the_error_and_proposes_the_true_mask(kind) -> None:
    truth = scene()
    spoiled = truth.copy()
    if kind == "shifted":
        spoiled[truth == 1] = 0
        spoiled[moved(truth == 1, 3, -2)] = 1
    elif kind == "missed":
        spoiled[truth == 2] = 0
    elif kind == "extra":
        spoiled[disc(50, 12, 6)] = 1
    elif kind == "swapped":
        spoiled[truth == 2] = 1
    else:
        spoiled[10:30, 10:30] = 1
    found = evidence(spoiled, truth)
    number = {
        "shifted": "shift_gain",
        "missed": "missed",
        "extra": "extra_part",
        "swapped": "swapped",
        "coarse": "sam_mask",
    }[kind]
    assert found.values[list[str](NAMES).index(number)] > 0.15
    proposal = found.proposals[kind]
    mended = spoiled.copy()
    mended[proposal.remove] = 0
    mended[proposal.add] = proposal.category
    assert iou(mended == 1, truth == 1) > 0.97
    assert iou(mended == 2, truth == 2) > 0.97
    if kind == "shifted":
        assert proposal.shift == (-3, 2)


def test_the_classifier_finds_planted_errors_and_names_their_kind() -> None:
    random = np.random.default_rng(0)

    def rows(count: int, kind: str | None) -> np.ndarray:
        values = random.normal(scale=0.1, size=(count, len(NAMES)))
        if kind is not None:
            values[:, 2 + ERROR_KINDS.index(kind)] += 1
        return values

    parts = [(SOUND, rows(300, None)), *((1 + i, rows(20, kind)) for i, kind in enumerate(ERROR_KINDS))]
    values = np.concatenate([part for _, part in parts])
    classes = np.concatenate([np.full(len(part), cls) for cls, part in parts])
    suspicion = learn(values, classes, 0.05)
    for cls, kind in enumerate([None, *ERROR_KINDS]):
        p = suspicion.probabilities(rows(50, kind))
        assert np.allclose(p.sum(1), 1)
        # By chance one of six.
        assert (p.argmax(1) == cls).mean() > 0.6
    # The level is that of the share that is expected to be wrong.
    assert (1 - suspicion.probabilities(rows(1000, None))[:, SOUND]).mean() < 0.05


def test_the_spoiled_mask_comes_first() -> None:
    truth = scene()
    found, spoiled = [], []
    random = np.random.default_rng(1)
    for number in range(40):
        labels = moved(truth, number % 5, -(number % 7))
        bad = plant(labels, ERROR_KINDS[number % 5], 3, random, truth)
        if number == 17:
            found.append(evidence(np.where(labels == 2, 0, labels).astype(np.uint8), labels))
        else:
            found.append(evidence(labels, labels))
        if bad is not None:
            spoiled.append((evidence(bad, labels).values, 1 + number % 5))
    first = rank(Case(found, spoiled))[0]
    assert first.place == 17
    assert first.kind == "missed"
    assert first.wrong > 5 * 0.05
    assert sum(first.probabilities.values()) == pytest.approx(first.wrong)


@given(st.lists(st.integers(0, 9), min_size=2, max_size=60), st.integers(0, 5))
def test_a_group_is_in_one_fold_and_folds_are_even(groups: list[int], seed: int) -> None:
    folds = folds_of(np.array(groups), seed)
    assert all(len({fold for fold, g in zip(folds, groups, strict=True) if g == group}) == 1 for group in set(groups))
    counts = np.bincount([folds[groups.index(group)] for group in set(groups)])
    assert counts.max() - counts.min() <= 1


def test_parts_and_rectangles() -> None:
    region = disc(20, 20, 10) | disc(44, 46, 8)
    region[0, 0] = True
    assert [int(part.sum()) for part in parts_of(region)] == [int(disc(20, 20, 10).sum()), int(disc(44, 46, 8).sum())]
    assert rectangle(disc(20, 20, 10)) == (10, 30, 10, 30)
    assert rectangle(disc(20, 20, 10), 15) == (0, 45, 0, 45)
    assert not moved(region, SIDE, 0).any()
