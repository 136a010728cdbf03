"""SPNet against its contract as a policy, and on toys that similarity cannot solve."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import maskwright.nets.spnet as spnet
from maskwright.data.labels import Kind
from maskwright.nets.selector import cosine, select
from maskwright.nets.spnet import Entries, Query, Shortlist, SPNet, make_shortlist, pooled, pooled_memory
from maskwright.rl.grpo import Policy, advantages, descent, update

CHANNELS, MEMORY = 12, 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entries(*shape: int, seed: int = 0) -> Entries:
    generator = seeded(seed)
    return Entries(
        torch.randn(*shape, MEMORY, generator=generator),
        torch.randn(*shape, CHANNELS, generator=generator),
        torch.randn(*shape, CHANNELS, generator=generator),
        torch.randint(2, 6, shape, generator=generator),
    )


def query_of(queries: int, seed: int = 1) -> Query:
    some = entries(queries, seed=seed)
    return Query(some.whole, some.foreground, some.kind)


def some_shortlist(queries: int, count: int, seed: int = 0, share: float = 0.7) -> Shortlist:
    generator = seeded(seed)
    allowed = torch.rand(queries, count, generator=generator) < share
    allowed[torch.arange(queries), torch.randint(count, (queries,), generator=generator)] = True
    index = torch.arange(count).expand(queries, -1)
    return Shortlist(query_of(queries, seed + 1), entries(queries, count, seed=seed + 2), allowed, index)


def small(seed: int = 0, *, trained: bool = True) -> SPNet:
    """``trained``: with weights everywhere, as if it had learnt something."""
    torch.manual_seed(seed)
    net = SPNet(CHANNELS, MEMORY, width=16, layers=2, heads=2)
    if trained:
        for head in (net.query_shift, net.candidate_shift):
            torch.nn.init.normal_(head.weight, std=0.3)
    return net


def reordered(shortlist: Shortlist, order: Tensor) -> Shortlist:
    """Column k of the result is column ``order[k]``."""
    c = shortlist.candidates
    moved = Entries(c.memory[:, order], c.whole[:, order], c.foreground[:, order], c.kind[:, order])
    return replace(shortlist, candidates=moved, allowed=shortlist.allowed[:, order], index=shortlist.index[:, order])


# ---------------------------------------------------------------------------------------------------- as a policy


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 7, 6, 4))),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_nothing_disallowed_nothing_twice_and_scores_as_drawn(
    sizes: tuple[int, int, int, int], seed: int, share: float
):
    queries, count, groups, length = sizes
    net: Policy[Shortlist] = small(seed)
    shortlist = some_shortlist(queries, count, seed, share)
    sequences, total = net.sample(shortlist, groups, length, seeded(seed))
    assert sequences.shape == (queries, groups, length)
    score = net.score(shortlist, sequences)
    there = total > -torch.inf
    assert there[:, 0].all()
    # Step by step while drawing, in one pass while scoring.
    torch.testing.assert_close(score.sum(-1)[there], total[there], rtol=1e-4, atol=1e-4)
    usable = shortlist.allowed.sum(1).tolist()
    for row, real, free, allowed in zip(sequences.tolist(), there.tolist(), usable, shortlist.allowed.tolist()):
        kept = [tuple(s) for s, r in zip(row, real) if r]
        assert len(set(kept)) == len(kept)
        for sequence in row:
            assert all(allowed[k] for k in sequence)
            assert len(set(sequence)) == min(length, free)
            # Too few: the last choice repeats, for certain.
            assert sequence[free:] == [sequence[min(free, length) - 1]] * max(length - free, 0)
    forced = torch.arange(length) >= torch.tensor(usable)[:, None]
    assert (score.transpose(1, 2)[forced] == 0).all()


def test_probabilities_of_all_sequences_sum_to_one():
    shortlist = some_shortlist(1, 4, share=1.0)
    net = small()
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4))[None]
    total = net.score(shortlist, every).sum(-1).exp()[0]
    assert total.sum().item() == pytest.approx(1, abs=1e-5)
    assert (total.view(4, 4).diagonal() == 0).all()
    sequences, drawn = net.sample(shortlist, 15, 2, seeded())
    assert (drawn > -torch.inf).sum() == 12
    assert drawn.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (sequences[0, 12:] == sequences[0, 0]).all()


def test_each_choice_knows_the_ones_before_but_not_those_after():
    shortlist, net = some_shortlist(1, 6, share=1.0), small()
    score = net.score(shortlist, torch.tensor([[[0, 1, 2], [0, 1, 3], [4, 1, 2], [1, 4, 2]]]))[0]
    torch.testing.assert_close(score[0, :2], score[1, :2])
    assert (score[0, 1] - score[2, 1]).abs() > 1e-4
    # Even where the same are left: the order of the first two is known as well.
    assert (score[2, 2] - score[3, 2]).abs() > 1e-5


def test_order_of_the_candidates_means_nothing():
    shortlist, net = some_shortlist(3, 9), small()
    order = torch.randperm(9, generator=seeded())
    moved = reordered(shortlist, order)
    for beam in (1, 3):
        chosen, again = net.choose(shortlist, 3, beam), net.choose(moved, 3, beam)
        assert torch.equal(order[again], chosen)
        assert torch.equal(moved.places(again), shortlist.places(chosen))
    sequences, _ = net.sample(shortlist, 4, 3, seeded())
    where = torch.argsort(order)
    torch.testing.assert_close(
        net.score(moved, where[sequences]), net.score(shortlist, sequences), rtol=1e-4, atol=1e-5
    )


def test_padding_changes_nothing():
    shortlist, net = some_shortlist(2, 6), small()
    more = entries(2, 3, seed=9)
    mine = shortlist.candidates
    padded = Shortlist(
        shortlist.query,
        Entries(
            torch.cat([mine.memory, 100 * more.memory], 1),
            torch.cat([mine.whole, 100 * more.whole], 1),
            torch.cat([mine.foreground, 100 * more.foreground], 1),
            torch.cat([mine.kind, more.kind], 1),
        ),
        F.pad(shortlist.allowed, (0, 3), value=False),
        F.pad(shortlist.index, (0, 3)),
    )
    sequences, _ = net.sample(shortlist, 4, 3, seeded())
    torch.testing.assert_close(net.score(padded, sequences), net.score(shortlist, sequences), rtol=1e-4, atol=1e-5)
    assert torch.equal(net.choose(padded, 3), net.choose(shortlist, 3))


def test_queries_of_a_batch_do_not_meet():
    shortlist, net = some_shortlist(3, 6), small()
    sequences, _ = net.sample(shortlist, 2, 3, seeded())
    one = torch.tensor([1])
    query = Query(shortlist.query.whole[one], shortlist.query.foreground[one], shortlist.query.kind[one])
    alone = Shortlist(query, shortlist.candidates[one], shortlist.allowed[one], shortlist.index[one])
    torch.testing.assert_close(
        net.score(alone, sequences[one]), net.score(shortlist, sequences)[one], rtol=1e-4, atol=1e-5
    )


def test_beam_finds_at_least_what_greed_finds():
    shortlist, net = some_shortlist(8, 10), small()
    greedy, wide = (net.score(shortlist, net.choose(shortlist, 3, beam)[:, None]).sum(-1) for beam in (1, 8))
    assert (wide >= greedy - 1e-5).all()
    best = net.score(shortlist, net.choose(shortlist, 1)[:, None])
    every = net.score(shortlist, torch.arange(10).expand(8, -1)[..., None])
    torch.testing.assert_close(best[:, 0, 0], every.amax((1, 2)))


# ---------------------------------------------------------------------------------------------------- how it starts


def test_untrained_it_is_the_heuristic():
    queries, pool = query_of(6), entries(200)
    allowed = torch.rand(6, 200, generator=seeded()) < 0.5
    shortlist = make_shortlist(queries, pool, allowed, seeded(), count=24, random=6)
    found = shortlist.places(small(trained=False).choose(shortlist, 4))
    expected = select(
        "similar-foreground", queries.whole, queries.foreground, pool.whole, pool.foreground, allowed, 4, seeded()
    )
    assert torch.equal(found, expected)


def test_untrained_probability_is_a_softmax_of_cosines():
    shortlist = some_shortlist(2, 5, share=1.0)
    near = torch.cosine_similarity(shortlist.query.foreground[:, None], shortlist.candidates.foreground, dim=-1)
    score = small(trained=False).score(shortlist, torch.arange(5).expand(2, -1)[..., None])[..., 0]
    torch.testing.assert_close(score, (near / 0.07).log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter_from_the_second_step_on():
    net, shortlist = small(trained=False), some_shortlist(4, 8)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    sequences, _ = net.sample(shortlist, 4, 3, seeded())
    for step in range(2):
        optimizer.zero_grad()
        net.score(shortlist, sequences)[:, 0].sum().backward()
        reached = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if step == 0:
            assert reached == {"query_shift.weight", "candidate_shift.weight", "log_temperature"}
        optimizer.step()
    assert reached == {name for name, _ in net.named_parameters()}


def test_saved_and_loaded_it_is_the_same():
    net, shortlist = small(), some_shortlist(2, 6)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = small(seed=7)
    sequences, _ = net.sample(shortlist, 3, 3, seeded())
    assert not torch.equal(other.score(shortlist, sequences), net.score(shortlist, sequences))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.score(shortlist, sequences), net.score(shortlist, sequences))


def test_half_precision_does_not_blur_close_cosines():
    shortlist = some_shortlist(2, 6, share=1.0)
    common = 30 * torch.ones(CHANNELS)
    close = replace(shortlist.candidates, foreground=shortlist.candidates.foreground + common)
    shortlist = replace(
        shortlist, candidates=close, query=replace(shortlist.query, foreground=shortlist.query.foreground + common)
    )
    net = small(trained=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        chosen = net.choose(shortlist, 4)
    assert torch.equal(chosen, net.choose(shortlist, 4))


def test_a_query_without_candidates_is_a_mistake():
    shortlist = some_shortlist(2, 3)
    with pytest.raises(ValueError, match="without any allowed reference"):
        replace(shortlist, allowed=torch.tensor([[True, False, True], [False, False, False]]))


# ---------------------------------------------------------------------------------------------------- candidates


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 60),
    count=st.integers(1, 20),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    at_once=st.sampled_from([1, 7, 8192]),
    data=st.data(),
)
def test_candidates_are_the_nearest_and_some_others(
    size: int, count: int, share: float, at_once: int, data: st.DataObject
):
    random = data.draw(st.integers(0, count))
    queries, pool, generator = query_of(3), entries(size), seeded(size)
    allowed = torch.rand(3, size, generator=generator) < share
    allowed[:, 0] = True
    before = allowed.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spnet, "ENTRIES_AT_ONCE", at_once)
        shortlist = make_shortlist(queries, pool, allowed, seeded(), count, random)
    assert torch.equal(allowed, before)
    assert shortlist.index.shape == shortlist.allowed.shape == (3, min(count, size))
    assert torch.equal(shortlist.candidates.memory, pool.memory[shortlist.index])
    assert torch.equal(shortlist.candidates.kind, pool.kind[shortlist.index])
    near = cosine(queries.foreground, pool.foreground).masked_fill(~allowed, -torch.inf)
    by_object = max(min(count, size) - random, 0) - max(min(count, size) - random, 0) // 2
    for row in range(3):
        kept = shortlist.index[row][shortlist.allowed[row]].tolist()
        may = allowed[row].nonzero()[:, 0].tolist()
        assert set(kept) <= set(may)
        assert len(set(kept)) == len(kept) == min(count, len(may))
        assert set(near[row].topk(min(by_object, len(may))).indices.tolist()) <= set(kept)


def test_candidates_come_by_object_by_whole_image_and_by_chance():
    queries, pool, allowed = query_of(2), entries(100), torch.ones(2, 100, dtype=torch.bool)
    shortlist = make_shortlist(queries, pool, allowed, seeded(), count=10, random=4)
    by_object = cosine(queries.foreground, pool.foreground).topk(3, 1).indices
    by_whole = cosine(queries.whole, pool.whole).scatter(1, by_object, -2.0).topk(3, 1).indices
    assert torch.equal(shortlist.index[:, :6], torch.cat([by_object, by_whole], 1))
    again = make_shortlist(queries, pool, allowed, seeded(), count=10, random=4)
    other = make_shortlist(queries, pool, allowed, seeded(1), count=10, random=4)
    assert torch.equal(again.index, shortlist.index)
    assert not torch.equal(other.index, shortlist.index)
    drawn = torch.cat([make_shortlist(queries, pool, allowed, seeded(s), 10, 4).index[0, 6:] for s in range(120)])
    assert len(drawn.unique()) > 85


def test_a_large_pool_is_read_piece_by_piece(monkeypatch: pytest.MonkeyPatch):
    widest = 0

    def watched(a: Tensor, b: Tensor) -> Tensor:
        nonlocal widest
        widest = max(widest, len(b))
        return cosine(a, b)

    monkeypatch.setattr(spnet, "cosine", watched)
    pool = entries(100_000)
    allowed = torch.ones(4, 100_000, dtype=torch.bool)
    shortlist = make_shortlist(query_of(4), pool, allowed, seeded())
    assert shortlist.index.shape == (4, 48)
    assert widest == spnet.ENTRIES_AT_ONCE
    assert torch.equal(shortlist.index[:, 0], cosine(shortlist.query.foreground, pool.foreground).argmax(1))


def test_candidates_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="random = 9"):
        make_shortlist(query_of(1), entries(5), torch.ones(1, 5, dtype=torch.bool), seeded(), count=8, random=9)
    with pytest.raises(ValueError, match="without any allowed reference"):
        make_shortlist(query_of(1), entries(5), torch.zeros(1, 5, dtype=torch.bool), seeded())


def test_pooled_vectors_by_hand():
    low = torch.arange(16.0).reshape(1, 1, 4, 4).expand(2, 2, 4, 4)
    masks = torch.zeros(2, 16, 16)
    masks[0, :4, 4:12] = 1  # exactly the cells 1 and 2 of the first row
    whole, foreground = pooled(low, masks)
    assert whole.tolist() == [[7.5, 7.5]] * 2
    assert foreground.tolist() == [[1.5, 1.5], [7.5, 7.5]]  # an empty mask gives the average


def test_pooled_memory_by_hand():
    features = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).expand(2, 1, 2, 2).half()
    masks = torch.zeros(2, 4, 4)
    masks[0, 2:, :] = 1
    masks[0, :2, :2] = 0.5
    # Mean 3, inside (0.5 · 1 + 3 + 6) / 2.5; the second has no object.
    torch.testing.assert_close(pooled_memory(features, masks), torch.tensor([[3 + 3.8], [6.0]]))


# ---------------------------------------------------------------------------------------------------- learning


def learn(reward: Callable[[Shortlist, Tensor], Tensor], make: Callable[[int], Shortlist], steps: int) -> SPNet:
    net = small(trained=False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    generator = seeded()
    for step in range(steps):
        shortlist = make(step)
        sequences, total = net.sample(shortlist, 8, 2, generator)
        valid = total > -torch.inf
        rewards = reward(shortlist, sequences)[None]
        judged = advantages(rewards, torch.ones(rewards.shape[:2], dtype=torch.bool), valid)
        update(net, shortlist, sequences, judged, descent(optimizer), valid=valid)
    return net


def kind_reward(shortlist: Shortlist, sequences: Tensor) -> Tensor:
    kinds = shortlist.candidates.kind.gather(1, sequences.flatten(1)).view_as(sequences)
    return (kinds == Kind.SCRIBBLE).float().mean(-1)


def pair_reward(shortlist: Shortlist, sequences: Tensor) -> Tensor:
    """A pair pays if its memories complement each other: which of the two comes first does not matter."""
    sides = shortlist.candidates.memory[..., 0].gather(1, sequences.flatten(1)).view_as(sequences)
    return (sides[..., 0] * sides[..., 1] < 0).float()


def two_sided(step: int) -> Shortlist:
    shortlist = some_shortlist(32, 8, seed=1000 + step, share=1.0)
    memory = torch.zeros_like(shortlist.candidates.memory)
    memory[..., 0] = shortlist.candidates.memory[..., 0].sign()
    # Alike ones look alike: similarity picks them together.
    side = memory[..., :1] * 3
    return replace(
        shortlist,
        candidates=replace(shortlist.candidates, memory=memory, foreground=shortlist.candidates.foreground + side),
        query=replace(shortlist.query, foreground=shortlist.query.foreground + 3),
    )


@pytest.mark.parametrize(
    ("reward", "make", "steps"),
    [
        (kind_reward, lambda step: some_shortlist(32, 8, seed=1000 + step, share=1.0), 80),
        (pair_reward, two_sided, 80),
    ],
)
def test_learns_what_similarity_cannot_see(
    reward: Callable[[Shortlist, Tensor], Tensor], make: Callable[[int], Shortlist], steps: int
):
    test = make(-1)

    def measured(net: SPNet) -> float:
        return float(reward(test, net.choose(test, 2)[:, None]).mean())

    reach = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    reach = reach[reach[:, 0] != reach[:, 1]]
    possible = float(reward(test, reach.expand(32, -1, -1)).amax(1).mean())
    assert measured(small(trained=False)) < 0.6 * possible
    assert measured(learn(reward, make, steps)) > 0.9 * possible
