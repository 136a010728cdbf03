"""The scorer is read as it was written, and nothing else is read as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskwright.errors import WeightsError
from maskwright.methods.find.clues import FEATURES
from maskwright.methods.find.scorer import BUNDLED, Scorer, ScorerNet
from maskwright.methods.find.verdicts import Calibration
from maskwright.sam.sam import Sam


def made(seed: int = 0) -> Scorer:
    torch.manual_seed(seed)
    quality, presence = ScorerNet(len(FEATURES)), ScorerNet(2 * len(FEATURES) + 1, 0)
    known = {1: Calibration.of([0.9, 0.8], [0.2]), 6: Calibration.of([0.7], [0.1])}
    return Scorer(quality.eval().requires_grad_(False), presence.eval().requires_grad_(False), known, "signature")


def test_written_and_read_it_judges_the_same(tmp_path: Path) -> None:
    scorer = made()
    scorer.save(tmp_path / "scorer.json")
    again = Scorer.load(tmp_path / "scorer.json")
    features = torch.randn(3, 9, len(FEATURES))
    for one, other in zip(scorer.judge(features), again.judge(features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert [again.calibration(count).present.tolist() for count in (1, 5, 6, 60)] == [[0.8, 0.9]] * 2 + [[0.7]] * 2
    assert again.digest() == Scorer.load(tmp_path / "scorer.json").digest() != made(1).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"features": ["area"]},
        {"quality": {}},
        {"presence": {"mean": [1.0]}},
        {"calibrations": {"1": {"present": ["much"], "absent": []}}},
        {"calibrations": {}},
    ],
)
def test_another_file_is_refused_with_its_name(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "scorer.json"
    made().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsError, match=r"scorer\.json: cannot be read as a scorer"):
        Scorer.load(path)


def test_the_bundled_one_is_for_the_bundled_sam_and_has_learnt_enough() -> None:
    scorer = Scorer.load(BUNDLED)
    assert scorer.sam == Sam.load("nano").signature()
    for count in (1, 5, 20):
        known = scorer.calibration(count)
        assert min(len(known.present), len(known.absent)) > 300
