"""Where in a large pool the references for a query are: what it may refer to, nearest first, without a look at every entry.

Entries are grouped by category and kind of label, since these say what a query may refer to. Small groups are searched entry by entry,
large ones by cells (``nets.cells``), of the whole image and of the object.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from maskwright.engine.weights import key_problems, raise_weights
from maskwright.nets.cells import Cells, nearest_centre, numbers_in
from maskwright.nets.selector import cosine

CELLED = 8192
"""Entries of a group from which on it is searched by cells."""

REFIT = 2
"""By which factor a group grows before its centres are found anew."""

Vector = Literal["whole", "foreground"]
VECTORS: tuple[Vector, ...] = ("whole", "foreground")


class PoolIndex:
    """Follows a pool, whose tensors it is given at each call: ``category``, ``kind``, ``sample`` and the ``VECTORS``.

    What is found depends on the pool and on ``state`` alone, so that a resumed training finds what one that was never stopped does.
    """

    def __init__(self, pool: Mapping[str, Tensor]) -> None:
        self.groups: dict[tuple[int, int], array[int]] = {}
        self.cells: dict[tuple[int, int, Vector], Cells] = {}
        self.cell_of = {name: torch.full((0,), -1, dtype=torch.int32) for name in VECTORS}
        self._add(pool, 0)
        self._fit(pool)

    def follow(self, pool: Mapping[str, Tensor], changed: Tensor) -> None:
        """Entries were appended, and those at ``changed`` places have other vectors; their category and kind are what they were."""
        known = len(self.cell_of["whole"])
        places = torch.cat([changed.cpu(), torch.arange(known, len(pool["sample"]))])
        self._add(pool, known)
        keys = [pool[name][places].tolist() for name in ("category", "kind")]
        for name in VECTORS:
            by_group: dict[tuple[int, int], list[int]] = {}
            for place, *group in zip(places.tolist(), *keys):
                by_group.setdefault((group[0], group[1]), []).append(place)
            for group, its in by_group.items():
                if cells := self.cells.get((*group, name)):
                    self._move(name, cells, torch.tensor(its), pool[name])
        self._fit(pool)

    def _add(self, pool: Mapping[str, Tensor], start: int) -> None:
        """Put the entries from ``start`` on into their groups."""
        keys = zip(pool["category"][start:].tolist(), pool["kind"][start:].tolist())
        for place, group in enumerate(keys, start):
            self.groups.setdefault(group, array("q")).append(place)
        more = len(pool["sample"]) - start
        self.cell_of = {n: torch.cat([cell, cell.new_full((more,), -1)]) for n, cell in self.cell_of.items()}

    def _move(self, name: Vector, cells: Cells, places: Tensor, vectors: Tensor) -> None:
        now, before = nearest_centre(cells.centres, vectors[places]), self.cell_of[name][places]
        for place, old, new in zip(places.tolist(), before.tolist(), now.tolist()):
            if old != new:
                if old >= 0:
                    cells.remove(place, old)
                cells.add(place, new)
        self.cell_of[name][places] = now.int()

    def _fit(self, pool: Mapping[str, Tensor]) -> None:
        """Find centres for the groups that have become large, or much larger."""
        for group, members in self.groups.items():
            for name in VECTORS:
                cells = self.cells.get((*group, name))
                if len(members) >= (cells.fitted * REFIT if cells else CELLED):
                    places = numbers_in([members])
                    self.cells[(*group, name)], numbers = Cells.fit(pool[name], places)
                    self.cell_of[name][places] = numbers.int()

    def groups_of(self, category: int, kinds: Iterable[int]) -> list[tuple[int, int]]:
        return [(category, kind) for kind in kinds if (category, kind) in self.groups]

    def size(self, groups: Iterable[tuple[int, int]]) -> int:
        return sum(len(self.groups[group]) for group in groups)

    def nearest(
        self,
        pool: Mapping[str, Tensor],
        groups: Iterable[tuple[int, int]],
        name: Vector,
        vector: Tensor,
        count: int,
        sample: int,
    ) -> Tensor:
        """Places of the ``count`` entries that are nearest to (C,) ``vector``, of some groups and of other images than ``sample``."""
        parts = [
            cells.near(vector, count + 1)
            if (cells := self.cells.get((*group, name)))
            else numbers_in([self.groups[group]])
            for group in groups
        ]
        places = torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
        places = places[pool["sample"].index_select(0, places) != sample]
        # Three times as fast as indexing, where rows lie far apart.
        similarity = cosine(vector[None], pool[name].index_select(0, places))[0]
        return places[similarity.topk(min(count, len(places))).indices]

    def drawn(
        self,
        pool: Mapping[str, Tensor],
        groups: Iterable[tuple[int, int]],
        count: int,
        sample: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Places of about ``count`` distinct entries at random, of some groups and of other images than ``sample``."""
        members = [self.groups[group] for group in groups]
        total = sum(map(len, members))
        # One more than asked for, since the image itself may be among them; in a large group a few are drawn twice.
        if total <= CELLED:
            places = numbers_in(members)[torch.randperm(total, generator=generator)[: count + 1]]
        else:
            drawn = torch.randint(total, (count + 1,), generator=generator).unique().tolist()
            places = torch.tensor([_at(members, number) for number in drawn])
        return places[pool["sample"][places] != sample]

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Tensor]:
        """The centres, whose they are, and the cell of each entry."""
        rows = [
            (category, kind, VECTORS.index(name), len(cells.centres), cells.fitted)
            for (category, kind, name), cells in self.cells.items()
        ]
        fits = torch.tensor(rows, dtype=torch.long).view(-1, 5)
        centres = [cells.centres for cells in self.cells.values()]
        return {
            "fits": fits,
            "centres": torch.cat(centres) if centres else torch.empty(0, 0),
            "cells": torch.stack([self.cell_of[name] for name in VECTORS]),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], pool: Mapping[str, Tensor]) -> PoolIndex:
        """The counterpart of ``state_dict``; WeightsError where it names other tensors."""
        raise_weights("the index of the reference pool", key_problems(("fits", "centres", "cells"), state))
        index = cls.__new__(cls)
        index.groups, index.cells = {}, {}
        index.cell_of = {name: torch.full((0,), -1, dtype=torch.int32) for name in VECTORS}
        index._add(pool, 0)
        index.cell_of = dict(zip(VECTORS, state["cells"].clone()))
        start = 0
        for category, kind, number, count, fitted in state["fits"].tolist():
            name, places = VECTORS[number], numbers_in([index.groups[category, kind]])
            centres = state["centres"][start : start + count].clone()
            index.cells[category, kind, name] = Cells(centres, places, index.cell_of[name][places].long(), fitted)
            start += count
        return index


def _at(lists: Iterable[array[int]], number: int) -> int:
    """The element at ``number`` of lists laid end to end."""
    for part in lists:
        if number < len(part):
            return part[number]
        number -= len(part)
    raise IndexError(number)
