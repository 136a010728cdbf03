"""The demo's own work: what it asks of the recipe, what it writes, how it goes on. Training itself is stood in for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskwright import demo
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.images import read_image
from maskwright.data.labels import Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.errors import RunError

SCORES = {"masks-only": (0.5, 0.4), "mixed": (0.8, 0.7), "full": (0.9, 0.8)}


class Recipe:
    """Stands in for the recipe and the API: models that see nothing, with scores that are known."""

    def __init__(self) -> None:
        self.configs: list[demo.samix.Config] = []
        self.evaluated: list[tuple[str, str]] = []
        self.scores = dict(SCORES)
        self.fail_at = ""

    def main(self, config: demo.samix.Config) -> Path:
        self.configs.append(config)
        if config.out.name == self.fail_at:
            raise KeyboardInterrupt
        (config.out / "model").mkdir(parents=True)
        return config.out

    def evaluate(self, run: Path, dataset: Dataset, split: str) -> dict[str, object]:
        self.evaluated.append((run.name, split))
        assert {s.labels.kind for s in dataset.split(split)} == {Kind.MASK}
        dice, iou = self.scores[run.name]
        return {"dice": np.float64(dice), "iou": np.float64(iou), "per_category": {}}

    def load(self, run: Path) -> SimpleNamespace:
        def predict(paths: list[Path]) -> Iterator[SimpleNamespace]:
            for path in paths:
                yield SimpleNamespace(mask=np.zeros(read_image(path).shape[:2], np.uint8))

        return SimpleNamespace(predict=predict)


IMAGES = {"train": 20, "val": 1, "test": 4}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of seed 0, drawn once."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    return write_scenes(
        folder, **IMAGES, size=32, categories=("disc",), difficulty=demo.DIFFICULTY, shares=demo.SHARES
    ).root


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, drawn: Path) -> Recipe:
    recipe = Recipe()

    def copy_or_draw(folder: Path, *, seed: int, **settings: Any) -> Dataset:
        if seed == 0 and not folder.exists():
            shutil.copytree(drawn, folder)
        return write_scenes(folder, seed=seed, **settings)  # refuses the copy if its settings are not the demo's

    monkeypatch.setattr(demo, "write_scenes", copy_or_draw)
    monkeypatch.setattr(demo.samix, "main", recipe.main)
    monkeypatch.setattr(demo.api, "evaluate", recipe.evaluate)
    monkeypatch.setattr(demo.api, "load", recipe.load)
    monkeypatch.setattr(demo, "IMAGES", IMAGES)
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(demo, "CATEGORIES", ("disc",))  # common, so that few scenes need rendering
    monkeypatch.setattr(demo, "SHOWN", 2)
    return recipe


def test_writes_the_summary_and_returns_it(tmp_path: Path, recipe: Recipe):
    summary = demo.main(tmp_path / "out", minutes=1)
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert list(summary) == ["masks_only", "mixed", "full", "gap_closed", "minutes"]
    assert summary["masks_only"] == {"dice": 0.5, "iou": 0.4}
    assert summary["mixed"] == {"dice": 0.8, "iou": 0.7}
    assert summary["full"] == {"dice": 0.9, "iou": 0.8}
    assert summary["gap_closed"] == pytest.approx(0.75)  # 0.3 of 0.4
    assert 0 < summary["minutes"] < 5


def test_trains_all_three_alike_but_for_their_labels(tmp_path: Path, recipe: Recipe):
    out = tmp_path / "out"
    demo.main(out, minutes=2, seed=3)
    few, mixed, full = recipe.configs
    assert (few.labels, mixed.labels, full.labels) == ("masks-only", "all", "all")
    assert few.data == mixed.data == out / "data/manifest.json"
    assert full.data == out / "data/full.json"
    # As many steps of the segmenter for all; SAM's warm-up, where there are weak labels, comes on top.
    assert few.warm_up == full.warm_up == 0
    assert mixed.warm_up == min(demo.MAX_WARM_UP, demo.STEPS_PER_MINUTE // 2)
    assert {c.steps - c.warm_up for c in recipe.configs} == {2 * demo.STEPS_PER_MINUTE}
    own = ("data", "labels", "steps", "warm_up")
    rest = [{k: v for k, v in c.settings().items() if k not in own} for c in recipe.configs]
    assert rest[0] == rest[1] == rest[2]
    assert (few.seed, few.size, few.resume) == (3, 32, True)
    assert recipe.evaluated == [("masks-only", "test"), ("mixed", "test"), ("full", "test")]


def test_data_are_clean_and_few_have_masks(tmp_path: Path, recipe: Recipe):
    demo.main(tmp_path / "out")
    mixed, full = Dataset.load(tmp_path / "out/data"), Dataset.load(tmp_path / "out/data/full.json")
    assert check(mixed) == check(full) == []
    kinds = [s.labels.kind for s in mixed.split("train")]
    assert kinds.count(Kind.MASK) == 1
    assert set(kinds) == set(Kind)
    assert sum(demo.SHARES.values()) == pytest.approx(1)


def test_comparison_shows_image_truth_and_three_models(tmp_path: Path, recipe: Recipe):
    demo.main(tmp_path / "out")
    with Image.open(tmp_path / "out/comparison.png") as picture:
        pixels = np.array(picture)
    columns, rows = 5, 2
    assert pixels.shape == (20 + rows * (32 + demo.GAP), columns * (32 + demo.GAP) - demo.GAP, 3)
    first = [pixels[20:52, c * 36 : c * 36 + 32] for c in range(columns)]
    shown = {read_image(p).tobytes() for p in (tmp_path / "out/data/images").glob("test-*.png")}
    assert first[0].tobytes() in shown
    assert (first[1] != first[0]).any()  # the truth is painted in
    assert all((model == first[0]).all() for model in first[2:])  # models that see nothing paint nothing


def test_goes_on_where_it_was_stopped(tmp_path: Path, recipe: Recipe):
    recipe.fail_at = "mixed"
    with pytest.raises(KeyboardInterrupt):
        demo.main(tmp_path / "out")
    assert not (tmp_path / "out/summary.json").exists()
    spent = json.loads((tmp_path / "out/demo.json").read_text())["minutes"]
    recipe.fail_at = ""
    summary = demo.main(tmp_path / "out")
    assert [c.out.name for c in recipe.configs] == ["masks-only", "mixed", "mixed", "full"]
    assert summary["masks_only"]["dice"] == 0.5
    assert summary["minutes"] > spent > 0


def test_a_finished_demo_is_only_told_again(tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    first = demo.main(out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    capsys.readouterr()
    assert demo.main(out) == first
    assert len(recipe.configs) == 3
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert "Gap closed: 75%" in capsys.readouterr().out


def test_a_model_that_was_deleted_is_trained_again(tmp_path: Path, recipe: Recipe):
    demo.main(tmp_path / "out")
    (tmp_path / "out/full/model").rmdir()
    (tmp_path / "out/full").rmdir()
    demo.main(tmp_path / "out")
    assert [c.out.name for c in recipe.configs] == ["masks-only", "mixed", "full", "full"]


def test_tells_a_newcomer_what_it_does_and_what_to_do_next(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "my out"
    demo.main(out)
    text = capsys.readouterr().out
    assert "1 of 3, masks only" in text
    assert f"{5 * demo.STEPS_PER_MINUTE} steps on 1 images with masks ..." in text
    assert "with boxes" in text
    assert "0.800" in text
    assert str(out / "mixed/report.html") in text
    assert f"maskwright predict '{out}/mixed' YOUR_IMAGES" in text
    assert "maskwright train samix YOUR_DATA" in text


@pytest.mark.parametrize(
    ("full", "mixed", "gap", "words"),
    [(0.505, 0.8, None, "no gap to close"), (0.4, 0.8, None, "no gap to close"), (0.9, 0.4, -0.25, "did not help")],
)
def test_a_gap_that_says_nothing_is_not_praised(
    tmp_path: Path,
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
    full: float,
    mixed: float,
    gap: float | None,
    words: str,
):
    recipe.scores |= {"full": (full, 0.4), "mixed": (mixed, 0.4)}
    assert demo.main(tmp_path / "out")["gap_closed"] == (None if gap is None else pytest.approx(gap))
    assert words in capsys.readouterr().out


def test_somebody_elses_folder_is_left_alone(tmp_path: Path, recipe: Recipe):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunError, match="is no demo"):
        demo.main(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_settings_and_no_resume_are_refused(tmp_path: Path, recipe: Recipe):
    demo.main(tmp_path / "out", minutes=1)
    with pytest.raises(RunError, match=r"minutes 1\.0 there, 2\.0 now; seed 0 there, 5 now"):
        demo.main(tmp_path / "out", minutes=2, seed=5)
    with pytest.raises(RunError, match="holds a demo already"):
        demo.main(tmp_path / "out", minutes=1, resume=False)
    (tmp_path / "out/demo.json").write_text("[]")
    with pytest.raises(RunError, match="is damaged"):
        demo.main(tmp_path / "out", minutes=1)


@pytest.mark.parametrize(("minutes", "seed"), [(0, 0), (float("nan"), 0), (1, -1)])
def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path, minutes: float, seed: int):
    with pytest.raises(RunError, match="--minutes"):
        demo.main(tmp_path / "out", minutes=minutes, seed=seed)
    assert not (tmp_path / "out").exists()
