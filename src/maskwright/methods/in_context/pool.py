"""The reference pool: the labelled images as SAM remembers them, to be references for others (SAMIX).

One entry per image and category: the memory that SAM's memory encoder made of the image with its mask, and three pooled vectors
to find it by. Entries are computed when their image is visited and then follow the adapters by momentum, never per query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maskwright.data.labels import Kind
from maskwright.engine.weights import key_problems, raise_weights
from maskwright.nets.spnet import Entries
from maskwright.sam.sam import Memory

AVERAGED = ("features", "pointers", "memory", "whole", "foreground")
"""Tensors that are averaged with momentum when their image is visited again."""


class ReferencePool:
    """Entries by (sample, category), in tensors that grow as needed.

    Args:
        momentum: share of an old entry that stays when its image is visited again.
    """

    def __init__(self, momentum: float = 0.5) -> None:
        self.momentum = momentum
        self.slot: dict[tuple[int, int], int] = {}
        self.tensors: dict[str, Tensor] = {}

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
        if not self.tensors:
            self.tensors = {name: value[:0].clone() for name, value in new.items()}
        if is_old.any():
            slots = torch.tensor([self.slot[key] for key in keys if key in self.slot], device=samples.device)
            for name in AVERAGED:
                stored = self.tensors[name]
                stored[slots] = torch.lerp(new[name][is_old].to(stored), stored[slots], self.momentum)
            self.tensors["kind"][slots] = new["kind"][is_old]
        if not is_old.all():
            start = len(self.slot)
            fresh = [key for key in keys if key not in self.slot]
            self.slot |= {key: start + i for i, key in enumerate(fresh)}
            self.tensors = {
                name: torch.cat([stored, new[name][~is_old].to(stored)]) for name, stored in self.tensors.items()
            }

    def allowed(self, samples: Tensor, categories: Tensor, kinds: Tensor) -> Tensor:
        """(N, E) bool: same category, another image, and a FINER label than the query's (mask queries use other masks)."""
        same = self.tensors["category"][None] == categories[:, None]
        other = self.tensors["sample"][None] != samples[:, None]
        entry, query = self.tensors["kind"][None], kinds[:, None]
        finer = (entry > query) | ((entry == Kind.MASK) & (query == Kind.MASK))
        return same & other & finer

    def memory(self, index: Tensor) -> Memory:
        """The memories at ``index`` of any shape; leading dimensions are those of ``index``."""
        return Memory(self.tensors["features"][index].float(), self.tensors["pointers"][index])

    def entries(self) -> Entries:
        """All entries as the policy sees them: pooled vectors and kinds. The pool must not be empty."""
        return Entries(*(self.tensors[name] for name in ("memory", "whole", "foreground", "kind")))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.tensors)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The counterpart of ``state_dict``; WeightsError for a state that names other tensors."""
        if state:
            raise_weights("the reference pool", key_problems(("sample", "category", "kind", *AVERAGED), state))
        self.tensors = {name: value.clone() for name, value in state.items()}
        self.slot = {}
        if self.tensors:
            keys = zip(self.tensors["sample"].tolist(), self.tensors["category"].tolist())
            self.slot = {key: i for i, key in enumerate(keys)}
