"""Which kind of label: cheap ones where SAM's masks of them are good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskwright.data.dataset import Dataset
from maskwright.data.scene_dataset import write_scenes
from maskwright.methods.curate import kinds
from maskwright.methods.curate.costs import Costs
from maskwright.methods.curate.kinds import Reliability, kind_for, measure, worth
from maskwright.methods.curate.material import Material, prepare
from maskwright.sam.sam import Sam


@pytest.fixture
def material(tiny_sam: Sam, tmp_path: Path) -> Material:
    write_scenes(tmp_path / "scenes", train=24, val=0, test=0, size=64, categories=("disc",), difficulty=0.3)
    return prepare(tiny_sam, Dataset.load(tmp_path / "scenes"))


def always(point: float, box: float) -> Reliability:
    ends = np.array([0.0, 1.0])
    return Reliability(dict.fromkeys(kinds.MEASURED, ends), {"point": np.full(2, point), "box": np.full(2, box)}, 30)


@pytest.mark.parametrize(
    ("point", "box", "kind"), [(0.95, 0.97, "point"), (0.5, 0.9, "box"), (0.5, 0.6, "mask"), (0.1, 0.1, "mask")]
)
def test_the_cheapest_that_is_good_enough(material: Material, point: float, box: float, kind: str) -> None:
    seen = np.zeros((128, 128), np.uint8)
    seen[30:70, 40:90] = 1
    choice = kind_for(material, 0, seen, Costs(), always(point, box), seed=0)
    assert choice.kind == kind
    assert choice.objects == 1
    assert choice.seconds == Costs().of(kind)


def test_a_box_where_nothing_is_known(material: Material) -> None:
    assert kind_for(material, 0, None, Costs(), always(1, 1), seed=0).kind == "box"
    assert kind_for(material, 0, np.zeros((128, 128), np.uint8), Costs(), always(1, 1), seed=0).kind == "box"
    seen = np.zeros((128, 128), np.uint8)
    seen[10:30, 10:30] = seen[60:90, 60:90] = 1
    choice = kind_for(material, 0, seen, Costs(), None, seed=0)
    assert (choice.kind, choice.objects, choice.seconds) == ("box", 2, 18)


def test_it_is_measured_on_masks_and_rises_with_what_sam_predicts(material: Material, monkeypatch) -> None:
    places = np.arange(len(material.dataset))
    assert measure(material, places[:10], seed=0) is None

    def answers(sam, image, regions, kind, generator):
        """Of a box always right; of a point right where SAM is sure of it."""
        sure = generator.random(len(regions)).tolist()
        nothing = np.zeros_like(regions[0])
        right = [kind == "box" or own > 0.5 for own in sure]
        return [region if good else nothing for region, good in zip(regions, right, strict=True)], sure

    monkeypatch.setattr(kinds, "simulated_answers", answers)
    reliability = measure(material, places, seed=0)
    assert reliability is not None
    assert reliability.masks == len(places)
    assert reliability.of("box", 0.9) > 0.9
    assert reliability.of("point", 0.95) > 0.9
    assert reliability.of("point", 0.1) < 0.1
    assert all((np.diff(good) >= 0).all() for good in reliability.good.values())


def test_simulated_labels_become_masks_of_the_grid(material: Material) -> None:
    region = np.zeros((128, 128), bool)
    region[20:60, 30:80] = True
    image = kinds.canvas_of(material.dataset, 0, material.sam)
    for kind in kinds.MEASURED:
        masks, sure = kinds.simulated_answers(material.sam, image, [region, ~region], kind, np.random.default_rng(0))
        assert [mask.shape for mask in masks] == [(128, 128)] * 2
        assert all(mask.dtype == bool for mask in masks)
        assert all(0 <= own <= 1 for own in sure)


def test_a_wrong_mask_costs_what_a_right_one_brings() -> None:
    assert worth(None) == worth(1.0) == 1.0
    assert worth(0.5) == 0.0
    assert worth(0.0) == -1.0
