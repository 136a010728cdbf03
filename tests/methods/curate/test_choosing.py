"""Which images are chosen: spread out at first, doubtful later, some at random, groups one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.methods.curate.choosing import Doubts, asked_about, choose, vectors_of
from maskwright.methods.curate.features import Features

NOTHING = np.array([], np.int64)


def clusters(sizes: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors about as many directions as there are sizes, and the direction of each."""
    random = np.random.default_rng(seed)
    which = np.repeat(np.arange(len(sizes)), sizes)
    vectors = np.eye(len(sizes), 16)[which] + random.normal(scale=0.08, size=(len(which), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), which


def alone(vectors: np.ndarray) -> np.ndarray:
    return np.arange(len(vectors))


def test_the_first_images_are_of_all_clusters() -> None:
    vectors, which = clusters([60, 30, 20, 10, 8])
    choices = choose(vectors, NOTHING, np.arange(len(vectors)), 5, groups=alone(vectors), random_share=0)
    assert {int(which[choice.place]) for choice in choices} == set(range(5))
    assert all(choice.why == "typical" for choice in choices)
    # They are in the middle of their clusters, not at the edge.
    inner = 0
    for choice in choices:
        own = vectors[which == which[choice.place]]
        inner += vectors[choice.place] @ own.mean(0) >= np.median(own @ own.mean(0))
    assert inner >= 4


def test_what_is_labelled_is_not_chosen_again() -> None:
    vectors, which = clusters([40, 40, 40, 40])
    labelled = np.flatnonzero(which < 2)[::4]
    rest = np.setdiff1d(np.arange(len(vectors)), labelled)
    choices = choose(vectors, labelled, rest, 2, groups=alone(vectors), random_share=0)
    assert {int(which[choice.place]) for choice in choices} == {2, 3}
    assert all(choice.likeness < 0.5 for choice in choices)
    assert choices[0].nearest in labelled


def test_doubtful_images_come_first_and_not_twice_the_same() -> None:
    vectors, which = clusters([50, 50, 50])
    scores = np.where(which == 0, 1.0, 0.1) * np.random.default_rng(0).uniform(0.9, 1.1, len(which))
    doubts = Doubts(np.arange(len(which)), scores, np.ones(len(which), np.int64))
    labelled = np.array([0, 50, 100])
    rest = np.setdiff1d(np.arange(len(which)), labelled)
    doubts = Doubts(rest, doubts.scores[rest], doubts.categories[rest])
    choices = choose(vectors, labelled, rest, 12, groups=alone(vectors), doubts=doubts, random_share=0)
    unsure = [choice for choice in choices if choice.why == "unsure"]
    assert [choice.why for choice in choices[:4]] == ["unsure", "typical"] * 2
    share = np.mean([which[choice.place] == 0 for choice in unsure])
    assert share > 0.5
    assert len({choice.place for choice in choices}) == 12
    assert choices[0].why == "unsure"
    assert (choices[0].doubt or 0) > 0.5


def test_categories_take_turns() -> None:
    vectors, _ = clusters([120])
    categories = np.where(np.arange(120) < 110, 1, 2)
    scores = np.where(categories == 1, 1.0, 0.8)
    doubts = Doubts(np.arange(120), scores, categories)
    choices = choose(vectors, NOTHING, np.arange(120), 24, groups=alone(vectors), doubts=doubts, random_share=0)
    assert sum(categories[choice.place] == 2 for choice in choices if choice.why == "unsure") >= 2


@given(
    count=st.integers(1, 30),
    labelled=st.integers(0, 10),
    seed=st.integers(0, 50),
    groups=st.integers(1, 40),
    doubtful=st.booleans(),
)
def test_whatever_is_asked(count: int, labelled: int, seed: int, groups: int, doubtful: bool) -> None:
    vectors, _ = clusters([12, 9, 7, 5])
    random = np.random.default_rng(seed)
    order = random.permutation(len(vectors))
    known, rest = order[:labelled], np.sort(order[labelled:])
    group = random.integers(groups, size=len(vectors))
    doubts = Doubts(rest, random.random(len(rest)), random.integers(3, size=len(rest))) if doubtful else None
    choices = choose(vectors, known, rest, count, groups=group, doubts=doubts, seed=seed)
    places = [choice.place for choice in choices]
    assert len(places) == len(set(places)) == min(count, len(rest))
    assert set(places) <= set(rest.tolist())
    # A group that has been seen comes again only when no new one is left.
    seen = set(group[known].tolist())
    fresh = len(set(group[rest].tolist()) - seen)
    new = 0
    for place in places:
        if new < fresh:
            assert group[place] not in seen
            new += 1
        seen.add(int(group[place]))
    again = choose(vectors, known, rest, count, groups=group, doubts=doubts, seed=seed)
    assert [choice.place for choice in again] == places


def test_a_share_is_random_and_spread_over_the_list() -> None:
    vectors, _ = clusters([100])
    choices = choose(vectors, NOTHING, np.arange(100), 20, groups=alone(vectors))
    places = [number for number, choice in enumerate(choices) if choice.why == "random"]
    assert len(places) == 10
    assert max(np.diff([-1, *places, 20])) <= 3


def test_a_model_is_asked_about_a_part_of_many() -> None:
    candidates = np.arange(100, 5000)
    asked = asked_about(candidates, seed=0)
    assert len(asked) == 2000
    assert (np.diff(asked) > 0).all()
    assert set(asked.tolist()) <= set(candidates.tolist())
    assert asked_about(candidates[:50], seed=0).tolist() == candidates[:50].tolist()


def test_vectors_are_of_the_mean_and_the_spread_of_an_image() -> None:
    random = np.random.default_rng(0)
    low = random.normal(size=(300, 5, 4, 4)).astype(np.float16)
    features = Features(Path("."), np.arange(300)[::-1], {"low": low})
    flat = low[::-1].astype(np.float32).reshape(300, 5, 16)
    wanted = np.concatenate([flat.mean(2), flat.std(2, ddof=1)], 1)
    wanted = (wanted - wanted.mean(0)) / wanted.std(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert vectors_of(features) == pytest.approx(wanted, abs=2e-3)
