"""Heuristic selectors on vectors that can be checked by eye."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwright.nets.selector import cosine, select
from maskwright.nets.selector_names import SelectorName

NAMES: tuple[SelectorName, ...] = ("random", "similar", "similar-foreground", "diverse")

#           east        nearly east  north       west
POOL = torch.tensor([[1.0, 0.0], [2.0, 0.4], [0.0, 3.0], [-1.0, 0.0]])
EAST, NORTH = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.5]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chosen(name: SelectorName, count: int, allowed: list[bool] | None = None, seed: int = 0) -> list[int]:
    """East's references; seen by its object alone, it looks north."""
    mask = torch.tensor([allowed or [True] * 4])
    return select(name, EAST, NORTH, POOL, POOL, mask, count, seeded(seed))[0].tolist()


def test_similar_goes_by_the_angle_of_the_whole_image():
    assert chosen("similar", 4) == [0, 1, 2, 3]
    assert chosen("similar", 2, [False, True, True, True]) == [1, 2]


def test_similar_foreground_goes_by_the_object():
    assert chosen("similar-foreground", 2) == [2, 1]


def test_diverse_starts_near_and_goes_far():
    # After east its opposite is farthest; then north, which is as far from both as can be.
    assert chosen("diverse", 3) == [0, 3, 2]
    assert chosen("diverse", 3) != chosen("similar", 3)
    assert chosen("diverse", 2, [True, True, True, False]) == [0, 2]


def test_diverse_takes_a_copy_before_it_repeats():
    pool = torch.tensor([[1.0, 0.0]] * 3)
    found = select("diverse", EAST, EAST, pool, pool, torch.ones(1, 3, dtype=torch.bool), 3, seeded())
    assert sorted(found[0].tolist()) == [0, 1, 2]


def test_random_depends_on_the_generator_alone():
    assert chosen("random", 3, seed=1) == chosen("random", 3, seed=1)
    assert {tuple(sorted(chosen("random", 2, seed=s))) for s in range(60)} == {
        (a, b) for a in range(4) for b in range(a + 1, 4)
    }
    for name in NAMES[1:]:
        assert chosen(name, 3, seed=1) == chosen(name, 3, seed=2)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_are_repeated(name: SelectorName):
    only = chosen(name, 4, [False, True, False, True])
    assert set(only) == {1, 3}
    assert chosen(name, 3, [False, False, True, False]) == [2, 2, 2]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(NAMES), queries=st.integers(1, 4), entries=st.integers(1, 40))
def test_only_what_is_allowed_and_nothing_twice_without_need(
    data: st.DataObject, name: SelectorName, queries: int, entries: int
):
    seed, count = data.draw(st.integers(0, 1000)), data.draw(st.integers(1, 6))
    generator = seeded(seed)
    allowed = torch.rand(queries, entries, generator=generator) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    allowed[torch.arange(queries), torch.randint(entries, (queries,), generator=generator)] = True
    # Few different vectors, so that copies are common.
    vectors = torch.randint(-1, 2, (2 * entries + 2 * queries, 3), generator=generator).float()
    pool, pool_foreground, query, query_foreground = vectors.split([entries, entries, queries, queries])
    found = select(name, query, query_foreground, pool, pool_foreground, allowed, count, seeded(seed))
    assert found.shape == (queries, count)
    assert allowed.gather(1, found).all()
    for row, usable in zip(found.tolist(), allowed.sum(1).tolist()):
        assert len(set(row)) == min(count, usable)


def test_cosine_against_torch():
    a, b = torch.randn(3, 5, generator=seeded()), torch.randn(4, 5, generator=seeded(1))
    torch.testing.assert_close(cosine(a, b), torch.cosine_similarity(a[:, None], b[None], dim=-1))


def test_mistakes_of_the_caller():
    with pytest.raises(ValueError, match="choose one of random, similar"):
        chosen("nearest", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without any allowed reference"):
        chosen("similar", 2, [False] * 4)
