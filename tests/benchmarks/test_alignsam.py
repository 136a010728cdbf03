"""The benchmark of AlignSAM's parts at its smallest: one training, all rows, and going on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


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
        "clicks": 2,
    }
    figures, told = figures_of(bench, **settings)
    assert list(figures["rows"]) == list(bench.ROWS)
    assert "AlignSAM on full, 3 shots" in told
    assert "text: disc" in told
    assert len(figures["training_seconds"]) == 1
    for name, row in figures["rows"].items():
        assert 0 <= row["miou"] <= 1
        assert row["seeds"] == [row["miou"]]
        assert ("against_paper" in row) == (name != "paper")

    def trained_again(config: Any) -> None:
        raise AssertionError("the run was finished")

    monkeypatch.setattr(bench.alignsam, "main", trained_again)
    (out / "row-strong-s0.json").unlink()
    again, _ = figures_of(bench, **settings)
    assert without_times(again["rows"]) == without_times(figures["rows"])

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
        return {**scores, "seconds_per_image": 1.0, "per_image": [{"iou": iou} for iou in ious], **changed}

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
    assert figures["strong"]["against_paper"] == pytest.approx((0.2, 0.2, 0.2))
    shown = bench.table(bench.Config(data=Path("polyps"), out=Path("out")), figures, [90.0])
    assert shown.rows[1][-2:] == ["+0.200 (+0.200 .. +0.200)", ""]
    assert shown.rows[0][-1] == "0.400, 0.600"
    assert "Training took 1.5 minutes. A prediction takes 1.00 s." in shown.notes
