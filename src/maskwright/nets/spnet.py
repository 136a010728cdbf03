"""SPNet, the policy that chooses the references for a query (SAMIX, Hu et al. 2026).

It reads pooled vectors only. A short list of candidates is taken from the pool first (``make_shortlist``), so that the network's cost does
not depend on the size of the pool. Untrained it equals the best heuristic, the cosine of the pooled objects; ``rl.grpo`` trains a
correction to it.

Two repairs of the published design: its probability ``cos / sum of cos`` is no distribution where cosines are negative, so here it is
a masked softmax of ``cos / temperature``; and the kind of a candidate's label is part of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskwright.data.labels import Kind
from maskwright.nets.selector import cosine
from maskwright.rl.grpo import beam_search

ENTRIES_AT_ONCE = 8192
"""How many entries of the pool are compared with the queries at a time; bounds the memory of ``make_shortlist``."""


@dataclass(frozen=True)
class Query:
    """N images that need references: pooled image features (N, C) and the ``Kind`` of their own label (N,).

    Attributes:
        whole: of the whole image.
        foreground: of the object, by its label or by the current prediction of it.
    """

    whole: Tensor
    foreground: Tensor
    kind: Tensor

    def __getitem__(self, index: Tensor) -> Query:
        """Some of the images."""
        return Query(self.whole[index], self.foreground[index], self.kind[index])


@dataclass(frozen=True)
class Entries:
    """References. Leading dimensions are free: (E,) in a pool, (N, K) as candidates.

    Attributes:
        memory: (..., M) pooled memory features, see ``pooled_memory``.
        whole, foreground: (..., C) pooled image features.
        kind: (...) long, the ``Kind`` of the label.
    """

    memory: Tensor
    whole: Tensor
    foreground: Tensor
    kind: Tensor

    def __getitem__(self, index: Tensor) -> Entries:
        """Index the leading dimensions."""
        return Entries(self.memory[index], self.whole[index], self.foreground[index], self.kind[index])

    def to(self, device: torch.device) -> Entries:
        return Entries(*(part.to(device) for part in (self.memory, self.whole, self.foreground, self.kind)))


@dataclass(frozen=True)
class Shortlist:
    """N queries with K candidates each, the input of SPNet.

    Attributes:
        query: of N.
        candidates: of (N, K). Those that are not allowed may hold any finite numbers.
        allowed: (N, K) bool; at least one per query.
        index: (N, K) places of the candidates in the pool.
    """

    query: Query
    candidates: Entries
    allowed: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        if not bool(self.allowed.any(1).all()):
            raise ValueError("a query without any allowed reference cannot be given one")

    def places(self, chosen: Tensor) -> Tensor:
        """(N, ...) chosen candidates → their places in the pool."""
        return self.index.gather(1, chosen.flatten(1)).view_as(chosen)


@dataclass(frozen=True)
class Encoded:
    """A short list that SPNet's encoder has read, so that several calls with the same weights need not read it again.

    Attributes:
        shortlist: of N queries with K candidates.
        tokens: (N, K, width).
    """

    shortlist: Shortlist
    tokens: Tensor


def pooled(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean inside the mask: (N, C, h, w) features, (N, H, W) masks in 0..1 → two (N, C); an empty mask counts as full."""
    weight = F.interpolate(masks[:, None].to(features), features.shape[-2:], mode="area")
    whole, mass = features.mean((2, 3)), weight.sum((2, 3))
    return whole, torch.where(mass > 1e-3, (features * weight).sum((2, 3)) / mass.clamp(min=1e-6), whole)


def pooled_memory(features: Tensor, masks: Tensor) -> Tensor:
    """``AvgPool(E) + MaskPool(E, M)`` of SAMIX: (N, M, h, w) features, (N, H, W) masks in 0..1 → (N, M)."""
    whole, inside = pooled(features.float(), masks)
    return whole + inside


# -------------------------------------------------------------------------------------------------------- candidates


@torch.no_grad()
def make_shortlist(
    query: Query, pool: Entries, allowed: Tensor, generator: torch.Generator, count: int = 48, random: int = 8
) -> Shortlist:
    """Take few candidates per query out of E entries: the nearest by object, the nearest by whole image, and some at random.

    The random ones let the policy learn of useful references that are not similar. Memory grows with N·``ENTRIES_AT_ONCE``, not with N·E
    (but for ``allowed`` itself).

    Args:
        query: of N.
        pool: of (E,).
        allowed: (N, E) bool, from the pool's rule of finer labels; every row needs at least one True.
        generator: of the random ones.
        count: K; fewer where the pool has fewer entries.
        random: how many of them are drawn at random; of the rest, half are nearest by object, half by whole image.

    Returns:
        Distinct candidates for every query. A query with fewer allowed entries than K is given all of them, and padding that is not
        ``allowed``.

    Raises:
        ValueError: a query has no allowed entry, or ``random`` is not in 0..``count``.
    """
    if not 0 <= random <= count:
        raise ValueError(f"random = {random} candidates out of count = {count}")
    queries, entries = allowed.shape
    count = min(count, entries)
    by_whole = max(count - random, 0) // 2
    by_object = max(count - random - by_whole, 0)
    available = allowed.clone()

    def chance(part: slice) -> Tensor:
        noise = torch.rand(queries, part.stop - part.start, generator=generator, device=generator.device)
        return noise.to(available.device)

    rules: list[tuple[int, Callable[[slice], Tensor]]] = [
        (by_object, lambda part: cosine(query.foreground, pool.foreground[part])),
        (by_whole, lambda part: cosine(query.whole, pool.whole[part])),
        (count - by_whole - by_object, chance),
    ]
    places: list[Tensor] = []
    usable: list[Tensor] = []
    for number, score in rules:
        if number:
            values, nearest = _best(score, available, number)
            places.append(nearest)
            usable.append(values > -torch.inf)
            available.scatter_(1, nearest, False)
    index = torch.cat(places, 1)
    return Shortlist(query, pool[index], torch.cat(usable, 1), index)


def _best(score: Callable[[slice], Tensor], left: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest scores per row among what is ``left`` (N, E), and where; -inf where too few are left."""
    values = torch.empty(len(left), 0, device=left.device)
    index = torch.empty(len(left), 0, dtype=torch.long, device=left.device)
    for start in range(0, left.shape[1], ENTRIES_AT_ONCE):
        part = slice(start, min(start + ENTRIES_AT_ONCE, left.shape[1]))
        new = score(part).float().masked_fill(~left[:, part], -torch.inf)
        near = new.topk(min(count, new.shape[1]), dim=1)
        values = torch.cat([values, near.values], 1)
        index = torch.cat([index, near.indices + start], 1)
        best = values.topk(min(count, values.shape[1]), dim=1)
        values, index = best.values, index.gather(1, best.indices)
    return values, index


# -------------------------------------------------------------------------------------------------------- the network


class SPNet(nn.Module):
    """A pointer network over candidates: a ``rl.grpo.Policy`` that chooses T of them one by one, each given those chosen before.

    The encoder is a transformer over the candidates, without positions: their order has no effect. The decoder starts from the query's
    pooled features. The probability of a candidate is a softmax of ``cos(q + A h, c + B e) / temperature`` over those that are allowed
    and not chosen yet: q and c are the unit vectors of the pooled objects of query and candidate, h the decoder's and e the encoder's
    output. A and B are zero at first, so that an untrained SPNet's greedy choice is the selector ``similar-foreground``; the layers
    below A and B therefore get no gradient in the first step. Where a query has fewer allowed candidates than T, its last choice
    repeats, with probability 1.

    Args:
        channels: C, of the pooled image features.
        memory_channels: M, of the pooled memory.
        width: of the transformer.
        layers: of encoder and of decoder.
        heads: of attention; must divide ``width``.
        temperature: initial value; it is learnt, and never below 0.01.
    """

    def __init__(
        self,
        channels: int,
        memory_channels: int = 64,
        width: int = 128,
        layers: int = 3,
        heads: int = 4,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.whole = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.foreground = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.memory = nn.Sequential(nn.LayerNorm(memory_channels), nn.Linear(memory_channels, width))
        self.candidate_kind = nn.Embedding(len(Kind), width)
        self.query_kind = nn.Embedding(len(Kind), width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.latest = nn.Linear(width, width)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.query_shift = nn.Linear(width, channels, bias=False)
        self.candidate_shift = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.query_shift.weight)
        nn.init.zeros_(self.candidate_shift.weight)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def encode(self, shortlist: Shortlist) -> Encoded:
        """Read the candidates once, for several of the following calls."""
        entries = shortlist.candidates
        tokens = self.memory(entries.memory) + self.whole(entries.whole) + self.foreground(entries.foreground)
        tokens = tokens + self.candidate_kind(entries.kind)
        for layer in self.encoder:
            tokens = layer(tokens, shortlist.allowed)
        return Encoded(shortlist, self.encoder_norm(tokens))

    def sample(
        self,
        shortlist: Shortlist | Encoded,
        groups: int,
        length: int,
        generator: torch.Generator,
        alike: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draw G distinct sequences of T candidates per query: see ``rl.grpo.Policy``; ``alike``: see ``rl.grpo.beam_search``.

        Distinct as sequences: two of a group may hold the same candidates in another order.
        """
        return self._search(shortlist, groups, length, generator, alike)

    def score(self, shortlist: Shortlist | Encoded, sequences: Tensor) -> Tensor:
        """(N, G, T) candidates → (N, G, T) log-probability of every choice, in one pass over all T; -inf for what cannot be chosen."""
        logits = self._logits(self._encoded(shortlist), sequences[..., :-1])
        return logits.log_softmax(-1).gather(-1, sequences[..., None])[..., 0]

    def choose(self, shortlist: Shortlist | Encoded, length: int, beam: int = 1) -> Tensor:
        """(N, T): the most probable sequence of candidates that a search ``beam`` wide finds; 1 = greedy."""
        return self._search(shortlist, beam, length, None)[0][:, 0]

    @torch.no_grad()
    def _search(
        self,
        shortlist: Shortlist | Encoded,
        width: int,
        length: int,
        generator: torch.Generator | None,
        alike: bool = False,
    ) -> tuple[Tensor, Tensor]:
        encoded = self._encoded(shortlist)
        return beam_search(
            lambda prefix: self._logits(encoded, prefix)[:, :, -1],
            len(encoded.tokens),
            width,
            length,
            generator,
            encoded.tokens.device,
            alike,
        )

    def _encoded(self, shortlist: Shortlist | Encoded) -> Encoded:
        return shortlist if isinstance(shortlist, Encoded) else self.encode(shortlist)

    def _logits(self, encoded: Encoded, prefix: Tensor) -> Tensor:
        """(N, G, t) choices so far → (N, G, t + 1, K) logits of the choice after each of the 0..t first of them; -inf = impossible."""
        shortlist, tokens = encoded.shortlist, encoded.tokens
        query = shortlist.query
        start = self.whole(query.whole) + self.foreground(query.foreground) + self.query_kind(query.kind)
        start = start[:, None, None].expand(-1, prefix.shape[1], 1, -1)
        rows = prefix.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
        latest = self.latest(tokens.gather(1, rows)).view(*prefix.shape, tokens.shape[-1])
        state = torch.cat([start, start + latest], 2)
        for layer in self.decoder:
            state = layer(state, tokens, shortlist.allowed)
        query_vectors = self.query_shift(self.decoder_norm(state))
        candidate_vectors = self.candidate_shift(tokens)
        # The cosines of pooled features are close to each other; half precision could not separate them.
        with torch.autocast(tokens.device.type, enabled=False):
            query_vectors = F.normalize(query.foreground.float(), dim=-1)[:, None, None] + query_vectors.float()
            candidate_vectors = F.normalize(shortlist.candidates.foreground.float(), dim=-1) + candidate_vectors.float()
            similarity = F.normalize(query_vectors, dim=-1).flatten(1, 2) @ F.normalize(
                candidate_vectors, dim=-1
            ).transpose(1, 2)
        temperature = self.log_temperature.clamp(min=math.log(0.01)).exp()
        logits = similarity.view(*state.shape[:3], -1) / temperature
        return logits.masked_fill(~_possible(shortlist.allowed, prefix), -torch.inf)


def _possible(allowed: Tensor, prefix: Tensor) -> Tensor:
    """(N, K) allowed, (N, G, t) chosen → (N, G, t + 1, K): allowed and not chosen yet; the last choice where nothing else is left."""
    choices = F.pad(F.one_hot(prefix, allowed.shape[1]), (0, 0, 1, 0))
    free = allowed[:, None, None] & (choices.cumsum(2) == 0)
    return torch.where(free.any(-1, keepdim=True), free, choices > 0)


class Attention(nn.Module):
    """Multi-head attention of x (N, L, width) to y (N, S, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, y: Tensor, usable: Tensor | None = None, causal: bool = False) -> Tensor:
        """``usable``: (N, S) bool, at least one per row; ``causal``: x is y, and sees only itself and what is before."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(y).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if usable is None else usable[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
        return self.out(attended.transpose(1, 2).flatten(2))


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class EncoderLayer(nn.Module):
    """Normalise first, then self-attention and feed-forward, each added to what came in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feed_forward = _feed_forward(width)

    def forward(self, tokens: Tensor, usable: Tensor) -> Tensor:
        """tokens (N, K, width), usable (N, K) bool."""
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, usable)
        return tokens + self.feed_forward(tokens)


class DecoderLayer(nn.Module):
    """Self-attention along each sequence, attention to the candidates that all sequences of a query share, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads)
        self.feed_forward = _feed_forward(width)

    def forward(self, state: Tensor, encoded: Tensor, usable: Tensor) -> Tensor:
        """state (N, G, T, width), encoded (N, K, width), usable (N, K) bool."""
        normed = self.norm(state).flatten(0, 1)
        state = state + self.attention(normed, normed, causal=True).view_as(state)
        state = state + self.cross(self.cross_norm(state).flatten(1, 2), encoded, usable).view_as(state)
        return state + self.feed_forward(state)
