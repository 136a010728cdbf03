"""How searches are scored: pairs counted, verdicts counted, and crops that show what they are said to show."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def find(script: Callable[[str, str], ModuleType]) -> ModuleType:
    return script("benchmarks", "find")


def test_crops_show_something_or_nothing(find: ModuleType) -> None:
    values = np.zeros((90, 120), np.uint8)
    values[30:60, 40:80] = 1
    for seed in range(10):
        shows = []
        for x0, y0, x1, y1 in find._boxes(values, np.random.default_rng(seed), False):
            assert 0 <= x0 < x1 <= 120
            assert 0 <= y0 < y1 <= 90
            shows.append(bool(values[y0:y1, x0:x1].any()))
        assert sorted(shows) in ([False, True], [True])


def test_a_tally_becomes_a_row_and_rows_a_table(find: ModuleType) -> None:
    tally = find.Tally(seconds=2.0, searched=10)
    tally.dice = {kind: [0.5, 1.0] for kind in ("answer", "in context", "similarity", "pasted", "best candidate")}
    tally.scores = {"shown": [0.9, 0.8], "elsewhere": [0.1, 0.85]}
    tally.verdicts = {"shown": ["found", "not there"], "elsewhere": ["not there", "unsure"]}
    tally.true, tally.expected, tally.stable = [0.5, 1.0], [0.4, 0.9], [0.9, 0.4]
    row = find._summary(tally)
    assert row["iou"]["answer"] == pytest.approx((1 / 3 + 1) / 2, abs=1e-3)
    assert row["auroc"] == {"elsewhere": 0.75, "all": 0.75}
    assert (row["answered"], row["wrongly not there"], row["wrongly found"], row["ms"]) == (0.75, 0.5, 0.0, 200.0)
    assert row["correlation"] == {"expected Dice": 1.0, "stability": -1.0}
    table = find._table({"polyps 1": row})
    assert len(table.rows[0]) == len(table.columns)
