"""The benchmark of labelled shares at its smallest: teacher and student, rows on another row's teacher, and going on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskwright.data.dataset import Dataset
from maskwright.data.mask_files import read_mask
from tests.recipes.instance_training import instance_scenes

SMALLEST = {"size": 64, "points": 8, "queries": 10, "warm_up": 2, "workers": 0, "certain": 0.0}


@pytest.mark.slow
def test_the_table_and_going_on(benchmark, figures_of, tiny_sam_folder: Path, tmp_path: Path, monkeypatch) -> None:
    bench, out = benchmark("s4m_shares"), tmp_path / "out"
    instance_scenes(tmp_path / "data" / "nuclei")
    monkeypatch.setattr(bench, "SETTINGS", {"nuclei": SMALLEST})
    # The smallest share of four labelled images that has one.
    rows = {
        "nuclei 10%": bench.Row("nuclei", "50%"),
        "nuclei 10%, no pasting": bench.Row("nuclei", "50%", changed={"arp": "none"}, of="nuclei 10%"),
        "nuclei, all labels": bench.ROWS["nuclei, all labels"],
    }
    monkeypatch.setattr(bench, "ROWS", rows)
    settings = {"data": tmp_path / "data", "out": out, "sam": str(tiny_sam_folder), "steps": 3, "batch": 2}
    figures, told = figures_of(bench, **settings)
    assert list(figures["rows"]) == list(rows)
    assert set(figures["rows"]["nuclei 10%"]) == {"minutes", "steps", "teacher", "student"}
    assert "student" in figures["rows"]["nuclei 10%, no pasting"]
    assert "student" not in figures["rows"]["nuclei, all labels"]
    assert "AP on test, 3 steps of each stage, batch 2" in told

    (out / "nuclei_10_no_pasting" / "benchmark.json").unlink()
    trained: list[str] = []
    train = bench.s4m.main
    monkeypatch.setattr(bench.s4m, "main", lambda config: trained.append(config.out.name) or train(config))
    again, _ = figures_of(bench, **settings, only=["nuclei 10%, no pasting"])
    assert trained == ["nuclei_10_no_pasting"]
    assert list(again["rows"]) == list(rows)  # those that are there are shown
    assert again["rows"]["nuclei 10%, no pasting"]["student"] == figures["rows"]["nuclei 10%, no pasting"]["student"]
    with pytest.raises(SystemExit, match="--only: 'cats 10%' is none of"):
        bench.main(bench.Config(**settings, only=["cats 10%"]))


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
