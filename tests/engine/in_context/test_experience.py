"""Experience with single references: it finds what carries over to other images, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.engine.in_context.experience import Experience, Table, fit, gather
from maskwright.engine.in_context.selection import Judge
from maskwright.nets.spnet import Entries, Query, SPNet, candidates

CHANNELS = 12


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(dice: Tensor, vectors: Tensor, seed: int = 0) -> Table:
    """Two views of each image; an image is its own entry, and is never shown itself. Similarity says nothing."""
    queries = len(dice)
    image = torch.arange(queries) // 2
    known = image[:, None] != torch.arange(dice.shape[1])
    start = torch.randn(dice.shape, generator=seeded(seed + 99))
    return Table(vectors, image, torch.ones(queries, dtype=torch.long), dice.clamp(0, 1), known, start)


def made(kind: str, queries: int = 80, entries: int = 40, seed: int = 0) -> Table:
    generator = seeded(seed)
    vectors = torch.randn(queries, CHANNELS, generator=generator) + 20
    noise = 0.02 * torch.randn(queries, entries, generator=generator)
    if kind == "quality":
        return table(0.5 + 0.1 * torch.randn(entries, generator=generator) + noise, vectors)
    if kind == "sides":
        # One half of the entries helps what lies on one side, the other half what lies on the other.
        side = (vectors[:, :1] > 20).float() * 2 - 1
        helps = (torch.arange(entries) % 2).float() * 2 - 1
        return table(0.5 + 0.1 * side * helps + noise, vectors)
    return table(0.5 + 5 * noise, vectors)


def first(experience: Experience, own: Table) -> float:
    chosen = (own.start + experience.logits(own.vectors)).argmax(1, keepdim=True)
    return float(own.dice.gather(1, chosen).mean())


@pytest.mark.parametrize("kind", ["quality", "sides"])
def test_what_carries_over_is_found(kind: str):
    experience = fit(made(kind))
    assert experience.strength > 0
    assert experience.held_out[1] > experience.held_out[0] + 0.05
    # New queries of the same kind, the entries being the same: as good as was promised.
    new = made(kind, seed=0)
    fresh = made(kind, seed=1)
    if kind == "sides":
        new = fresh
    before = float(new.dice.gather(1, new.start.argmax(1, keepdim=True)).mean())
    assert first(experience, new) > before + 0.05


def test_what_does_not_carry_over_is_left_alone():
    helped = [fit(made("noise", seed=seed)) for seed in range(4)]
    assert sum(one.strength > 0 for one in helped) <= 1
    for one in helped:
        if not one.strength:
            assert one.held_out[0] == one.held_out[1]
            assert (one.logits(made("noise").vectors) == 0).all()


def test_a_query_learns_nothing_from_views_of_its_own_image():
    """Every image has one reference that helps it alone: known to its other view, and to nobody else."""
    dice = torch.full((80, 40), 0.5)
    dice[torch.arange(80), (torch.arange(80) // 2 + 7) % 40] = 0.9
    vectors = torch.randn(40, CHANNELS, generator=seeded()).repeat_interleave(2, 0) + 20
    experience = fit(table(dice, vectors))
    assert experience.held_out[1] < experience.held_out[0] + 0.05


def test_categories_do_not_learn_from_each_other():
    own = made("sides")
    category = 1 + torch.arange(80) % 2
    theirs = torch.arange(40) // 20 + 1
    apart = replace(own, category=category, known=own.known & (category[:, None] == theirs))
    experience = fit(apart)
    foreign = experience.weights[(category[:, None] != theirs)]
    assert foreign.abs().max() < 1e-5


def test_pairs_are_asked_once_each_and_unknown_ones_do_not_count():
    queries, entries = 5, 9
    generator = seeded()
    pool = Entries(
        torch.randn(entries, 4, generator=generator),
        torch.randn(entries, CHANNELS, generator=generator),
        torch.randn(entries, CHANNELS, generator=generator),
        torch.full((entries,), int(Kind.MASK)),
    )
    query = Query(
        torch.randn(queries, CHANNELS, generator=generator),
        torch.randn(queries, CHANNELS, generator=generator),
        torch.zeros(queries, dtype=torch.long),
    )
    allowed = torch.ones(queries, entries, dtype=torch.bool)
    allowed[torch.arange(queries), torch.arange(queries)] = False
    truth = torch.zeros(queries, 4, 4)
    truth[:, :2] = 1
    asked: list[tuple[int, int]] = []

    def answer(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        asked.extend(zip(rows.tolist(), places[:, 0].tolist()))
        logits = torch.where(torch.arange(4)[:, None] < places[:, :, None] % 4, 1.0, -1.0).expand(-1, 4, 4)
        return logits, torch.ones(len(rows))

    judge = Judge(torch.ones(queries, dtype=torch.bool), truth)
    image = torch.arange(queries)
    found = gather(query, pool, allowed, image, torch.ones(queries).long(), answer, judge, shortlist=6, at_once=4)
    assert len(asked) == len(set(asked)) == queries * 6
    assert found.known.sum(1).tolist() == [6] * queries
    assert not (found.known & ~allowed).any()
    for row, place in asked:
        above = place % 4
        assert float(found.dice[row, place]) == pytest.approx(2 * min(2, above) / (2 + above), abs=1e-3)
    gain = found.gain()
    assert (gain[~found.known] == 0).all()
    assert gain.sum(1).abs().max() < 1e-5
    # As a prior it stands in the logits of the policy, and brings its best entries among the candidates.
    prior = torch.zeros(queries, entries)
    prior[:, 8] = 50
    told = replace(query, prior=prior)
    seen = candidates(told, pool, allowed, seeded(), count=3, random=0)
    assert (seen.index == 8).any(1).all()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SPNet(CHANNELS, 4, width=16, layers=1, heads=2)
    assert (seen.places(net.choose(seen, 1)) == 8).all()
