"""The reference pool: who may learn from whom, and how entries follow their images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.errors import WeightsError
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.sam.sam import Memory

# What a query may be shown, written down kind by kind.
FINER = {
    Kind.MASK: {Kind.MASK},
    Kind.SCRIBBLE: {Kind.MASK},
    Kind.BOX: {Kind.MASK, Kind.SCRIBBLE},
    Kind.POINT: {Kind.MASK, Kind.SCRIBBLE, Kind.BOX},
    Kind.TAG: {Kind.MASK, Kind.SCRIBBLE, Kind.BOX, Kind.POINT},
    Kind.NONE: {Kind.MASK, Kind.SCRIBBLE, Kind.BOX, Kind.POINT, Kind.TAG},
}


def put(pool: ReferencePool, samples: list[int], categories: list[int], kinds: list[int], values: list[float]) -> None:
    """Entries whose every number is its value."""
    value = torch.tensor(values)
    memory = Memory(value[:, None, None, None].expand(-1, 4, 2, 2).clone(), value[:, None].expand(-1, 3).clone())
    vectors = value[:, None].expand(-1, 5).clone()
    keys = torch.tensor(samples), torch.tensor(categories), torch.tensor(kinds)
    pool.update(*keys, memory, vectors, vectors * 10, vectors[:, :4] * 100)


def ask(pool: ReferencePool, sample: int, category: int, kind: Kind) -> list[bool]:
    return pool.allowed(torch.tensor([sample]), torch.tensor([category]), torch.tensor([int(kind)]))[0].tolist()


@pytest.mark.parametrize("query", list(Kind))
def test_references_have_finer_labels(query: Kind):
    pool = ReferencePool()
    put(pool, list(range(6)), [1] * 6, [int(kind) for kind in Kind], [0.0] * 6)
    assert {kind for kind, may in zip(Kind, ask(pool, 99, 1, query)) if may} == FINER[query]


def test_never_itself_and_never_another_category():
    pool = ReferencePool()
    put(pool, [0, 1, 1, 2], [1, 1, 2, 2], [Kind.MASK] * 4, [0.0] * 4)
    assert ask(pool, 1, 1, Kind.MASK) == [True, False, False, False]
    assert ask(pool, 1, 2, Kind.TAG) == [False, False, False, True]
    assert ask(pool, 5, 3, Kind.NONE) == [False] * 4
    both = pool.allowed(torch.tensor([1, 5]), torch.tensor([1, 2]), torch.tensor([Kind.MASK, Kind.POINT]))
    assert both.tolist() == [[True, False, False, False], [False, False, True, True]]


def entry(pool: ReferencePool, sample: int, category: int) -> dict[str, Tensor]:
    return {name: tensor[pool.slot[sample, category]] for name, tensor in pool.tensors.items()}


def test_momentum():
    pool = ReferencePool(momentum=0.25)
    put(pool, [3, 4], [1, 1], [Kind.BOX, Kind.BOX], [8.0, 1.0])
    put(pool, [5, 3], [1, 1], [Kind.MASK, Kind.SCRIBBLE], [2.0, 4.0])
    assert len(pool) == 3
    found = entry(pool, 3, 1)  # 0.25 · 8 + 0.75 · 4
    assert (found["features"] == 5).all()
    assert (found["pointers"] == 5).all()
    assert (found["whole"] == 5).all()
    assert (found["foreground"] == 50).all()
    assert (found["memory"] == 500).all()
    assert found["kind"] == Kind.SCRIBBLE
    assert (entry(pool, 4, 1)["whole"] == 1).all()
    assert (entry(pool, 5, 1)["whole"] == 2).all()
    assert pool.tensors["features"].dtype == torch.float16


def test_an_image_may_be_twice_in_a_batch():
    pool = ReferencePool(momentum=0.5)
    put(pool, [7, 7, 8], [1, 1, 1], [Kind.MASK] * 3, [1.0, 3.0, 5.0])
    assert len(pool) == len(pool.tensors["sample"]) == 2
    assert (entry(pool, 7, 1)["whole"] == 3).all()
    put(pool, [9, 7, 7], [1, 1, 1], [Kind.MASK] * 3, [6.0, 0.0, 5.0])
    assert (entry(pool, 7, 1)["whole"] == 4).all()
    assert (entry(pool, 9, 1)["whole"] == 6).all()


def test_memories_by_index_of_any_shape():
    pool = ReferencePool()
    put(pool, [0, 1, 2], [1, 1, 1], [Kind.MASK] * 3, [0.0, 1.0, 2.0])
    memory = pool.memory(torch.tensor([[2, 0], [1, 1]]))
    assert memory.features.shape == (2, 2, 4, 2, 2)
    assert memory.pointers[..., 0].tolist() == [[2, 0], [1, 1]]
    assert memory.features.dtype == torch.float32


def test_state_round_trip():
    pool, other = ReferencePool(), ReferencePool()
    put(pool, [0, 5], [1, 2], [Kind.MASK, Kind.POINT], [1.0, 2.0])
    put(other, [9], [1], [Kind.MASK], [3.0])
    state = pool.state_dict()
    other.load_state_dict(state)
    assert other.slot == pool.slot == {(0, 1): 0, (5, 2): 1}
    put(other, [5], [2], [Kind.POINT], [4.0])
    assert (entry(other, 5, 2)["whole"] == 3).all()
    assert (entry(pool, 5, 2)["whole"] == 2).all()  # memory of its own
    other.load_state_dict({})
    assert len(other) == 0
    put(other, [1], [1], [Kind.MASK], [1.0])
    assert len(other) == 1


def test_a_state_of_another_version_is_refused():
    pool, other = ReferencePool(), ReferencePool()
    put(pool, [0], [1], [Kind.MASK], [1.0])
    state = pool.state_dict()
    del state["memory"]
    with pytest.raises(WeightsError, match="memory"):
        other.load_state_dict(state)
    assert len(other) == 0


def test_entries_are_what_the_policy_sees():
    pool = ReferencePool()
    put(pool, [0, 1], [1, 1], [Kind.MASK, Kind.BOX], [1.0, 2.0])
    entries = pool.entries()
    assert entries.kind.tolist() == [Kind.MASK, Kind.BOX]
    assert entries.memory[:, 0].tolist() == [100, 200]
    assert entries.whole[:, 0].tolist() == [1, 2]
    assert entries.foreground[:, 0].tolist() == [10, 20]
