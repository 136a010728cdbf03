"""Large pools: what the index offers against a look at all entries, and that it depends on nothing but the pool and its own state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.methods.in_context import pool as pool_module
from maskwright.methods.in_context import pool_index as index_module
from maskwright.methods.in_context.pool import Candidates, ReferencePool, needed
from maskwright.nets.selector import cosine, select
from maskwright.nets.selector_names import SelectorName
from maskwright.nets.spnet import Query, make_shortlist
from maskwright.sam.sam import Memory

CHANNELS, CATEGORIES = 12, 3
KINDS = torch.tensor([Kind.MASK, Kind.BOX, Kind.POINT])

Limits = Callable[[int, int], None]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Set the sizes from which on a pool has an index, and a group cells."""

    def set_them(large: int, celled: int) -> None:
        monkeypatch.setattr(pool_module, "LARGE", large)
        monkeypatch.setattr(index_module, "CELLED", celled)

    return set_them


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(count: int, generator: torch.Generator) -> Tensor:
    """Around thirty points."""
    points = torch.randn(30, CHANNELS, generator=seeded(99))
    return points[torch.randint(30, (count,), generator=generator)] + 0.3 * torch.randn(
        count, CHANNELS, generator=generator
    )


def put(pool: ReferencePool, samples: Tensor, seed: int) -> None:
    """An entry of each image; category and kind are functions of its number."""
    generator = seeded(seed)
    whole, foreground = (vectors(len(samples), generator) for _ in range(2))
    memory = Memory(samples[:, None, None, None].float(), samples[:, None].float())
    pool.update(samples, *key_of(samples), memory, whole, foreground, whole[:, :4])


def key_of(samples: Tensor) -> tuple[Tensor, Tensor]:
    return samples % CATEGORIES, KINDS[samples // CATEGORIES % len(KINDS)]


def filled(entries: int, folder: Path | None = None) -> ReferencePool:
    pool = ReferencePool(folder=folder)
    for number, samples in enumerate(torch.arange(entries).split(700)):
        put(pool, samples, number)
    return pool


def some_queries(count: int = 12) -> tuple[tuple[Tensor, Tensor, Tensor], Query]:
    """Half of them are images of the pool."""
    samples = torch.arange(count) * 5
    samples[count // 2 :] += 10_000_000
    categories, kinds = key_of(samples)
    kinds = torch.where(torch.arange(count) % 3 == 0, int(Kind.NONE), kinds)
    generator = seeded(7)
    return (samples, categories, kinds), Query(vectors(count, generator), vectors(count, generator), kinds)


def candidates(pool: ReferencePool, selector: SelectorName, at: Tensor | None = None) -> Candidates:
    keys, query = some_queries()
    if at is not None:
        keys, query = (keys[0][at], keys[1][at], keys[2][at]), query[at]
    return pool.candidates(*keys, query, *needed(selector, 4, 16), seeded())


def offered(found: Candidates) -> list[set[int]]:
    """The places of each query's candidates."""
    return [set(found.in_pool(row.nonzero()[:, 0]).tolist()) for row in found.allowed]


def test_a_small_pool_offers_all_and_leaves_the_random_numbers_alone():
    pool, (keys, query), generator = filled(500), some_queries(), seeded()
    found = pool.candidates(*keys, query, {"whole": 4}, 4, generator)
    assert found.places is None
    assert torch.equal(found.allowed, pool.allowed(*keys))
    assert found.entries.whole is pool.tensors["whole"]
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("selector", ["similar", "similar-foreground", "diverse"])
def test_small_groups_of_a_large_pool_give_what_a_look_at_all_does(limits: Limits, selector):
    (keys, query), exact = some_queries(), filled(2000)
    limits(100, 10_000)
    pool = filled(2000)
    assert pool.index is not None
    found = candidates(pool, selector)
    assert len(found.entries.kind) < 1000
    expected = select(
        selector,
        query.whole,
        query.foreground,
        exact.tensors["whole"],
        exact.tensors["foreground"],
        exact.allowed(*keys),
        4,
        seeded(),
    )
    parts = query.whole, query.foreground, found.entries.whole, found.entries.foreground
    assert torch.equal(found.in_pool(select(selector, *parts, found.allowed, 4, seeded())), expected)


def test_the_shortlist_of_the_policy_is_what_a_look_at_all_gives(limits: Limits):
    (keys, query), exact = some_queries(), filled(2000)
    limits(100, 10_000)
    found = candidates(filled(2000), "policy")
    expected = make_shortlist(query, exact.entries(), exact.allowed(*keys), seeded(), 16, 0)
    shortlist = make_shortlist(query, found.entries, found.allowed, seeded(), 16, 0)
    assert torch.equal(found.in_pool(shortlist.index), expected.index)
    assert torch.equal(shortlist.candidates.memory, expected.candidates.memory)


def test_cells_find_nearly_all_and_offer_nothing_that_is_not_allowed(limits: Limits):
    limits(100, 500)
    pool, (keys, query) = filled(30_000), some_queries()
    assert pool.index is not None
    assert pool.index.cells
    allowed = pool.allowed(*keys)
    near = cosine(query.whole, pool.tensors["whole"]).masked_fill(~allowed, -2).topk(16).indices
    shares = []
    for row, places in enumerate(offered(candidates(pool, "policy"))):
        assert places <= set(allowed[row].nonzero()[:, 0].tolist())
        shares.append(len(places & set(near[row].tolist())) / 16 if places else 1.0)
    assert sum(shares) / len(shares) >= 0.95
    assert torch.equal(pool.choices(*keys), allowed.sum(1))


def test_a_query_is_offered_the_same_whatever_else_is_asked(limits: Limits):
    limits(100, 200)
    pool = filled(4000)
    together = offered(candidates(pool, "policy"))
    for row, places in enumerate(together):
        assert offered(candidates(pool, "policy", torch.tensor([row]))) == [places]


def test_random_references_come_from_everywhere(limits: Limits):
    (keys, query), pool = some_queries(), filled(3000)
    allowed = pool.allowed(*keys)
    for celled in (10, 10_000):  # Drawn by number, and out of a list of all.
        limits(100, celled)
        pool = filled(3000)
        seen: list[set[int]] = [set() for _ in allowed]
        for seed in range(150):
            found = offered(pool.candidates(*keys, query, {}, 8, seeded(seed)))
            for places, more in zip(seen, found):
                assert len(more) >= min(5, int(allowed[0].sum()))
                places |= more
        for row, places in enumerate(seen):
            assert places <= set(allowed[row].nonzero()[:, 0].tolist())
            assert len(places) > 0.4 * int(allowed[row].sum())


def test_the_index_follows_entries_that_move(limits: Limits):
    limits(100, 200)
    pool = filled(3000)
    pool.momentum = 0.0
    samples = torch.arange(0, 3000, 7)
    put(pool, samples, 1234)
    put(pool, torch.arange(3000, 3300), 77)
    assert pool.index is not None
    for name in index_module.VECTORS:
        for (category, kind, of), cells in pool.index.cells.items():
            if of == name:
                its = (pool.tensors["category"] == category) & (pool.tensors["kind"] == kind)
                places = its.nonzero()[:, 0]
                expected = cosine(pool.tensors[name][places], cells.centres).argmax(1)
                assert torch.equal(pool.index.cell_of[name][places].long(), expected)
                for cell, members in enumerate(cells.members):
                    assert list(members) == places[expected == cell].tolist()


def test_a_pool_that_was_loaded_goes_on_as_the_one_that_was_saved(limits: Limits, tmp_path: Path):
    limits(1000, 200)
    pool, other = filled(2500), ReferencePool(folder=tmp_path)
    other.columns.limit = 0
    put(pool, torch.arange(0, 2500, 3), 500)
    assert pool.index is not None
    other.load_state_dict({name: value.clone() for name, value in pool.state_dict().items()}, pool.index.state_dict())
    for seed in range(6):
        for one in (pool, other):
            put(one, torch.arange(seed * 400, seed * 400 + 700), seed)
        first, second = candidates(pool, "policy"), candidates(other, "policy")
        assert first.places is not None
        assert second.places is not None
        assert torch.equal(first.places, second.places)
        assert torch.equal(first.allowed, second.allowed)
        assert torch.equal(first.entries.whole, second.entries.whole)
    assert other.index is not None
    first, second = pool.index.state_dict(), other.index.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_entry_whose_label_becomes_finer_is_offered_to_others(limits: Limits):
    limits(100, 200)
    pool = filled(1000)
    box = int((key_of(torch.arange(1000))[1] == Kind.BOX).nonzero()[0])
    category = box % CATEGORIES
    query = Query(pool.tensors["whole"][box][None], pool.tensors["foreground"][box][None], torch.tensor([Kind.BOX]))
    ask = torch.tensor([5_000_000]), torch.tensor([category]), torch.tensor([int(Kind.BOX)])
    assert box not in offered(pool.candidates(*ask, query, {"whole": 3}))[0]
    vector = pool.tensors["whole"][box][None].clone()
    memory = Memory(torch.ones(1, 1, 1, 1), torch.ones(1, 1))
    key = torch.tensor([box]), torch.tensor([category]), torch.tensor([int(Kind.MASK)])
    pool.update(*key, memory, vector, vector, vector[:, :4])
    assert box in offered(pool.candidates(*ask, query, {"whole": 3}))[0]


def test_a_query_that_may_refer_to_nothing(limits: Limits):
    limits(100, 200)
    pool, (_, query) = filled(1000), some_queries()
    ask = torch.tensor([1]), torch.tensor([CATEGORIES + 5]), torch.tensor([int(Kind.NONE)])
    found = pool.candidates(*ask, query[torch.tensor([0])], {"whole": 4, "foreground": 4}, 4, seeded())
    assert not found.allowed.any()
    assert pool.choices(*ask).tolist() == [0]
