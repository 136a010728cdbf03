"""The benchmark of labelled shares at its smallest: teacher and student, rows on another row's teacher, and going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from tests.recipes.instance_training import instance_scenes

SETTINGS = {"steps": 3, "batch": 2, "size": 64}
ROWS = ("10%: U-Net", "10%: teacher", "10%: student", "10%: student, nothing pasted", "all: teacher")


@pytest.mark.slow
def test_the_table_and_going_on(benchmark, figures_of, tiny_sam_folder: Path, tmp_path: Path, monkeypatch) -> None:
    bench, out = benchmark("s4m_shares"), tmp_path / "out"
    data = instance_scenes(tmp_path / "nuclei", categories=1)
    settings = {"data": data, "out": out, "sam": str(tiny_sam_folder), **SETTINGS}
    monkeypatch.setattr(
        bench, "ROWS", {name: replace(row, labelled=row.labelled and "50%") for name, row in bench.ROWS.items()}
    )
    figures, told = figures_of(bench, **settings, rows=ROWS, seeds=(0, 1))
    assert tuple(figures["rows"]) == ROWS
    assert all(len(row["seeds"]) == 2 and 0 <= row["ap"] <= row["ceiling"] for row in figures["rows"].values())
    assert [name for name, row in figures["rows"].items() if "ahead" in row] == [ROWS[0], *ROWS[2:4]]
    assert "nuclei, test split, 3 steps of each row, batch 2" in told

    (out / "row-10---student--nothing-pasted-s1.json").unlink()
    trained: list[str] = []
    monkeypatch.setattr(bench.s4m, "main", lambda config: trained.append(config.out.name))
    again, _ = figures_of(bench, **settings, rows=ROWS, seeds=(0, 1))
    assert not trained  # the run is there, only its score was not
    for name, row in again["rows"].items():
        assert {**row, "minutes": 0} == {**figures["rows"][name], "minutes": 0}
    with pytest.raises(SystemExit, match="--rows: '10%' is none of"):
        bench.main(bench.Config(**settings, rows=("10%",)))


def test_connected_parts_of_a_plain_network_grow_over_their_borders(benchmark) -> None:
    bench = benchmark("s4m_shares")
    ids = torch.zeros(1, 24, 40, dtype=torch.long)
    ids[0, 4:14, 5:15], ids[0, 4:14, 15:30], ids[0, 20:22, 30:32] = 1, 2, 3
    classes = bench.classes_of(ids)
    assert (classes[0, 4:14, [14, 15]] == bench.BORDER).all()
    assert (classes[0, 5:13, 6:14] == bench.INSIDE).all()
    probability = torch.nn.functional.one_hot(classes[0], 3).permute(2, 0, 1).double().numpy()
    found = bench.grown_parts(0.9 * probability + 0.05, (24, 40))
    assert len(found) == 2  # the third is too small to have an inside
    for one in found:
        x0, y0, x1, y1 = one.box
        assert one.mask.all()
        assert (x0, y0, x1, y1) in ((5, 4, 15, 14), (15, 4, 30, 14))
        assert one.score == pytest.approx(0.95)
    # On a canvas of twice the image's size, whose borders would be gone at that of the image.
    smaller = [one.box for one in bench.grown_parts(0.9 * probability + 0.05, (12, 20))]
    assert sorted(smaller) == [(2, 2, 7, 7), (7, 2, 15, 7)]


def test_every_shape_of_the_scenes_is_an_instance_of_its_category(benchmark, tmp_path: Path) -> None:
    bench = benchmark("s4m_shares")
    folder = bench.write_instance_scenes(tmp_path / "scenes", train=17, val=1, test=2, size=64)
    dataset = Dataset.load(folder)
    assert dataset.categories == ("background", "round", "angular", "long")
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [17, 1, 2]
    for sample in dataset:
        path, mask = dataset.mask_path(sample), sample.labels.mask
        assert path is not None
        assert mask is not None
        assert set(np.unique(read_mask(path)).tolist()) - {0} == {int(k) for k in mask.categories}
        assert set(mask.categories.values()) <= {1, 2, 3}
    before = (folder / "manifest.json").stat().st_mtime_ns
    bench.write_instance_scenes(folder, train=17, val=1, test=2, size=64)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
