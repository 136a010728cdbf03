"""Verdicts err as seldom as they say, and say nothing where too little is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.methods.find.verdicts import ENOUGH, Calibration, least_scores

scores = st.lists(st.floats(0, 1), min_size=0, max_size=40)


@given(scores, scores, st.floats(0, 1))
def test_p_values_are_counted_as_the_definition_counts(present: list[float], absent: list[float], score: float) -> None:
    p_absent, p_present = Calibration.of(present, absent).p_values(score)
    assert float(p_absent) == pytest.approx((1 + sum(s >= score for s in absent)) / (len(absent) + 1))
    assert float(p_present) == pytest.approx((1 + sum(s <= score for s in present)) / (len(present) + 1))


@pytest.mark.parametrize(("alpha", "count"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.01, 99)])
def test_how_many_scores_an_alpha_needs(alpha: float, count: int) -> None:
    assert least_scores(alpha) == count
    far = 1.0
    assert Calibration.of([far] * count, [0.0] * count).verdict(far, alpha) == "found"
    assert Calibration.of([far] * count, [0.0] * (count - 1)).verdict(far, alpha) == "unsure"


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_wrong_verdicts_are_as_rare_as_alpha_in_the_long_run(alpha: float) -> None:
    random = np.random.default_rng(0)
    wrong = {"present": 0, "absent": 0}
    for _ in range(4000):
        present, absent = random.normal(1, 1, 31), random.normal(0, 1, 31)
        known = Calibration.of(present[1:], absent[1:])
        wrong["present"] += known.verdict(present[0], alpha) == "not there"
        wrong["absent"] += known.verdict(absent[0], alpha) == "found"
    assert max(wrong.values()) <= 4000 * alpha + 3 * np.sqrt(4000 * alpha * (1 - alpha))


def test_without_any_scores_nothing_is_ruled_out() -> None:
    assert Calibration.of([], []).verdict(0.99, 0.1) == "unsure"


def test_what_looks_like_neither_is_unsure() -> None:
    known = Calibration.of(np.linspace(0.9, 1, 30), np.linspace(0, 0.1, 30))
    assert [known.verdict(score, 0.1) for score in (0.05, 0.5, 0.95)] == ["not there", "unsure", "found"]


def test_own_scores_take_the_place_of_others_side_by_side() -> None:
    general = Calibration.of([0.1] * 50, [0.9] * 50)
    own = Calibration.of([0.8] * ENOUGH, [0.2] * (ENOUGH - 1))
    sharper = general.sharpened(own)
    assert sharper.present.tolist() == own.present.tolist()
    assert sharper.absent.tolist() == general.absent.tolist()


@given(scores, scores)
def test_as_json_and_back(present: list[float], absent: list[float]) -> None:
    known = Calibration.of([round(s, 4) for s in present], [round(s, 4) for s in absent])
    again = Calibration.of_dict(known.as_dict())
    assert again.present.tolist() == known.present.tolist()
    assert again.absent.tolist() == known.absent.tolist()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=ENOUGH - 1), st.floats(0, 1))
def test_few_own_scores_narrow_what_is_ruled_out(own: list[float], score: float) -> None:
    general = Calibration.of(np.linspace(0.8, 1, 50), np.linspace(0, 0.2, 50))
    after = general.sharpened(Calibration.of(own, own))
    for one, other in zip(general.p_values(score), after.p_values(score), strict=True):
        assert other >= one
    if score >= min(own):
        assert after.verdict(score, 0.1) != "not there"
    if score <= max(own):
        assert after.verdict(score, 0.1) != "found"
