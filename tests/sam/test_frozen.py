"""The frozen decoder's numbers against ``Sam.decode``, which is checked against Meta's code."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from maskwright.sam import frozen
from maskwright.sam.frozen import FrozenDecoder
from maskwright.sam.prompts import PADDING, Prompts
from maskwright.sam.sam import Sam

IMAGES = torch.tensor([2, 0, 1, 2])


@pytest.fixture
def sam(tiny_sam: Sam) -> Sam:
    """In float64, so that only algebra can make a difference; with biases and norms that are not at their start."""
    generator = torch.Generator().manual_seed(0)
    for parameter in tiny_sam.model.mask_decoder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return tiny_sam.double()


def embed(sam: Sam):
    images = torch.rand(3, 3, sam.size, sam.size, generator=torch.Generator().manual_seed(1), dtype=sam.dtype)
    with torch.no_grad():
        return sam.encode(images)


def prompts(sets: int, count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(len(IMAGES), sets, count, 2, generator=generator) * size
    return points, torch.randint(0, 4, points.shape[:3], generator=generator)


def last_answer(sam: Sam) -> torch.Tensor:
    return torch.randn(len(IMAGES), sam.size // 4, sam.size // 4, generator=torch.Generator().manual_seed(3)) * 4


def expected(sam: Sam, points, labels, previous, multimask):
    last = None if previous is None else previous[:, None].expand(-1, labels.shape[1], -1, -1)
    with torch.no_grad():
        masks = sam.decode(embed(sam)[IMAGES], Prompts(points.to(sam.dtype), labels), last, multimask)
    return masks.best.float(), masks.best_iou.float()


def assert_equal(found, wanted, atol: float = 1e-6) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("with_previous", [False, True])
@pytest.mark.parametrize(("sets", "count"), [(1, 1), (1, 4), (3, 2), (1, 0)])
def test_answers_are_those_of_sam(sam: Sam, sets: int, count: int, with_previous: bool, multimask: bool) -> None:
    points, labels = prompts(sets, count, sam.size)
    previous = last_answer(sam) if with_previous else None
    decoder = FrozenDecoder(sam)
    found = decoder.decode(decoder.prepare(embed(sam)), IMAGES, points, labels, previous, multimask)
    assert_equal(found, expected(sam, points, labels, previous, multimask))


@pytest.mark.parametrize("threshold", [0.0, 2.0, None])
def test_the_single_mask_gives_way_as_in_sam(sam: Sam, threshold: float | None) -> None:
    decoder = sam.model.mask_decoder
    decoder.dynamic_multimask_via_stability = threshold is not None
    decoder.dynamic_multimask_stability_thresh = threshold
    points, labels = prompts(2, 2, sam.size)
    kept = FrozenDecoder(sam)
    found = kept.decode(kept.prepare(embed(sam)), IMAGES, points, labels, last_answer(sam))
    assert_equal(found, expected(sam, points, labels, last_answer(sam), False))


def test_answers_do_not_depend_on_the_prompts_of_others(sam: Sam) -> None:
    points, labels = prompts(2, 3, sam.size)
    decoder = FrozenDecoder(sam)
    cells, previous = decoder.prepare(embed(sam)), last_answer(sam)
    labels[0, :, 1:], labels[1, 0, 0], labels[2] = PADDING, PADDING, PADDING
    together = decoder.decode(cells, IMAGES, points, labels, previous)
    for row in range(len(IMAGES)):
        for column in range(2):
            given = labels[row, column] != PADDING
            index = IMAGES[row : row + 1]
            alone = points[row, column, given][None, None], labels[row, column, given][None, None]
            answer = decoder.decode(cells, index, *alone, previous[row : row + 1])
            assert_equal((together[0][row, column], together[1][row, column]), (answer[0][0, 0], answer[1][0, 0]))


def test_answers_do_not_depend_on_the_chunks(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    points, labels = prompts(2, 2, sam.size)
    decoder = FrozenDecoder(sam)
    cells, previous = decoder.prepare(embed(sam)), last_answer(sam)
    whole = decoder.decode(cells, IMAGES, points, labels, previous)
    for budget in (1, 3 * 2 * cells.low.shape[1]):
        monkeypatch.setattr(frozen, "CPU_CELLS", budget)
        assert_equal(decoder.decode(cells, IMAGES, points, labels, previous), whole)


def test_the_prepared_images_are_not_written_to(sam: Sam) -> None:
    decoder = FrozenDecoder(sam)
    cells, before = decoder.prepare(embed(sam)), decoder.prepare(embed(sam))
    decoder.decode(cells, IMAGES, *prompts(1, 2, sam.size), last_answer(sam))
    assert all(torch.equal(getattr(cells, name), getattr(before, name)) for name in ("low", "high1", "high0"))


def test_the_embedding_is_kept_as_it_is(sam: Sam) -> None:
    embedding = embed(sam)
    cells = FrozenDecoder(sam).prepare(embedding)
    assert torch.equal(cells.features, embedding.low)
    assert cells.nbytes == sum(t.nbytes for t in (embedding.low, embedding.high0, embedding.high1))
    assert len(cells[1:]) == 2
    with pytest.raises(ValueError, match="conditioned on references"):
        FrozenDecoder(sam).prepare(replace(embedding, conditioned=True))


def test_one_decoder_for_each_sam(tiny_sam: Sam) -> None:
    first = FrozenDecoder.of(tiny_sam)
    assert FrozenDecoder.of(tiny_sam) is first
    assert FrozenDecoder.of(copy.deepcopy(tiny_sam)) is not first
    assert FrozenDecoder.of(tiny_sam.double()).dtype == torch.float64


def test_nano_in_float32() -> None:
    sam = Sam.load("nano", size=128)
    points, labels = prompts(2, 3, sam.size)
    decoder = FrozenDecoder(sam)
    found = decoder.decode(decoder.prepare(embed(sam)), IMAGES, points, labels, last_answer(sam))
    assert_equal(found, expected(sam, points, labels, last_answer(sam), False), atol=2e-4)
