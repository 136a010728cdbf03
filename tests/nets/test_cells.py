"""Cells of near vectors: what they find, that they follow vectors that move, and that nothing but vectors and cells decides it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskwright.nets import cells as module
from maskwright.nets.cells import SEARCHED, Cells, nearest_centre, numbers_in
from maskwright.nets.selector import cosine


def grouped(count: int, seed: int = 0, channels: int = 24) -> Tensor:
    """Vectors around 60 points, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(60, channels, generator=torch.Generator().manual_seed(99))
    near = points[torch.randint(60, (count,), generator=generator)]
    scale = 0.2 + 3 * torch.rand(count, 1, generator=generator)
    return (near + 0.4 * torch.randn(count, channels, generator=generator)) * scale


def test_the_nearest_are_found():
    vectors, queries = grouped(20_000), grouped(40, seed=1)
    cells, _ = Cells.fit(vectors, torch.arange(20_000))
    found = []
    for query in queries:
        near = cells.near(query, 48)
        assert len(near) < 4000  # A fifth at most.
        nearest = cosine(query[None], vectors)[0].topk(48).indices
        found.append(torch.isin(nearest, near).float().mean())
    assert torch.stack(found).mean() >= 0.95


def test_each_vector_is_in_the_cell_of_its_nearest_centre_once():
    vectors = grouped(3000)
    numbers = torch.arange(0, 3000, 3)
    cells, of = Cells.fit(vectors, numbers)
    assert torch.equal(numbers_in(cells.members), numbers)
    assert torch.equal(of, cosine(vectors[numbers], cells.centres).argmax(1))
    torch.testing.assert_close(cells.centres.norm(dim=1), torch.ones(len(cells.centres)))
    for cell, members in enumerate(cells.members):
        assert (of[torch.isin(numbers, torch.tensor(members, dtype=torch.long))] == cell).all()


def test_as_many_cells_as_are_needed():
    vectors = grouped(2000)
    cells, _ = Cells.fit(vectors, torch.arange(2000))
    assert len(cells.centres) > SEARCHED
    assert len(cells.near(vectors[0], 1)) < 1900 <= len(cells.near(vectors[0], 1900))
    assert torch.equal(cells.near(vectors[0], 5000), torch.arange(2000))


def test_a_vector_moves_to_another_cell():
    vectors = grouped(1000)
    cells, of = Cells.fit(vectors, torch.arange(1000))
    there = nearest_centre(cells.centres, -vectors[7:8])
    cells.remove(7, int(of[7]))
    cells.add(7, int(there))
    assert 7 in cells.near(-vectors[7], 1)
    assert 7 not in cells.members[int(of[7])]
    assert list(cells.members[int(there)]) == sorted(cells.members[int(there)])


def test_made_again_from_its_parts_it_finds_the_same(monkeypatch: pytest.MonkeyPatch):
    vectors = grouped(3000)
    cells, of = Cells.fit(vectors, torch.arange(3000))
    again = Cells(cells.centres, torch.arange(3000), of, cells.fitted)
    monkeypatch.setattr(module, "AT_ONCE", 100)
    other, same = Cells.fit(vectors, torch.arange(3000))
    assert torch.equal(of, same)
    for query in grouped(10, seed=2):
        near = cells.near(query, 48)
        assert torch.equal(again.near(query, 48), near)
        assert torch.equal(other.near(query, 48), near)


def test_copies_of_one_vector():
    cells, _ = Cells.fit(torch.ones(500, 4), torch.arange(500))
    assert torch.equal(cells.near(torch.ones(4), 10), torch.arange(500))
