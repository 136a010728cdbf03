"""The benchmark of SAMIX beside its baselines at its smallest: all rows, and going on where it stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind, Labels
from maskwright.data.mask_files import read_mask
from maskwright.methods.in_context.judging import Judge
from maskwright.methods.in_context.pool import ReferencePool
from tests.recipes.training import binary_scenes

SMALLEST = {"warm_up": 2, "policy_warm_up": 2, "references": 2, "workers": 0}


@pytest.fixture
def polyps(tmp_path: Path) -> Path:
    """A dataset laid out as the real one."""
    folder = binary_scenes(tmp_path / "polyps")
    shutil.copy(folder / "manifest.json", folder / "splits.json")
    shutil.copy(folder / "full.json", folder / "splits_full.json")
    return folder


@pytest.mark.slow
def test_the_table_and_going_on(
    benchmark, figures_of, polyps: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    bench, out = benchmark("samix_polyps"), tmp_path / "out"
    monkeypatch.setattr(bench, "ROWS", {name: SMALLEST | changed for name, changed in bench.ROWS.items()})
    settings = {"data": polyps, "out": out, "sam": str(tiny_sam_folder), "steps": 3, "batch": 4, "size": 64}
    figures, told = figures_of(bench, **settings)
    assert list(figures["rows"]) == list(bench.ROWS)
    assert "polyps, test split, 3 steps of 4, 64 px" in told
    for name, row in figures["rows"].items():
        assert 0 <= row["dice"] <= 1
        assert list(row["seeds"]) == ["0"]
        assert ("over_mixed" in row) == (name != "mixed")
    assert set(figures["rows"]["mixed"]["pseudo"]) >= {"box", "point", "scribble"}
    assert not figures["rows"]["masks_only"]["pseudo"]

    kept_from_before = [path.name for path in out.glob("row-*.json")]
    (out / "row-mixed-s0.json").unlink()
    trained: list[str] = []
    train = bench.samix.main
    monkeypatch.setattr(bench.samix, "main", lambda config: trained.append(config.out.name) or train(config))
    again, _ = figures_of(bench, **settings)
    assert trained == ["run-mixed-s0"]
    assert again["rows"]["mixed"]["seeds"] == figures["rows"]["mixed"]["seeds"]
    assert sorted(path.name for path in out.glob("row-*.json")) == sorted(kept_from_before)
    with pytest.raises(SystemExit, match="made with other steps"):
        bench.main(bench.Config(**settings | {"steps": 4}))


@pytest.mark.slow
def test_ablations_change_what_they_say(
    benchmark, figures_of, polyps: Path, tiny_sam_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    bench, out = benchmark("samix_polyps"), tmp_path / "out"
    for rows in ("ROWS", "ABLATIONS"):
        monkeypatch.setattr(bench, rows, {name: SMALLEST | changed for name, changed in getattr(bench, rows).items()})
    pools = []
    begin = ReferencePool.__init__

    def begun(pool: ReferencePool, *args: Any, **settings: Any) -> None:
        begin(pool, *args, **settings)
        pools.append(pool)

    monkeypatch.setattr(ReferencePool, "__init__", begun)
    names = ("mixed", "no_box", "blind_alone", "any_references", "newest_references")
    settings = {"data": polyps, "out": out, "sam": str(tiny_sam_folder), "steps": 3, "batch": 4, "size": 64}
    figures, _ = figures_of(bench, **settings, rows=names)
    assert tuple(figures["rows"]) == names
    kinds = {name: set(row["pseudo"]) for name, row in figures["rows"].items()}
    assert kinds["no_box"] == kinds["mixed"] - {"box"}
    assert kinds["blind_alone"] <= {"tag", "none"}
    assert [pool.momentum for pool in pools] == [0.5, 0.5, 0.5, 0.5, 0.0]
    # A query without references of a finer label has none but in the row where any will do.
    pool, kind = pools[0], torch.tensor([int(Kind.MASK)])
    sample, category = torch.tensor([-1]), torch.tensor([1])
    any_label = bench._of_the_category(pool, sample, category, kind)
    assert (any_label | ~pool.allowed(sample, category, kind)).all()
    assert any_label.sum() == (pool.tensors["category"] == 1).sum()


def test_a_policy_with_fewer_rewards(benchmark) -> None:
    bench = benchmark("samix_polyps")
    logits = torch.zeros(2, 4, 4)
    judge = Judge(
        torch.tensor([True, False]),
        logits,
        view=logits > 0,
        weak=lambda rows, some: torch.zeros(len(some)),
        labelled=torch.tensor([True, True]),
    )
    found = {}
    for row in ("mixed_policy", *bench.FEWER_REWARDS):
        with bench._patched(row):
            found[row] = judge.present().tolist()
    first, rest = [True, False], [False, True]
    no = [False, False]
    assert found == {
        "mixed_policy": [first, rest, rest, rest],
        "policy_iou": [first, rest, no, no],
        "policy_iou_view": [first, rest, rest, no],
    }
    assert judge.present().tolist() == found["mixed_policy"]


def test_fewer_masks(benchmark, polyps: Path, tmp_path: Path) -> None:
    bench = benchmark("samix_polyps")
    whole = Dataset.load(polyps / "splits.json")
    masked = {s.id for s in whole.split("train") if s.labels.mask}
    config = bench.Config(data=polyps, out=tmp_path / "out", masks=len(masked) - 1)
    fewer = Dataset.load(bench.mixed_data(config))
    kept = {s.id for s in fewer.split("train") if s.labels.mask}
    assert kept < masked
    assert len(kept) == config.masks
    before = {s.id: s.labels for s in whole}
    for sample in fewer:
        labels = before[sample.id]
        if sample.id in masked - kept:
            assert sample.labels == Labels()
        elif labels.mask is None:
            assert sample.labels == labels
        else:
            np.testing.assert_array_equal(
                read_mask(fewer.root / sample.labels.mask.path), read_mask(whole.root / labels.mask.path)
            )
    assert {s.id for s in Dataset.load(bench.mixed_data(config)).split("train") if s.labels.mask} == kept
    with pytest.raises(SystemExit, match=f"only {len(masked)} training images"):
        bench.mixed_data(bench.Config(data=polyps, out=tmp_path / "more", masks=len(masked) + 1))
    assert bench.mixed_data(bench.Config(data=polyps, out=tmp_path)) == polyps / "splits.json"


def test_trivial_answers_to_boxes(benchmark, polyps: Path) -> None:
    bench = benchmark("samix_polyps")
    mixed, full = Dataset.load(polyps / "splits.json"), Dataset.load(polyps / "splits_full.json")
    found = bench.trivial_dice(mixed, full)
    dice = []
    for sample in mixed.split("train"):
        if not sample.labels.boxes:
            continue
        path = full.mask_path(next(s for s in full if s.id == sample.id))
        assert path is not None
        truth, filled = read_mask(path) > 0, np.zeros(read_mask(path).shape, bool)
        for box in sample.labels.boxes:
            x0, y0, x1, y1 = (round(value) for value in box.xyxy)
            filled[y0:y1, x0:x1] = True
        dice.append(2 * (truth & filled).sum() / (truth.sum() + filled.sum()))
    assert found["filled box"] == pytest.approx(np.mean(dice), abs=0.03)
    assert 0 < found["ellipse"] <= 1


def test_figures_by_hand(benchmark) -> None:
    bench = benchmark("samix_polyps")

    def row(dice: float, **images: float) -> dict[str, Any]:
        return {"dice": dice, "iou": dice / 2, "minutes": 3.0, "images": images, "pseudo": {}}

    figures = bench.summarise(
        {
            ("masks_only", 0): row(0.4, a=0.4, b=0.4),
            ("mixed", 0): row(0.7, a=0.6, b=0.8),
            ("mixed", 1): row(0.1, a=0.1, b=0.1),  # no other row has this seed
            ("full", 0): row(0.8, a=0.8, b=1.0),
        }
    )
    assert figures["mixed"]["dice"] == pytest.approx(0.4)
    assert figures["mixed"]["gap_closed"] == pytest.approx(0.75)
    assert figures["full"]["over_mixed"] == pytest.approx((0.2, 0.2, 0.2))
    shown = bench.table(bench.Config(data=Path("polyps"), out=Path("out")), figures, {"ellipse": 0.5})
    assert shown.rows[2] == ["full", "0.800", "0.800", "0.400", "1.00", "+20.0 (+20.0 .. +20.0)", "3.0"]
    assert shown.notes.endswith("ellipse 0.500")
