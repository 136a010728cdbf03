"""Zero-shot scores of a SAM: hand-worked baselines, stand-in models whose answers are known, and the command."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maskwright import cli
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Labels, Mask, Sample
from maskwright.data.mask_files import write_mask
from maskwright.data.shapes import ellipse_radius, filled_boxes, tight_boxes
from maskwright.errors import DataError, MaskwrightError
from maskwright.methods.zero_shot import baselines, evaluate_sam
from maskwright.methods.zero_shot import scores as scores_module
from maskwright.methods.zero_shot.objects import (
    MIN_SHARE,
    draw_pools,
    draw_references,
    draw_targets,
    on_device,
    read_view,
)
from maskwright.methods.zero_shot.prompted import ask_boxes, ask_clicks, look_at_boxes, look_at_clicks
from maskwright.methods.zero_shot.report import score_table
from maskwright.rl.oracle import clicks_to_reach
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Embedding, Masks, Sam

SIDE = 64


def make_dataset(folder: Path, masks: dict[str, list[np.ndarray]], kind: Any = "semantic", categories=None) -> Dataset:
    """Grey noise with these masks by split; ``categories`` of instance ids."""
    generator = np.random.default_rng(0)
    samples = []
    for split, arrays_ in masks.items():
        for number, mask in enumerate(arrays_):
            name = f"{split}-{number}"
            (folder / "images").mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            write_mask(folder / "masks" / f"{name}.png", mask.astype(np.uint8))
            label = Mask(f"masks/{name}.png", kind, categories or {})
            samples.append(Sample(name, f"images/{name}.png", split, Labels(mask=label)))
    return Dataset(folder, ("background", "thing", "other"), tuple(samples))


def rectangle(y: slice, x: slice, value: int = 1, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[y, x] = value
    return mask


class Oracle:
    """Stands in for a SAM on prompts: ``answers`` says which logits ``(N, 1, M, S, S)`` come back to call 0, 1, ..."""

    size = SIDE

    def __init__(self, answers: list[Tensor], ious: list[Tensor]) -> None:
        self.answers, self.ious, self.calls = answers, ious, []

    def decode(self, embedding, prompts: Prompts, previous=None, multimask=False) -> Masks:
        turn = len(self.calls)
        self.calls.append((prompts, previous, multimask))
        logits, iou = self.answers[turn], self.ious[turn]
        return Masks(logits, iou, torch.ones(len(logits), 1), torch.zeros(*iou.shape, 4))


def logits_of(masks: Tensor) -> Tensor:
    """(N, S, S) bool → (N, 1, 1, S, S)."""
    return (masks.float() * 20 - 10)[:, None, None]


# -------------------------------------------------------------------------------------------------------- baselines


def test_iou_by_hand_and_without_unknown_pixels():
    answer = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 0, 0]]]).bool()
    truth = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 1, 1, 0]]]).bool()
    known = torch.ones_like(truth)
    known[2, 0, 0] = False
    assert baselines.iou(answer, truth, known).tolist() == pytest.approx([1 / 3, 1, 1 / 2])


def test_the_best_threshold_equals_a_search(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    scan, parts = baselines.ThresholdScan(), []
    for count in (2, 3):
        truths = torch.rand(count, 12, 12, generator=generator) < 0.4
        maps = (truths * 0.2 + torch.rand(count, 12, 12, generator=generator) - 0.5).double()
        known = torch.rand(count, 12, 12, generator=generator) < 0.9
        scan.update(maps, truths, known)
        parts.append((maps, truths, known))
    thresholds = np.arange(-1000, 1001) / 1000
    means = [np.mean(torch.cat([baselines.iou(m >= t, *rest) for m, *rest in parts]).tolist()) for t in thresholds]
    score, threshold = scan.best()
    assert score == pytest.approx(max(means), abs=1e-6)
    assert means[np.flatnonzero(np.isclose(thresholds, threshold))[0]] == pytest.approx(score, abs=1e-6)


def test_similarity_finds_the_feature_inside_the_references_mask():
    low = torch.zeros(2, 3, 4, 4)
    low[:, 0], low[:, 1, :, 2:] = 1.0, 5.0  # The right half has another direction.
    masks = on_device([rectangle(slice(0, 64), slice(0, 32)) > 0, rectangle(slice(0, 8), slice(40, 48)) > 0], "cpu")
    means = baselines.prototypes(low, masks)
    assert torch.allclose(means[0], torch.tensor([1.0, 0, 0]))
    assert torch.allclose(means[1], torch.tensor([1.0, 5, 0]) / 26**0.5)
    maps = baselines.similarity(low[:1].expand(2, -1, -1, -1), means[:, None], SIDE)
    assert maps[0, 5, 5] == pytest.approx(1)
    assert maps[1, 5, 60] == pytest.approx(1)
    both = baselines.similarity(low[:1], means[None], SIDE)
    assert torch.allclose(both[0], maps.mean(0), atol=1e-6)


def test_trivial_rows_are_those_that_are_known(shared_data: Path):
    """Mean IoU of the ellipse, the filled box and the whole canvas as they were published with the task."""
    expected = {
        "polyps/splits_full.json": (0.81, 0.71, 0.16),
        "saliency": (0.59, 0.54, 0.23),
        "cats": (0.63, 0.58, 0.08),
    }
    for name, values in expected.items():
        dataset = Dataset.load(shared_data / name)
        rows = []
        for item in draw_targets(dataset, "test", limit=1000, objects=3, seed=0):
            view = read_view(dataset, item.sample, 256)
            truths = on_device([view.ids == object for object in item.objects], "cpu")
            known, boxes = torch.ones_like(truths), tight_boxes(truths)
            answers = ellipse_radius(boxes, 256, 256) <= 1, filled_boxes(boxes, 256, 256), known
            rows += torch.stack([baselines.iou(answer, truths, known) for answer in answers], 1).tolist()
        assert np.mean(rows, 0) == pytest.approx(values, abs=0.006)


# --------------------------------------------------------------------------------------------------- what is drawn


def test_objects_are_instances_or_categories_and_draws_depend_on_the_seed(tmp_path: Path):
    grid = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((16, 16), int))
    instances = make_dataset(tmp_path / "a", {"test": [grid] * 6}, "instance", {3: 2})
    first = draw_targets(instances, "test", limit=100, objects=3, seed=0)
    assert [len(item.objects) for item in first] == [3] * 6
    assert len({item.objects for item in first}) > 1
    assert all(item.categories == (1, 2) for item in first)
    assert draw_targets(instances, "test", limit=100, objects=3, seed=0) == first
    assert draw_targets(instances, "test", limit=100, objects=3, seed=1) != first
    few = draw_targets(instances, "test", limit=2, objects=3, seed=0)
    assert len(few) == 2
    assert all(item in first for item in few)
    assert {i for item in draw_targets(instances, "test", limit=9, objects=99, seed=0) for i in item.objects} == {
        *range(1, 17)
    }

    mask = rectangle(slice(0, 9), slice(0, 9)) + rectangle(slice(20, 30), slice(0, 9), 2)
    mask[40, 40] = 2
    mask[60:] = 255
    semantic = make_dataset(tmp_path / "b", {"test": [mask]})
    (item,) = draw_targets(semantic, "test", limit=9, objects=3, seed=0)
    assert item.objects == item.categories == (1, 2)


def test_objects_that_are_too_small_are_no_objects(tmp_path: Path):
    side = 200
    least = math.ceil(MIN_SHARE * side * side)
    mask = rectangle(slice(0, 1), slice(0, least), 1, side) + rectangle(slice(5, 6), slice(0, least - 1), 2, side)
    (item,) = draw_targets(make_dataset(tmp_path, {"test": [mask]}), "test", limit=9, objects=3, seed=0)
    assert item.objects == (1,)


def test_references_show_the_category_and_are_never_the_query(tmp_path: Path):
    one, two = rectangle(slice(0, 9), slice(0, 9)), rectangle(slice(0, 9), slice(0, 9), 2)
    dataset = make_dataset(tmp_path, {"test": [one, two, one, one, two]})
    picked = draw_targets(dataset, "test", limit=99, objects=3, seed=0)
    pools = draw_pools(dataset, picked, "test", size=SIDE, smallest=2, largest=20, seed=0)
    assert {c: sorted(s.id for s in pool) for c, pool in pools.items()} == {
        1: ["test-0", "test-2", "test-3"],
        2: ["test-1", "test-4"],
    }
    drawn = [s.id for s in draw_references(picked[1], 2, pools[2], 3, seed=0)]
    assert drawn == ["test-4"] * 3
    drawn = [s.id for s in draw_references(picked[0], 1, pools[1], 4, seed=0)]
    assert sorted(set(drawn)) == ["test-2", "test-3"]
    assert drawn[:2] == drawn[2:]
    assert draw_references(picked[0], 1, [picked[0].sample], 3, seed=0) == []
    assert len(draw_pools(dataset, picked, "test", size=SIDE, smallest=1, largest=1, seed=0)[1]) == 1


# ---------------------------------------------------------------------------------------------------------- prompts


def test_a_perfect_model_needs_one_box_or_one_click():
    truths = on_device([rectangle(slice(4, 30), slice(7, 21)) > 0, rectangle(slice(50, 64), slice(0, 9)) > 0], "cpu")
    known = torch.ones_like(truths)
    sam = Oracle([logits_of(truths)] * 4, [torch.full((2, 1, 1), 0.9)] * 4)
    box = ask_boxes(sam, None, truths, known)  # type: ignore[arg-type]
    assert box.iou.tolist() == [1, 1]
    assert box.predicted.tolist() == pytest.approx([0.9, 0.9])
    assert sam.calls[0][0].points[0, 0].tolist() == [[7.5, 4.5], [20.5, 29.5]]
    sam.calls.clear()
    clicks = ask_clicks(sam, None, truths, known, 3)  # type: ignore[arg-type]
    assert clicks.iou.tolist() == [[1, 1, 1]] * 2
    assert clicks.labels.tolist() == [[1, -1, -1]] * 2
    assert [multimask for *_, multimask in sam.calls] == [True, False, False]
    assert sam.calls[0][1] is None
    assert torch.equal(sam.calls[2][1], logits_of(truths)[:, :, 0])


def test_clicks_correct_take_the_best_candidate_and_never_repeat():
    truth = on_device([rectangle(slice(10, 31), slice(10, 31)) > 0], "cpu")
    known = torch.ones_like(truth)
    known[:, 40:, 40:] = False
    everything = torch.ones_like(truth)
    candidates = torch.cat([logits_of(~truth), logits_of(everything), logits_of(~everything)], 2)
    sam = Oracle(
        [candidates, logits_of(everything), logits_of(truth & ~truth)],
        [torch.tensor([[[0.2, 0.7, 0.3]]]), torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.1)],
    )
    answers = ask_clicks(sam, None, truth, known, 3)  # type: ignore[arg-type]
    share = 21 * 21 / (64 * 64 - 24 * 24)
    assert answers.iou.tolist() == [pytest.approx([share, share, 0])]
    assert answers.predicted.tolist() == [pytest.approx([0.7, 0.5, 0.1])]
    assert answers.labels.tolist() == [[1, 0, 0]]
    assert answers.points[0, 0].tolist() == [20.5, 20.5]
    seen = {tuple(point) for point in answers.points[0].tolist()}
    assert len(seen) == 3
    assert all(known[0, int(y), int(x)] for x, y in seen)
    assert not answers.masks.any()


def test_further_clicks_are_counted_and_change_nothing_else():
    truth = on_device([rectangle(slice(10, 31), slice(10, 31)) > 0], "cpu")
    known = torch.ones_like(truth)
    half = truth & (torch.arange(SIDE) < 20)
    answers = [logits_of(half), logits_of(half), logits_of(truth), logits_of(half)]
    sam = Oracle(answers * 2, [torch.full((1, 1, 1), 0.5)] * 8)
    two = ask_clicks(sam, None, truth, known, 2)  # type: ignore[arg-type]
    sam.calls.clear()
    four = ask_clicks(sam, None, truth, known, 2, further=2)  # type: ignore[arg-type]
    assert len(sam.calls) == 4
    for name in ("points", "labels", "masks", "iou", "predicted"):
        assert torch.equal(getattr(four, name), getattr(two, name)), name
    assert torch.equal(two.masks, half)
    share = 10 / 21
    # Nothing is wrong after the third click, so the fourth is not made.
    assert four.all_iou.tolist() == [pytest.approx([share, share, 1, 1])]
    assert clicks_to_reach(four.all_iou, 0.9).tolist() == [3]


def test_the_number_of_clicks_to_reach_an_iou_by_hand():
    ious = torch.tensor([[0.2, 0.8, 0.7, 0.95], [0.9, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
    assert clicks_to_reach(ious, 0.8).tolist() == [2, 1, 5]
    assert clicks_to_reach(ious, 0.95).tolist() == [4, 5, 5]


class EllipseOnly(Oracle):
    """Answers every box with the ellipse in it."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        super().__init__([], [])

    def encode(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, SIDE, SIDE)
        return images

    def decode(self, embedding, prompts: Prompts, previous=None, multimask=False) -> Masks:
        boxes = prompts.points[:, 0].flatten(1) + torch.tensor([-0.5, -0.5, 0.5, 0.5])
        logits = 1 - ellipse_radius(boxes, SIDE // 4, SIDE // 4, 4)[:, None, None]
        return Masks(
            logits, torch.full((len(boxes), 1, 1), 0.9), torch.ones(len(boxes), 1), torch.zeros(len(boxes), 1, 1, 4)
        )


def test_a_closer_look_at_originals_answers_on_the_canvas(tmp_path: Path):
    masks = []
    for height, width in ((90, 150), (200, 40)):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 5 : width // 2] = 1
        mask[-height // 5 :, -width // 4 :] = 2
        masks.append(mask)
    dataset = make_dataset(tmp_path, {"test": masks})
    views = [read_view(dataset, sample, SIDE) for sample in dataset]
    rows, values = [0, 0, 1, 1], [1, 2, 1, 2]
    truths = on_device([views[row].ids == value for row, value in zip(rows, values)], "cpu")
    boxes = tight_boxes(truths)
    looks = look_at_boxes(EllipseOnly(), views, rows, boxes, truths, torch.ones_like(truths))  # type: ignore[arg-type]
    ellipses = ellipse_radius(boxes, SIDE, SIDE) <= 1
    assert baselines.iou(looks.masks, ellipses, torch.ones_like(truths)).min() > 0.93
    assert looks.predicted.tolist() == pytest.approx([0.9] * 4)
    assert torch.equal(looks.iou, baselines.iou(looks.masks, truths, torch.ones_like(truths)))


class DiscOnly(EllipseOnly):
    """A SAM that answers a first click with a disc of a tenth of what it is shown, and keeps the answer that it is given afterwards."""

    def decode(self, embedding, prompts: Prompts, previous=None, multimask=False) -> Masks:
        centre = prompts.points[:, 0, 0]
        boxes = torch.cat([centre - SIDE / 10, centre + SIDE / 10], -1)
        logits = 1 - ellipse_radius(boxes, SIDE // 4, SIDE // 4, 4)[:, None, None]
        if previous is not None:
            logits = previous[:, :, None]
        return Masks(
            logits, torch.full((len(boxes), 1, 1), 0.9), torch.ones(len(boxes), 1), torch.zeros(len(boxes), 1, 1, 4)
        )


def test_clicks_are_answered_from_close_by_on_the_canvas(tmp_path: Path):
    masks = []
    for height, width in ((90, 150), (200, 40)):
        mask = np.zeros((height, width), np.uint8)
        mask[height // 4 : height // 2, width // 5 : width // 2] = 1
        masks.append(mask)
    dataset = make_dataset(tmp_path, {"test": masks})
    views = [read_view(dataset, sample, SIDE) for sample in dataset]
    truths = on_device([view.ids == 1 for view in views], "cpu")
    everywhere = torch.ones_like(truths)
    embedding = Embedding(*(torch.zeros(2, 1, 1, 1) for _ in range(3)))
    answers = look_at_clicks(DiscOnly(), views, [0, 1], embedding, truths, everywhere, 3)  # type: ignore[arg-type]
    assert answers.points.shape == (2, 3, 2)
    assert torch.equal(answers.iou[:, -1], baselines.iou(answers.masks, truths, everywhere))
    # The first disc is a fifth of the image wide and high. What is shown from close by is 1.5 times the longer of these, at most all of
    # the image, and the second disc a fifth of that.
    sizes = torch.tensor([[150.0, 90.0], [40.0, 200.0]])
    shown = (1.5 * 0.2 * sizes.amax(1, keepdim=True)).minimum(sizes)
    diameters = torch.stack([answers.masks.any(1).sum(1), answers.masks.any(2).sum(1)], 1)
    assert (diameters - 0.2 * shown / sizes * SIDE).abs().max() <= 3  # a cell of the answer is 4 wide
    assert (answers.iou[:, 0] - answers.iou[:, -1]).abs().max() < 0.05


# ------------------------------------------------------------------------------------------------------ whole thing


def test_trivial_rows_by_hand_and_shapes_of_the_result(tmp_path: Path, tiny_sam: Sam):
    half = rectangle(slice(0, 32), slice(0, 64))
    quarter = rectangle(slice(0, 32), slice(0, 32))
    quarter[32:, :] = 255
    dataset = make_dataset(tmp_path, {"test": [half, quarter], "train": [half, quarter]})
    seen: list[tuple[int, int]] = []
    scores = evaluate_sam(tiny_sam, dataset, clicks=2, batch=1, progress=lambda *done: seen.append(done))
    assert scores["trivial"]["filled_box"] == 1
    assert scores["trivial"]["all_foreground"] == pytest.approx(0.5)  # of what is known
    assert scores["trivial"]["ellipse"] == pytest.approx(math.pi / 4, abs=0.01)
    assert (scores["images"], scores["objects"], len(scores["clicks"])) == (2, 2, 2)
    assert len(scores["closer_clicks"]) == 2
    assert scores["object"] == "all pixels of a category in an image, at most 3 of an image"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    context = scores["in_context"]
    assert (context["queries"], context["split"]) == (2, "train")
    assert context["trivial"]["all_foreground"] == pytest.approx(0.5)
    assert all(context["trivial"]["threshold"][shots] >= 0.5 - 1e-6 for shots in ("1", "5"))
    assert [len(row["references"]) for row in scores["per_query"]] == [5, 5]
    assert "fewer than 5 references, shown again to make up the number: thing (2)" in scores["notes"]
    for row in scores["per_object"]:
        assert (len(row["clicks"]), len(row["clicks_predicted"])) == (2, 2)
        assert 0 <= row["box"] <= 1
    error = np.mean([abs(row["box"] - row["box_predicted"]) for row in scores["per_object"]])
    assert scores["box"]["iou_error"] == pytest.approx(error)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_clicks_to_an_iou_are_counted_when_asked_for(tmp_path: Path, tiny_sam: Sam):
    dataset = make_dataset(
        tmp_path, {"test": [rectangle(slice(0, 32), slice(0, 64)), rectangle(slice(9, 30), slice(9, 40))]}
    )
    plain, counted = evaluate_sam(tiny_sam, dataset, clicks=2), evaluate_sam(tiny_sam, dataset, clicks=2, noc=True)
    assert plain["noc"] is None
    assert set(counted["noc"]) == {"80", "85", "90"}
    for place, (_, scores) in enumerate(counted["noc"].items()):
        counts = [row["noc"][place] for row in counted["per_object"]]
        assert scores["clicks"] == np.mean([min(count, 20) for count in counts])
        assert scores["failures"] == np.mean([count == 21 for count in counts])
    for name in ("box", "closer_look", "clicks", "trivial", "in_context"):
        assert counted[name] == plain[name]
    table = score_table(counted)
    assert table.columns[-2:] == ["clicks", "not reached"]
    assert {len(row) for row in table.rows} == {5}
    last = counted["noc"]["90"]
    assert table.rows[-1] == ["NoC@90: clicks to IoU .90", None, None, last["clicks"], last["failures"]]
    assert "an IoU that 20 clicks did not reach counts as 20 clicks" in table.note
    assert json.loads(json.dumps(counted, allow_nan=False)) == counted


def test_a_sam_that_is_worse_than_the_ellipse_is_warned_of_in_one_line(tmp_path: Path, tiny_sam: Sam):
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    disc = (((x - 30) ** 2 + (y - 34) ** 2) < 200).astype(np.uint8)
    dataset = make_dataset(tmp_path, {"test": [disc]})
    scores = evaluate_sam(tiny_sam, dataset, clicks=1)
    assert scores["box"]["iou"] < scores["trivial"]["ellipse"]
    (warning,) = scores["warnings"]
    assert warning.startswith(
        f"an exact box is answered worse (IoU {scores['box']['iou']:.2f}) than by the ellipse in it"
    )
    assert f"Warning: {warning}." in score_table(scores).note.splitlines()
    assert scores_module._warnings(0.8, 0.7, 0.8) == []
    told = "an exact box is answered worse (IoU 0.41) than by the ellipse in it (0.60)"
    assert scores_module._warnings(0.41, 0.75, 0.6) == [f"{told}; a closer look is better (0.75)"]
    (neither,) = scores_module._warnings(0.41, 0.5, 0.6)
    assert neither.startswith(f"{told}, even with a closer look (0.50)")


def test_numbers_do_not_depend_on_the_batch(scene_folder: Path, tiny_sam: Sam):
    dataset = Dataset.load(scene_folder / "full.json")
    one, four = (evaluate_sam(tiny_sam, dataset, batch=batch, clicks=2) for batch in (1, 4))
    assert len(one["per_object"]) == len(four["per_object"]) > 2
    for a, b in zip(one["per_object"], four["per_object"], strict=True):
        assert (a["image"], a["object"], a["category"]) == (b["image"], b["object"], b["category"])
        assert a["box"] == pytest.approx(b["box"], abs=0.02)
    for a, b in zip(one["per_query"], four["per_query"], strict=True):
        assert a["references"] == b["references"]
        assert a["iou"] == pytest.approx(b["iou"], abs=0.02)


def test_the_split_gives_its_own_references_and_encodes_each_image_once(tmp_path: Path, tiny_sam: Sam, monkeypatch):
    masks = [rectangle(slice(0, 20 + n), slice(0, 30)) for n in range(5)]
    dataset = make_dataset(tmp_path, {"test": masks, "train": masks[:2]})
    train = [replace(s, labels=Labels()) if s.split == "train" else s for s in dataset]
    dataset = dataset.with_samples(train)
    encoded = []
    encode = tiny_sam.encode
    monkeypatch.setattr(tiny_sam, "encode", lambda images: encoded.append(len(images)) or encode(images))
    scores = evaluate_sam(tiny_sam, dataset, clicks=1, batch=2)
    # And crops of each object, for a closer look at its box and after its click: one object in each image here.
    assert (sum(encoded), scores["objects"]) == (5 + 5 + 5, 5)
    assert scores["in_context"]["queries"] == 5
    assert "references in context are other images of split 'test'" in scores["notes"]
    assert all(row["image"] not in row["references"] for row in scores["per_query"])
    alone = evaluate_sam(tiny_sam, dataset.with_samples([dataset[0]]), clicks=1)
    assert alone["in_context"] is None
    assert any("no other image shows the category" in note for note in alone["notes"])


def test_mistakes_are_one_clear_message(tmp_path: Path, tiny_sam: Sam):
    empty = rectangle(slice(0, 0), slice(0, 0))
    dataset = make_dataset(tmp_path, {"test": [empty], "val": [rectangle(slice(0, 9), slice(0, 9))]})
    bare = dataset.with_samples([replace(s, labels=Labels()) for s in dataset])
    for data, split, message in (
        (dataset, "tset", r"split 'tset' is empty \(splits: 'test', 'val'\)"),
        (bare, "val", "none of the 1 images of split 'val' has a mask"),
        (dataset, "test", "show no object of at least 0.025%"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate_sam(tiny_sam, data, split)
    with pytest.raises(MaskwrightError, match="limit 0: must be at least 1; clicks -1: must be at least 1"):
        evaluate_sam(tiny_sam, dataset, limit=0, clicks=-1)
    (tmp_path / "images" / "val-0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"val-0\.png"):
        evaluate_sam(tiny_sam, dataset, "val")


# ---------------------------------------------------------------------------------------------------------- command


def test_the_command_prints_a_table_and_writes_numbers_and_a_page(tiny_sam_folder: Path, scene_folder: Path, tmp_path):
    numbers, page = tmp_path / "scores.json", tmp_path / "scores.html"
    command = [sys.executable, "-m", "maskwright", "sam", "evaluate", str(tiny_sam_folder), str(scene_folder)]
    options = ["--limit", "3", "--clicks", "2", "--device", "cpu", "--json", str(numbers), "--report", str(page)]
    done = subprocess.run(command + options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for row in (
        "exact box",
        "exact box, closer look",
        "ellipse in the box",
        "1 click",
        "2 clicks",
        "2 clicks, closer look",
        "in context, 5 references",
        "best threshold",
    ):
        assert row in done.stdout
    scores = json.loads(numbers.read_text())
    assert scores["images"] <= 3
    assert (scores["noc"], "NoC" in done.stdout) == (None, False)
    measured = [scores["box"], scores["closer_look"], *scores["clicks"]]
    assert all(0 <= value <= 1 for row in measured for value in row.values())
    assert scores["trivial"]["ellipse"] > scores["trivial"]["all_foreground"]
    assert scores["in_context"]["split"] == "train"
    html = page.read_text()
    assert "IoU over clicks" in html
    assert "worst: " in html
    assert html.count("<img ") == 3 * min(9, scores["objects"])
    assert f"written: {page}" in done.stdout


def test_the_command_refuses_a_split_without_images(tiny_sam_folder: Path, scene_folder: Path, capsys):
    arguments = ["sam", "evaluate", str(tiny_sam_folder), str(scene_folder), "--device", "cpu"]
    assert cli.main([*arguments, "--split", "nonsense"]) == 1
    assert "split 'nonsense' is empty" in capsys.readouterr().err
    assert cli.main([*arguments, "--limit", "0"]) == 1
    assert "--limit 0: must be at least 1" in capsys.readouterr().err
