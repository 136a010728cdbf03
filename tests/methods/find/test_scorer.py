"""The scorer is read as it was written, and nothing else is read as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from maskwright.errors import WeightsError
from maskwright.methods.find.candidates import FEATURES
from maskwright.methods.find.scorer import BUNDLED, Scorer, ScorerNet
from maskwright.methods.find.verdicts import Calibration
from maskwright.sam.sam import Sam


def made(seed: int = 0) -> Scorer:
    torch.manual_seed(seed)
    nets = [ScorerNet(width).eval().requires_grad_(False) for width in (len(FEATURES), 2 * len(FEATURES) + 1)]
    return Scorer(nets[0], nets[1], Calibration.of([0.9, 0.8], [0.2]), "signature")


def test_written_and_read_it_judges_the_same(tmp_path: Path) -> None:
    scorer = made()
    scorer.save(tmp_path / "scorer.json")
    again = Scorer.load(tmp_path / "scorer.json")
    features = torch.randn(3, 9, len(FEATURES))
    for one, other in zip(scorer.judge(features), again.judge(features), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert again.calibration.present.tolist() == [0.8, 0.9]
    assert again.digest() == Scorer.load(tmp_path / "scorer.json").digest() != made(1).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "another"},
        {"features": ["area"]},
        {"quality": {}},
        {"presence": {"mean": [1.0]}},
        {"present": ["much"]},
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
    assert min(len(scorer.calibration.present), len(scorer.calibration.absent)) > 500
