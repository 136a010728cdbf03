"""The reference pool: the labelled images as SAM remembers them, to be references for others (SAMIX).

One entry per image and category: the memory that SAM's memory encoder made of the image with its mask, and three pooled vectors
to find it by. Entries are computed when their image is visited and then follow the adapters by momentum, never per query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.engine.weights import key_problems, raise_weights
from maskwright.methods.in_context.columns import Columns
from maskwright.methods.in_context.pool_index import PoolIndex, Vector
from maskwright.nets.selector import SIMILAR
from maskwright.nets.selector_names import SelectorName
from maskwright.nets.spnet import Entries, Query
from maskwright.sam.sam import Memory

AVERAGED = ("features", "pointers", "memory", "whole", "foreground")
"""Tensors that are averaged with momentum when their image is visited again."""

LARGE = 16_384
"""Entries from which on queries look at a part of the pool that an index finds; in a smaller one they look at all."""


@dataclass(frozen=True)
class Candidates:
    """The U entries of a pool that N queries choose from: all of a small one.

    Attributes:
        places: (U,) in the pool, ascending; None: all.
        entries: of (U,).
        allowed: (N, U) bool; False also for candidates of other queries, so that what is chosen for a query does not depend on these.
    """

    places: Tensor | None
    entries: Entries
    allowed: Tensor

    def in_pool(self, chosen: Tensor) -> Tensor:
        """Numbers of candidates, of any shape → their places in the pool."""
        return chosen if self.places is None else self.places[chosen]


class ReferencePool:
    """Entries by (sample, category), in tensors that grow as needed; on the CPU, once they have moved into files.

    Args:
        momentum: share of an old entry that stays when its image is visited again.
        folder: where the tensors of a large pool lie in files; None: they stay in memory. See ``Columns``.
    """

    def __init__(self, momentum: float = 0.5, folder: Path | None = None) -> None:
        self.momentum = momentum
        self.slot: dict[tuple[int, int], int] = {}
        self.columns = Columns(folder)
        self.index: PoolIndex | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """(E, ...) of each name; writing into them changes the pool."""
        return self.columns.tensors

    def __len__(self) -> int:
        return len(self.slot)

    def update(
        self,
        samples: Tensor,
        categories: Tensor,
        kinds: Tensor,
        memory: Memory,
        whole: Tensor,
        foreground: Tensor,
        memory_vector: Tensor,
    ) -> None:
        """Store or refresh N entries; of several with one key the last counts.

        Args:
            samples, categories, kinds: (N,) int; the position in the dataset, the category, the ``Kind`` of the label.
            memory: leading dimension (N,).
            whole, foreground: (N, C) from ``nets.spnet.pooled``.
            memory_vector: (N, M) from ``nets.spnet.pooled_memory``.
        """
        new = {
            "sample": samples,
            "category": categories,
            "kind": kinds,
            "features": memory.features.detach().half(),
            "pointers": memory.pointers.detach().float(),
            "memory": memory_vector.detach().float(),
            "whole": whole.detach().float(),
            "foreground": foreground.detach().float(),
        }
        # A batch that is drawn with replacement may hold an image twice.
        last = {key: i for i, key in enumerate(zip(samples.tolist(), categories.tolist()))}
        if len(last) < len(samples):
            new = {name: value[list(last.values())] for name, value in new.items()}
        keys = list(last)
        is_old = torch.tensor([key in self.slot for key in keys], dtype=torch.bool, device=samples.device)
        slots = torch.tensor([self.slot[key] for key in keys if key in self.slot], dtype=torch.long)
        same_kinds = True
        if is_old.any():
            for name in AVERAGED:
                stored = self.tensors[name]
                at = slots.to(stored.device)
                stored[at] = torch.lerp(new[name][is_old].to(stored), stored[at], self.momentum)
            stored = self.tensors["kind"]
            at, kinds_of_old = slots.to(stored.device), new["kind"][is_old].to(stored)
            same_kinds = torch.equal(stored[at], kinds_of_old)
            stored[at] = kinds_of_old
        if not is_old.all():
            start = len(self.slot)
            fresh = [key for key in keys if key not in self.slot]
            self.slot |= {key: start + i for i, key in enumerate(fresh)}
            self.columns.extend({name: value[~is_old] for name, value in new.items()})
        if self.index is None or not same_kinds:
            self._make_index()
        else:
            self.index.follow(self.tensors, slots)

    def _make_index(self) -> None:
        """Of a large pool on the CPU; on other devices a look at all entries is fast."""
        is_needed = len(self) >= LARGE and self.tensors["whole"].device.type == "cpu"
        self.index = PoolIndex(self.tensors) if is_needed else None

    def candidates(
        self,
        samples: Tensor,
        categories: Tensor,
        kinds: Tensor,
        query: Query,
        near: Mapping[Vector, int],
        drawn: int = 0,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        """The entries that N queries choose from: of a small pool all, of a large one those that its index finds.

        Args:
            samples, categories, kinds: (N,) int of the queries.
            query: of N.
            near: how many each query needs of those nearest to it, by the whole image and by the object; see ``needed``.
            drawn: how many it needs at random.
            generator: on the CPU, of the random ones; a small pool leaves it alone.
        """
        device = query.whole.device
        if self.index is None:
            entries, allowed = self.entries(), self.allowed(samples, categories, kinds)
            return Candidates(None, entries.to(device), allowed.to(device))
        found: list[Tensor] = []
        vectors = {"whole": query.whole.float().cpu(), "foreground": query.foreground.float().cpu()}
        for row, (sample, category, kind) in enumerate(zip(*(v.tolist() for v in (samples, categories, kinds)))):
            groups = self.index.groups_of(category, finer_than(kind))
            parts = [
                self.index.nearest(self.tensors, groups, name, vectors[name][row], count, sample)
                for name, count in near.items()
            ]
            if drawn:
                generator = generator or torch.Generator()
                parts.append(self.index.drawn(self.tensors, groups, drawn, sample, generator))
            found.append(torch.cat(parts))
        places = torch.cat(found).unique()
        allowed = torch.zeros(len(found), len(places), dtype=torch.bool)
        for row, part in enumerate(found):
            allowed[row, torch.searchsorted(places, part)] = True
        return Candidates(places.to(device), self.entries()[places].to(device), allowed.to(device))

    def allowed(self, samples: Tensor, categories: Tensor, kinds: Tensor) -> Tensor:
        """(N, E) bool: same category, another image, and a FINER label than the query's (mask queries use other masks)."""
        device = self.tensors["sample"].device
        samples, categories, kinds = samples.to(device), categories.to(device), kinds.to(device)
        same = self.tensors["category"][None] == categories[:, None]
        other = self.tensors["sample"][None] != samples[:, None]
        entry, query = self.tensors["kind"][None], kinds[:, None]
        finer = (entry > query) | ((entry == Kind.MASK) & (query == Kind.MASK))
        return same & other & finer

    def choices(self, samples: Tensor, categories: Tensor, kinds: Tensor) -> Tensor:
        """(N,) how many entries each of N queries may refer to; see ``allowed``."""
        if self.index is None:
            return self.allowed(samples, categories, kinds).sum(1)
        counts = []
        for sample, category, kind in zip(samples.tolist(), categories.tolist(), kinds.tolist()):
            finer = finer_than(kind)
            own = self.slot.get((sample, category))
            is_counted = own is not None and int(self.tensors["kind"][own]) in finer
            counts.append(self.index.size(self.index.groups_of(category, finer)) - is_counted)
        return torch.tensor(counts, device=samples.device)

    def memory(self, index: Tensor) -> Memory:
        """The memories at ``index`` of any shape; leading dimensions are those of ``index``."""
        at = index.to(self.tensors["features"].device)
        features, pointers = (self.tensors[name][at].to(index.device) for name in ("features", "pointers"))
        return Memory(features.float(), pointers)

    def entries(self) -> Entries:
        """All entries as the policy sees them: pooled vectors and kinds. The pool must not be empty."""
        return Entries(*(self.tensors[name] for name in ("memory", "whole", "foreground", "kind")))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def load_state_dict(self, state: Mapping[str, Tensor], index: Mapping[str, Tensor] | None = None) -> None:
        """The counterpart of ``state_dict``, and of ``index.state_dict``; left out, an index is made where one is needed.

        Raises:
            WeightsError: a state that names other tensors.
        """
        if state:
            raise_weights("the reference pool", key_problems(("sample", "category", "kind", *AVERAGED), state))
        self.slot, self.index = {}, None
        self.columns.clear()
        if state:
            self.columns.extend(state)
            keys = zip(self.tensors["sample"].tolist(), self.tensors["category"].tolist())
            self.slot = {key: i for i, key in enumerate(keys)}
        if index:
            self.index = PoolIndex.from_state(index, self.tensors)
        elif state:
            self._make_index()


def finer_than(kind: int) -> list[int]:
    """The kinds of label that a query of this kind may refer to, as in ``ReferencePool.allowed``."""
    return [int(k) for k in Kind if k > kind or k == kind == Kind.MASK]


def needed(selector: SelectorName, references: int, shortlist: int) -> tuple[dict[Vector, int], int]:
    """How many of the nearest entries a selector looks at, by which vectors, and how many at random.

    Args:
        references: T, that it chooses.
        shortlist: K, candidates of the policy: half of them are the nearest by object, and the rest the nearest others by whole image.
    """
    near: dict[SelectorName, dict[Vector, int]] = {
        "random": {},
        "similar": {"whole": references},
        "similar-foreground": {"foreground": references},
        "diverse": {"whole": max(SIMILAR, references)},
        "policy": {"foreground": (shortlist + 1) // 2, "whole": shortlist},
    }
    return near[selector], references if selector == "random" else 0
