"""Heuristics, without training, that choose the references for a query.

A selector reads pooled vectors only, never masks or memories, so its cost does not depend on the image size. The learned policy of
SAMIX, which can be used instead, is ``nets.spnet``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from maskwright.nets.selector_names import Heuristic

SIMILAR = 32
"""How many of the most similar entries ``diverse`` chooses from."""


def select(
    name: Heuristic,
    query: Tensor,
    query_foreground: Tensor,
    pool: Tensor,
    pool_foreground: Tensor,
    allowed: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Choose ``count`` references for each of N queries out of E entries.

    Args:
        name: ``random``; ``similar``: nearest by the whole image; ``similar-foreground``: nearest by the pooled object (for the
            query: of its current best guess); ``diverse``: the most similar first, then farthest first among the similar.
        query, query_foreground: (N, D) pooled vectors of the queries.
        pool, pool_foreground: (E, D) pooled vectors of the entries.
        allowed: (N, E) bool; every row needs at least one True. Where a row has fewer than ``count``, entries repeat.
        count: T.
        generator: on the CPU; only ``random`` uses it.

    Returns:
        (N, T) indices into the entries.
    """
    if name not in get_args(Heuristic):
        raise ValueError(f"unknown selector {name!r}; choose one of {', '.join(get_args(Heuristic))}")
    if not bool(allowed.any(1).all()):
        raise ValueError("a query without any allowed reference cannot be given one")
    scores: dict[str, Callable[[], Tensor]] = {
        "random": lambda: torch.rand(allowed.shape, generator=generator).to(query),
        "similar": lambda: cosine(query, pool),
        "similar-foreground": lambda: cosine(query_foreground, pool_foreground),
        "diverse": lambda: cosine(query, pool),
    }
    score = scores[name]().masked_fill(~allowed, -torch.inf)
    if name == "diverse":
        return _farthest_first(score, pool, count)
    order = score.topk(min(count, score.shape[1]), dim=1).indices
    return _repeat_allowed(order, allowed, count)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (E, D) → (N, E) cosines."""
    # A pool is large: its vectors are not copied to be normalised.
    return F.normalize(a, dim=1) @ b.T / b.norm(dim=1).clamp(min=1e-12)


def _repeat_allowed(order: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Fill up to ``count`` columns by going round the allowed ones at the front of ``order``."""
    usable = allowed.gather(1, order).sum(1, keepdim=True).clamp(min=1)
    column = torch.arange(count, device=order.device)[None] % usable
    return order.gather(1, column)


def _farthest_first(score: Tensor, vectors: Tensor, count: int, shortlist: int = SIMILAR) -> Tensor:
    """Start with the most similar; then, among the ``shortlist`` most similar, always the one farthest from those chosen."""
    near = score.topk(min(shortlist, score.shape[1]), dim=1)
    usable = near.values > -torch.inf
    candidates = F.normalize(vectors[near.indices], dim=-1)
    picks = [torch.zeros(len(score), dtype=torch.long, device=score.device)]
    distance = torch.full_like(near.values, torch.inf)
    for _ in range(count - 1):
        latest = candidates.gather(1, picks[-1][:, None, None].expand(-1, 1, candidates.shape[-1]))
        distance = torch.minimum(distance, 1 - (candidates * latest).sum(-1))
        # Below every distance, so that no entry is chosen twice while others are left, even if these are copies of it.
        distance = distance.scatter(1, picks[-1][:, None], -1.0)
        picks.append(distance.masked_fill(~usable, -torch.inf).argmax(1))
    return near.indices.gather(1, torch.stack(picks, 1))
