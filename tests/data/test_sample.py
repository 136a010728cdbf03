"""Shares of labels are nested, stratified, and take nothing but labels away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright import api
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.sample import order
from maskwright.errors import DataError
from tests.data.test_split import make


def labelled(path: Path) -> set[str]:
    return {sample.id for sample in Dataset.load(path) if sample.labels.kind != Kind.NONE}


def test_smaller_shares_are_part_of_larger_ones(tmp_path: Path) -> None:
    data = make(tmp_path / "data", 60, rare=12)
    result = api.sample(tmp_path / "data", tmp_path / "out", shares=[0.5, 0.1], counts=[20])
    assert [(s.path.name, s.labelled) for s in result.samples] == [
        ("labels-10-percent.json", 6),
        ("labels-20.json", 20),
        ("labels-50-percent.json", 30),
    ]
    small, middle, large = (labelled(each.path) for each in result.samples)
    assert small < middle < large < labelled(tmp_path / "out")
    for each in result.samples:
        dataset = Dataset.load(each.path)
        assert not check(dataset)
        assert len(dataset) == 60
        rare = sum(int(id[1:]) % 3 == 0 and int(id[1:]) < 36 for id in labelled(each.path))
        assert abs(rare - 12 / 60 * each.labelled) < 1
    other = api.sample(tmp_path / "data", tmp_path / "other", counts=[6])
    assert labelled(other.samples[0].path) == small  # The same seed, the same order, whatever is asked for.
    assert labelled(tmp_path / "data") == {sample.id for sample in data}


def test_only_labels_of_the_kind_and_the_split_go(tmp_path: Path) -> None:
    make(tmp_path / "data", 40, masks=10)
    api.split(tmp_path / "data", tmp_path / "split", {"test": 0.2})
    result = api.sample(tmp_path / "split", tmp_path / "out", counts=[3], kind="mask")
    kinds = Counter((s.split, str(s.labels.kind)) for s in Dataset.load(result.samples[0].path))
    assert kinds == {("train", "mask"): 3, ("train", "box"): 30, ("train", "none"): 5, ("test", "mask"): 2}
    assert result.labelled == 8


def test_groups_keep_their_labels_together(tmp_path: Path) -> None:
    make(tmp_path / "data", 60)
    result = api.sample(tmp_path / "data", tmp_path / "out", shares=[0.25], group=r"(p\d+)_")
    patients = Counter(int(id[1:]) // 3 for id in labelled(result.samples[0].path))
    assert set(patients.values()) == {3}
    assert len(patients) == 5


def test_what_a_share_lacks_is_said(tmp_path: Path) -> None:
    make(tmp_path / "data", 60, rare=1)
    result = api.sample(tmp_path / "data", tmp_path / "out", counts=[2], seed=1)
    missing = result.samples[0].missing
    assert missing == ("rare",)
    assert "its 2 labelled images show nothing of 'rare'" in result.warnings[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "say how many labels to keep"),
        ({"shares": [0.0]}, "--shares 0: must be above 0"),
        ({"counts": [0, 10]}, "--counts 10: there are 9 labelled images"),
        ({"counts": [1], "split": "nix"}, "no labelled image of split 'nix'"),
        ({"counts": [1], "kind": "box"}, "no labelled box of split 'train'"),
    ],
)
def test_what_cannot_be_kept_is_said(tmp_path: Path, options: dict[str, object], told: str) -> None:
    make(tmp_path / "data", 9)
    with pytest.raises(DataError) as caught:
        api.sample(tmp_path / "data", tmp_path / "out", **options)  # pyright: ignore[reportArgumentType]
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 9))
def test_every_beginning_of_the_order_is_stratified(strata: list[int], seed: int) -> None:
    counts = np.eye(4, dtype=int)[strata]
    places = np.argsort(order(counts, np.random.default_rng(seed)))
    chosen = counts[places].cumsum(0)
    for size in range(1, len(strata) + 1):
        held = chosen[size - 1]
        share = held / counts.sum(0).clip(1)
        # Two strata are never further apart than one image of each.
        for a in np.flatnonzero(counts.sum(0)):
            for b in np.flatnonzero(counts.sum(0)):
                assert share[a] - share[b] <= 1 / counts.sum(0)[a] + 1 / counts.sum(0)[b] + 1e-9
