"""Clicks in batches against one image at a time through ``Sam.decode``, and measures against hand-worked answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from maskwright.data.dataset import Dataset
from maskwright.data.geometry import on_canvas
from maskwright.data.labels import IGNORE, Labels, Mask, Sample
from maskwright.data.scenes import render
from maskwright.errors import DataError
from maskwright.rl.bank import Bank, Truth
from maskwright.rl.clicks import (
    ClickState,
    canvas_dice,
    click,
    clicked_pixels,
    counterfactual,
    dice,
    entropy,
    first_click,
    oracle_click,
    stability,
    start,
    start_box,
    start_mask,
)
from maskwright.sam.precompute import signature
from maskwright.sam.prompts import Prompts
from maskwright.sam.sam import Sam
from maskwright.sam.store import EmbeddingStore
from tests.rl.test_oracle import reference_click


@pytest.fixture
def bank(tiny_sam: Sam) -> Bank:
    return Bank.of_scenes(tiny_sam, render(3, tiny_sam.size, seed=3, difficulty=0.2), objects=2)


def rows_of(bank: Bank) -> torch.Tensor:
    return torch.arange(len(bank))


def started(sam: Sam, bank: Bank) -> ClickState:
    place, label, _ = first_click(bank, rows_of(bank))
    return start(sam, bank, rows_of(bank), place, label)


def slow_answers(sam: Sam, bank: Bank, row: int, points: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """The answers to the clicks (T, 2), (T,) on one target, one after the other."""
    embedding, previous, answers = bank.embed(torch.tensor([row])), None, []
    for count in range(1, len(points) + 1):
        given = Prompts(points[None, None, :count], labels[None, None, :count])
        with torch.no_grad():
            masks = sam.decode(embedding, given, previous, multimask=count == 1)
        previous = masks.best
        answers.append(previous[0, 0])
    return answers


def test_a_batch_of_episodes_equals_one_target_at_a_time(tiny_sam: Sam, bank: Bank) -> None:
    state = started(tiny_sam, bank)
    generator = torch.Generator().manual_seed(0)
    seen = [state]
    for step in range(3):
        place = torch.rand(len(bank), 2, generator=generator) * bank.size
        active = torch.arange(len(bank)) >= step  # Prompts of different length from here on.
        seen.append(click(tiny_sam, bank, seen[-1], place, torch.arange(len(bank)) % 2, active))
    last = seen[-1]
    assert last.clicks.tolist() == [1 + min(row + 1, 3) for row in range(len(bank))]
    for row in range(len(bank)):
        given = int(last.clicks[row])
        answers = slow_answers(tiny_sam, bank, row, last.points[row, :given], last.labels[row, :given])
        torch.testing.assert_close(last.logits[row], answers[-1], atol=1e-4, rtol=1e-4)


def test_who_is_not_active_or_done_keeps_everything(tiny_sam: Sam, bank: Bank) -> None:
    state = replace(started(tiny_sam, bank), done=torch.arange(len(bank)) == 1)
    place, label, _ = oracle_click(bank, state)
    after = click(tiny_sam, bank, state, place, label, torch.arange(len(bank)) != 0)
    for row in (0, 1):
        assert all(torch.equal(getattr(after, name)[row], getattr(state, name)[row]) for name in ("logits", "points"))
    assert after.clicks.tolist() == [1, 1] + [2] * (len(bank) - 2)
    nobody = torch.zeros(len(bank), dtype=torch.bool)
    assert click(tiny_sam, bank, state, place, label, nobody) is state


def test_counterfactual_clicks_are_what_click_gives(tiny_sam: Sam, bank: Bank) -> None:
    state = started(tiny_sam, bank)
    places = torch.rand(len(bank), 5, 2, generator=torch.Generator().manual_seed(1)) * bank.size
    labels = torch.arange(5).remainder(2).expand(len(bank), -1)
    logits, iou = counterfactual(tiny_sam, bank, state, places, labels)
    assert logits.shape == (len(bank), 5, bank.size // 4, bank.size // 4)
    for number in range(5):
        after = click(tiny_sam, bank, state, places[:, number], labels[:, number])
        torch.testing.assert_close(logits[:, number], after.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou[:, number], after.iou, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        dice(bank, state.rows, logits), torch.stack([dice(bank, state.rows, logits[:, m]) for m in range(5)], 1)
    )


def test_a_box_and_a_mask_to_start_from(tiny_sam: Sam, bank: Bank) -> None:
    boxes = torch.tensor([[8.0, 8.0, 40.0, 48.0]]).expand(len(bank), -1)
    state = start_box(tiny_sam, bank, rows_of(bank), boxes)
    with torch.no_grad():
        wanted = tiny_sam.decode(bank.embed(rows_of(bank)), Prompts.of_boxes(boxes[:, None]))
    torch.testing.assert_close(state.logits, wanted.best[:, 0], atol=1e-4, rtol=1e-4)
    assert (state.tokens.tolist(), state.clicks.tolist()) == ([2] * len(bank), [0] * len(bank))
    given = torch.randn(len(bank), bank.size // 4, bank.size // 4)
    state = start_mask(tiny_sam, bank, rows_of(bank), given)
    assert torch.equal(state.logits, given)
    place, label, _ = oracle_click(bank, state)
    after = click(tiny_sam, bank, state, place, label)
    with torch.no_grad():
        asked = Prompts(place[:, None, None], label[:, None, None])
        wanted = tiny_sam.decode(bank.embed(rows_of(bank)), asked, given[:, None])
    torch.testing.assert_close(after.logits, wanted.best[:, 0], atol=1e-4, rtol=1e-4)


def test_a_state_that_is_full_is_refused(tiny_sam: Sam, bank: Bank) -> None:
    place, label, _ = first_click(bank, rows_of(bank))
    state = start(tiny_sam, bank, rows_of(bank), place, label, slots=1)
    with pytest.raises(ValueError, match="all 1 slots"):
        click(tiny_sam, bank, state, place, label)


def test_choosing_and_putting_back(tiny_sam: Sam, bank: Bank) -> None:
    before = started(tiny_sam, bank)
    place, label, _ = oracle_click(bank, before)
    after = click(tiny_sam, bank, before, place, label)
    keep = torch.arange(len(bank)) % 2 == 0
    chosen = after.where(keep, before)
    assert chosen.clicks.tolist() == [2 if k else 1 for k in keep.tolist()]
    assert torch.equal(chosen.logits[1], before.logits[1])
    assert torch.equal(before.put(torch.tensor([1]), after[torch.tensor([1])]).logits[1], after.logits[1])


# --------------------------------------------------------------------------------------------------------- measures


def hand_made(bank: Bank, truth: torch.Tensor, known: torch.Tensor) -> Bank:
    return replace(bank, truth=Truth.of(truth, known), image=torch.zeros(len(truth), dtype=torch.long))


def test_dice_is_that_of_the_enlarged_mask(bank: Bank) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (6, bank.size, bank.size)
    truth, known = torch.rand(shape, generator=generator) < 0.4, torch.rand(shape, generator=generator) < 0.8
    logits = torch.randn(6, bank.size // 4, bank.size // 4, generator=generator)
    truth[4], logits[4], logits[5] = False, -1.0, -1.0
    made = hand_made(bank, truth, known)
    found = logits.repeat_interleave(4, 1).repeat_interleave(4, 2) > 0
    for row, score in enumerate(dice(made, torch.arange(6), logits).tolist()):
        a, b = found[row][known[row]], truth[row][known[row]]
        wanted = 1.0 if not (a | b).any() else 2 * int((a & b).sum()) / int(a.sum() + b.sum())
        assert score == pytest.approx(wanted, abs=1e-5)
    smooth = on_canvas(logits, bank.size)
    for row, score in enumerate(canvas_dice(made, torch.arange(6), logits).tolist()):
        a, b = smooth[row][known[row]], truth[row][known[row]]
        assert score == pytest.approx(1.0 if row == 4 else 2 * int((a & b).sum()) / int(a.sum() + b.sum()))


def test_truth_on_the_grid() -> None:
    truth, known = torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8, dtype=torch.bool)
    truth[0, :4, :2] = truth[0, 4:, 4:] = True
    known[0, 4:, :4] = known[0, 4:6, 4:] = False
    made = Truth.of(truth, known)
    assert made.area.tolist() == [[[0.5, 0.0], [0.0, 0.5]]]
    assert made.counted.tolist() == [[[1.0, 1.0], [0.0, 0.5]]]
    assert made.hard.tolist() == [[[True, False], [False, True]]]


def test_stability_and_entropy() -> None:
    logits = torch.tensor([[[2.0, 0.5], [-0.5, -3.0]], [[-9.0, -9.0], [-9.0, -9.0]]])
    assert stability(logits).tolist() == pytest.approx([1 / 3, 1.0])
    p = torch.sigmoid(logits.double())
    wanted = -(p * p.log2() + (1 - p) * torch.log2(1 - p))
    torch.testing.assert_close(entropy(logits).double(), wanted, atol=1e-6, rtol=1e-4)
    assert entropy(torch.tensor([0.0, 200.0, -200.0])).tolist() == pytest.approx([1.0, 0.0, 0.0])


# ----------------------------------------------------------------------------------------------------------- oracle


def test_the_oracle_of_a_state_equals_the_slow_reference(tiny_sam: Sam, bank: Bank) -> None:
    generator = torch.Generator().manual_seed(5)
    truth = bank.known_truth
    known = torch.rand(truth.known.shape, generator=generator) < 0.9
    bank = replace(bank, truth=Truth.of(truth.canvas, known))
    state = started(tiny_sam, bank)
    for _ in range(3):
        place, label, valid = oracle_click(bank, state)
        true, found = bank.known_truth.canvas.numpy(), on_canvas(state.logits, bank.size).numpy()
        for row in range(len(state)):
            done = np.zeros((bank.size, bank.size), bool)
            for (x, y), kind in zip(state.points[row].tolist(), state.labels[row].tolist(), strict=True):
                if kind in (0, 1):
                    done[int(y), int(x)] = True
            counted = np.where(known[row].numpy(), found[row], true[row])
            point, kind = reference_click(counted, true[row], done)
            assert bool(valid[row]) == (point is not None)
            if point is not None:
                assert (tuple(place[row].tolist()), int(label[row])) == (point, kind)
        state = click(tiny_sam, bank, state, place, label, valid)


def test_first_clicks_lie_on_their_objects(bank: Bank) -> None:
    place, label, valid = first_click(bank, rows_of(bank))
    x, y = place.long().unbind(1)
    assert valid.all()
    assert (label == 1).all()
    assert bank.known_truth.canvas[rows_of(bank), y, x].all()


def test_clicked_pixels_know_corners_and_free_slots_from_clicks() -> None:
    points = torch.tensor([[[0.5, 0.5], [3.5, 1.5], [6.0, 7.9]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    labels = torch.tensor([[2, 1, 0], [-1, -1, -1]])
    rows = torch.arange(2)
    state = ClickState(rows, points, labels, torch.zeros(2, 2, 2), torch.zeros(2), torch.zeros(2), rows > 9)
    assert clicked_pixels(state, 8).nonzero().tolist() == [[0, 1, 3], [0, 7, 6]]


# ------------------------------------------------------------------------------------------------------------- banks


def test_scenes_give_their_largest_objects(tiny_sam: Sam) -> None:
    scenes = render(4, tiny_sam.size, seed=8, difficulty=0.2)
    bank = Bank.of_scenes(tiny_sam, scenes, objects=3)
    areas = bank.known_truth.canvas.sum((1, 2))
    for image in range(4):
        sizes = torch.bincount(scenes.instances[image].flatten())[1:].sort(descending=True).values
        kept = sizes[:3][sizes[:3] >= 2]
        assert areas[bank.image == image].tolist() == kept.tolist()
    with torch.no_grad():
        wanted = tiny_sam.encode((scenes.images * 255).round() / 255)[bank.image]
    torch.testing.assert_close(bank.embed(rows_of(bank)).low, wanted.low, atol=1e-5, rtol=1e-4)


def test_banks_one_after_the_other(tiny_sam: Sam, bank: Bank) -> None:
    other = Bank.of_scenes(tiny_sam, render(2, tiny_sam.size, seed=9, difficulty=0.2))
    both = Bank.cat([bank, other, bank])
    assert both.names == bank.names + other.names + bank.names
    for part, rows in zip((bank, other, bank), torch.arange(len(both)).split([len(bank), len(other), len(bank)])):
        assert torch.equal(both.embed(rows).high0, part.embed(rows_of(part)).high0)
        assert torch.equal(both.known_truth.area[rows], part.known_truth.area)
        place, label, _ = first_click(part, rows_of(part))
        wanted = start(tiny_sam, part, rows_of(part), place, label)
        torch.testing.assert_close(
            start(tiny_sam, both, rows, place, label).logits, wanted.logits, atol=1e-5, rtol=1e-4
        )
    with pytest.raises(ValueError, match="some have not"):
        Bank.cat([bank, replace(other, truth=None)])


def write(folder, kind: str, values: np.ndarray) -> Dataset:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*values.shape, 3), np.uint8)).save(folder / "a.png")
    Image.fromarray(values.astype(np.uint16 if kind == "instance" else np.uint8)).save(folder / "m.png")
    labelled = Sample("a", "a.png", "train", Labels(mask=Mask("m.png", kind)))
    return Dataset(folder, ("background", "cat", "dog"), (labelled, Sample("b", "a.png")))


def test_a_semantic_mask_gives_a_target_for_each_category(tiny_sam: Sam, tmp_path) -> None:
    values = np.zeros((32, 128), np.uint8)
    values[:16, :64], values[16:, 64:], values[:, 100:], values[0, 70] = 1, 2, IGNORE, 1
    bank = Bank.of_dataset(tiny_sam, write(tmp_path, "semantic", values))
    assert (bank.names, bank.tiny) == (("a/1", "a/2"), 0)
    truth = bank.known_truth
    assert truth.canvas[0].float().mean() == pytest.approx((16 * 64) / (32 * 128), abs=0.01)
    assert truth.known.float().mean() == pytest.approx(100 / 128)
    only = Bank.of_dataset(tiny_sam, write(tmp_path, "semantic", values), category=2)
    assert only.names == ("a/2",)
    assert torch.equal(only.known_truth.canvas[0], truth.canvas[1])
    assert torch.equal(bank.select(torch.tensor([1])).known_truth.canvas, only.known_truth.canvas)


def test_an_instance_mask_gives_a_target_for_each_object(tiny_sam: Sam, tmp_path) -> None:
    values = np.zeros((64, 64), np.uint16)
    values[:8, :8], values[32:, 32:], values[20, 20] = 300, 7, 9
    dataset = write(tmp_path, "instance", values)
    bank = Bank.of_dataset(tiny_sam, dataset)
    assert bank.names == ("a/7", "a/300")
    assert bank.tiny == 1  # One pixel alone is too small, which is counted.
    assert Bank.cat([bank, bank]).tiny == 2
    assert Bank.of_dataset(tiny_sam, dataset, objects=1).tiny == 1
    with pytest.raises(DataError, match="shows an object of category 2"):
        Bank.of_dataset(tiny_sam, dataset, category=2)


def test_few_of_many_objects_lie_all_over_the_image(tiny_sam: Sam, tmp_path) -> None:
    values = np.zeros((64, 64), np.uint16)
    for number in range(9):
        values[number * 7 : number * 7 + 6, :10] = number + 1
    dataset = write(tmp_path, "instance", values)
    assert Bank.of_dataset(tiny_sam, dataset, objects=3).names == ("a/1", "a/5", "a/9")
    assert len(Bank.of_dataset(tiny_sam, dataset, objects=9)) == 9


def test_parts_hold_no_more_than_the_memory_and_all_together(tiny_sam: Sam, scene_folder) -> None:
    dataset = Dataset.load(scene_folder)
    whole = Bank.of_dataset(tiny_sam, dataset)
    memory = int(whole.nbytes / 2.5)
    parts = list(Bank.parts(tiny_sam, dataset, memory=memory))
    assert len(parts) > 2
    assert all(part.nbytes <= memory for part in parts)
    together = Bank.cat(parts)
    assert together.names == whole.names
    assert torch.equal(together.image, whole.image)
    assert torch.equal(together.known_truth.canvas, whole.known_truth.canvas)
    assert torch.allclose(together.embedding.low, whole.embedding.low, atol=1e-5)
    assert Bank.of_dataset(tiny_sam, dataset, memory=memory).names == parts[0].names
    assert len(next(Bank.parts(tiny_sam, dataset, memory=1)).pixels) == 1  # One image at least.


def test_an_image_of_tiny_objects_alone_is_counted_too(tiny_sam: Sam, tmp_path) -> None:
    values = np.zeros((512, 512), np.uint16)
    values[::64, ::64] = np.arange(1, 65).reshape(8, 8)  # some of them have no pixel on a canvas of 64
    values[100:200, 100:200] = 70
    dataset = write(tmp_path, "instance", values)
    assert Bank.of_dataset(tiny_sam, dataset).tiny == len(np.unique(values)) - 2
    assert next(Bank.parts(tiny_sam, dataset, memory=1)).tiny == len(np.unique(values)) - 2


def test_embeddings_come_out_of_the_store(
    tiny_sam: Sam, scene_folder, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.load(scene_folder).split("test")
    store = EmbeddingStore(tmp_path / "store", signature(tiny_sam))
    made = Bank.of_dataset(tiny_sam, dataset, store=store)
    monkeypatch.setattr(Sam, "encode", lambda *_: pytest.fail("encoded again"))
    read = Bank.of_dataset(tiny_sam, dataset, store=store)
    assert torch.equal(made.cells.high0, read.cells.high0)
    assert made.names == read.names


def test_all_unreadable_files_are_named(tiny_sam: Sam, tmp_path) -> None:
    dataset = write(tmp_path, "semantic", np.ones((8, 8), np.uint8))
    twice = dataset.with_samples([dataset[0], replace(dataset[0], id="c", image="gone.png")])
    (tmp_path / "m.png").write_bytes(b"no mask")
    with pytest.raises(DataError) as caught:
        Bank.of_dataset(tiny_sam, twice)
    assert len(caught.value.problems) == 2


def test_without_truth_there_is_no_score(tiny_sam: Sam) -> None:
    bank = Bank.of_images(tiny_sam, torch.rand(2, 3, 64, 64))
    state = start(tiny_sam, bank, torch.arange(2), torch.full((2, 2), 32.0), torch.ones(2, dtype=torch.long))
    with pytest.raises(ValueError, match="without truth"):
        dice(bank, state.rows, state.logits)
    with pytest.raises(ValueError, match=r"images \(M, 3, 64, 64\)"):
        Bank.of_images(tiny_sam, torch.rand(2, 3, 32, 32))
