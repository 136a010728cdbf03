"""The benchmark of AlignSAM's parts at its smallest: one training, all rows, and going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import maskwright
from maskwright.data.dataset import Dataset


def without_times(rows: dict[str, Any]) -> dict[str, Any]:
    return {name: {k: v for k, v in row.items() if k != "seconds_per_image"} for name, row in rows.items()}


@pytest.mark.slow
def test_the_table_and_going_on(
    benchmark, figures_of, scene_folder: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    bench, out = benchmark("alignsam"), tmp_path / "out"
    settings = {
        "data": scene_folder / "full.json",
        "out": out,
        "sam": str(tiny_sam_folder),
        "text": ("disc",),
        "shots": 3,
        "episodes": 1,
        "strong_episodes": 1,
        "control_steps": 2,
    }
    figures, told = figures_of(bench, **settings)
    assert list(figures["rows"]) == list(bench.ROWS)
    assert "AlignSAM on full, 3 shots" in told
    assert "text: disc" in told
    assert list(figures["training_minutes"]) == ["implicit", "paper", "segmenter", "strong"]
    for name, row in figures["rows"].items():
        assert 0 <= row["miou"] <= 1
        assert (row["label_accuracy"] is None) == (name in ("SAM in context", "plain segmenter"))
        assert row["seeds"] == [row["miou"]]
        assert ("against_paper" in row) == (name != "paper")

    def trained_again(config: Any) -> None:
        raise AssertionError("the run was finished")

    monkeypatch.setattr(bench.alignsam, "main", trained_again)
    (out / "row-strong-s0.json").unlink()
    again, _ = figures_of(bench, **settings)
    assert without_times(again["rows"]) == without_times(figures["rows"])

    # The moments of one prediction are the predictions with so many clicks.
    predictor = maskwright.load(out / "run-paper-s0")
    scores = maskwright.evaluate(predictor, Dataset.load(scene_folder / "full.json"), "test", clicks=5)
    for key in ("miou", "mae", "f", "fr"):
        assert figures["rows"]["T = 5"][key] == pytest.approx(scores[key], abs=1e-4), key

    few, _ = figures_of(bench, **settings | {"rows": ("T = 0", "paper")})
    assert list(few["rows"]) == ["paper", "T = 0"]
    with pytest.raises(SystemExit, match="made with other text"):
        bench.main(bench.Config(**settings | {"text": ()}))
    with pytest.raises(SystemExit, match="--rows: 'T = 7' is none of"):
        bench.main(bench.Config(**settings | {"rows": ("T = 7",)}))


def test_figures_by_hand(benchmark) -> None:
    bench = benchmark("alignsam")

    def row(miou: float, ious: list[float | None], **changed: float | None) -> dict[str, Any]:
        scores = dict.fromkeys(bench.SHOWN, miou)
        scores |= {"seconds_per_image": 1.0, "fr_ceiling": 0.9}
        return {**scores, "per_image": [{"iou": iou} for iou in ious], **changed}

    figures = bench.summarise(
        {
            ("paper", 0): row(0.4, [0.2, 0.6, None], fr=None),
            ("paper", 1): row(0.6, [0.4, 0.8, None]),
            ("strong", 0): row(0.7, [0.5, 0.9, 0.7], fr=None),
        }
    )
    assert figures["paper"]["miou"] == pytest.approx(0.5)
    assert figures["paper"]["seeds"] == [0.4, 0.6]
    assert figures["paper"]["fr"] == pytest.approx(0.6)
    assert figures["strong"]["fr"] is None
    # Images that the row or "paper" has no IoU for do not count.
    assert figures["strong"]["against_paper"] == pytest.approx((0.3, 0.3, 0.3))
    shown = bench.table(bench.Config(data=Path("polyps"), out=Path("out")), figures, {"paper": 1.5})
    # Of the seed that both have.
    assert shown.rows[1][-2:] == ["+0.300 (+0.300 .. +0.300)", ""]
    assert shown.rows[0][-1] == "0.400, 0.600"
    assert "Minutes of a training: paper 1.5. A prediction with its clicks takes 1.00 s." in shown.notes
    assert "at most 0.900 can lie there" in shown.notes
