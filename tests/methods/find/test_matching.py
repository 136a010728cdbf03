"""The map from cells to "looks like the object": against a plain solver, without examples that are left out, on what can be told apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from maskwright.methods.find.matching import CELLS, Matcher, Sums, cells_of, top
from maskwright.sam.sam import Embedding


def planted(count: int, seed: int, empty: int = 0) -> tuple[Tensor, Tensor]:
    """Cells (N, 5, 8, 8) in which a square differs in one channel, and its shares; the last ``empty`` show none."""
    random = torch.Generator().manual_seed(seed)
    shares = torch.zeros(count, 8, 8)
    for number in range(count - empty):
        y, x = torch.randint(0, 5, (2,), generator=random).tolist()
        shares[number, y : y + 3, x : x + 3] = 1
    cells = torch.randn(count, 5, 8, 8, generator=random)
    cells[:, 2] += 4 * shares
    return cells, shares


def sums(cells: Tensor, shares: Tensor) -> Sums:
    return Sums.of(cells, shares, torch.ones_like(shares))


def test_it_finds_the_square_in_images_that_it_has_not_seen() -> None:
    matcher = Matcher.fit(sums(*planted(6, 0)))
    cells, shares = planted(20, 1)
    found = matcher.map(cells) > matcher.threshold
    dice = 2 * (found & (shares > 0)).sum() / (found.sum() + shares.sum())
    assert dice > 0.9
    assert matcher.own > 0.85


def test_the_solution_is_that_of_weighted_least_squares() -> None:
    cells, shares = planted(4, 0)
    made = sums(cells, shares)
    rows = made.rows.flatten(0, 1).numpy()
    y = shares.flatten().double().numpy()
    weight = y * 0.5 / y.sum() + (1 - y) * 0.5 / (1 - y).sum()
    penalty = 1 / (1 + 0.5 * 4)
    extended = np.concatenate([rows * np.sqrt(weight)[:, None], np.sqrt(penalty) * np.eye(rows.shape[1])])
    target = np.concatenate([(2 * y - 1) * np.sqrt(weight), np.zeros(rows.shape[1])])
    expected = np.linalg.lstsq(extended, target, rcond=None)[0]
    np.testing.assert_allclose(made.solve(torch.ones(4, dtype=torch.bool)).numpy(), expected, atol=1e-9)


def test_maps_of_cells_as_they_are_equal_those_of_standardised_rows() -> None:
    cells, shares = planted(5, 0)
    made = sums(cells, shares)
    matcher = Matcher.fit(made)
    expected = (made.rows @ made.solve(torch.ones(5, dtype=torch.bool))).view(5, 8, 8)
    torch.testing.assert_close(matcher.map(cells).double(), expected, atol=1e-4, rtol=0)


def test_an_example_that_is_left_out_has_no_say() -> None:
    cells, shares = planted(5, 0, empty=1)
    chosen = torch.tensor([True, True, False, True, True])
    other = cells.clone()
    other[2] = 100 * torch.randn(5, 8, 8)
    first = Matcher.fit(sums(cells[chosen], shares[chosen]))
    made = sums(cells, shares)
    # The same standardisation, so that only the choice differs.
    left_out = Matcher.fit(made, chosen)
    same = Matcher.fit(
        Sums.of(cells, torch.where(chosen[:, None, None], shares, 1 - shares), torch.ones_like(shares)), chosen
    )
    assert torch.equal(left_out.weights, same.weights)
    assert left_out.examples == first.examples == 3
    agreement = torch.corrcoef(torch.stack([left_out.map(cells).flatten(), first.map(cells).flatten()]))[0, 1]
    assert agreement > 0.99


def test_unknown_pixels_teach_nothing() -> None:
    cells, shares = planted(3, 0)
    known = torch.ones_like(shares)
    known[:, :, 4:] = 0
    wrong = torch.where(known > 0, shares, 1 - shares)
    first, second = (Matcher.fit(Sums.of(cells, each, known)) for each in (shares, wrong))
    torch.testing.assert_close(first.weights, second.weights)
    assert first.threshold == second.threshold


def test_a_single_example_gives_a_map_and_no_halves() -> None:
    cells, shares = planted(1, 0)
    matcher = Matcher.fit(sums(cells, shares))
    assert matcher.half_maps(cells).shape == (1, 0, 8, 8)
    assert Matcher.fit(sums(*planted(2, 0))).half_maps(cells).shape == (1, 2, 8, 8)


def test_cells_do_not_depend_on_the_scale_of_an_image() -> None:
    torch.manual_seed(0)
    embedding = Embedding(torch.randn(2, 4, 64, 64), torch.randn(2, 8, 32, 32), torch.randn(2, 16, 16, 16))
    louder = Embedding(embedding.high0, 3 * embedding.high1, 5 * embedding.low)
    assert cells_of(embedding).shape == (2, 24, CELLS, CELLS)
    torch.testing.assert_close(cells_of(embedding), cells_of(louder))


def test_the_top_is_the_mean_of_the_highest_fiftieth() -> None:
    maps = torch.arange(100.0).view(1, 10, 10)
    assert float(top(maps)[0]) == 98.5
