"""What it costs to choose the references of one query, by the number of entries in the pool.

    python benchmarks/selection_cost.py --data DATA/polyps DATA/saliency --threads 1 --json selection_cost.json

A large pool is searched by an index, which rests on vectors lying in groups, as those of images do. So the pools are made of vectors of
real images, by `nano`: each entry is one of them, moved by a part of the difference between two others. Without --data they are random,
which costs the same, and has no neighbours that could be found. The vectors lie in files, as those of a training's large pool do; memories
are left out.

`found` is the share of the nearest candidates, by object and by whole image, that the index finds, of 50 queries; `held` the memory of the
process beyond what it was before there was a pool, without what lies in files. Each selector and size runs in a process of its own.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro

from context import encode
from frame import Table, TimingOptions, publish
from maskwright import Dataset
from maskwright.data.labels import Kind
from maskwright.methods.in_context import pool as pools
from maskwright.methods.in_context.pool import ReferencePool, needed
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy
from maskwright.nets.selector import cosine, select
from maskwright.nets.selector_names import SelectorName
from maskwright.nets.spnet import Query, pooled
from measure import in_own_process, load_sam, median_seconds, private_bytes

SELECTORS: tuple[SelectorName, ...] = get_args(SelectorName)
WHOLE, FOREGROUND = "whole", "foreground"


@dataclass(kw_only=True)
class Config(TimingOptions):
    """Cost of choosing references by the size of the pool."""

    data: tuple[str, ...] = ()
    """Datasets with masks, whose vectors the pools are made of; none: random ones."""
    entries: tuple[int, ...] = (100, 1_000, 10_000, 100_000, 1_000_000)
    """Sizes of the pool."""
    channels: int = 256
    """Width of random vectors: 128 for nano, 256 for SAM 2."""
    views: int = 3
    """Views of each image."""
    references: int = 4
    shortlist: int = 48
    """Candidates of the policy."""
    look_at: Literal["some", "all"] = "some"
    """Which entries of a large pool: those that its index finds, or all."""
    repeats: int = 9


def vectors_of(config: Config) -> dict[str, torch.Tensor]:
    """(V, C) vectors of whole images and of their objects."""
    if not config.data:
        generator = torch.Generator().manual_seed(0)
        return {name: torch.randn(512, config.channels, generator=generator) for name in (WHOLE, FOREGROUND)}
    sam = load_sam("nano", None)
    found = []
    for folder in config.data:
        images = encode(sam, Dataset.load(folder), Path(folder).name, views=config.views)
        for at in torch.arange(len(images.rows)).split(64):
            truth, _ = images.maps(at, sam.size // 4)
            found.append(pooled(images.embedding.low[images.rows[at].image], truth))
    return {name: torch.cat(parts) for name, parts in zip((WHOLE, FOREGROUND), zip(*found))}


def drawn(vectors: dict[str, torch.Tensor], count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """(count, C) vectors that lie as the given ones do."""
    one, other, third = torch.randint(len(vectors[WHOLE]), (3, count), generator=generator)
    part = torch.rand(count, 1, generator=generator) * 0.6
    return {name: (v[other] - v[third]).mul_(part).add_(v[one]) for name, v in vectors.items()}


def make_pool(vectors: dict[str, torch.Tensor], entries: int, folder: str) -> ReferencePool:
    """A pool of that many entries, of one category with masks."""
    pool = ReferencePool(folder=Path(folder))
    pool.columns.limit = 0
    generator = torch.Generator().manual_seed(0)
    column = torch.arange(entries)
    # By name: nothing but these is needed to choose.
    keys = {"sample": column, "category": torch.ones_like(column), "kind": torch.full_like(column, int(Kind.MASK))}
    empty = torch.zeros(entries, 1)
    rest = {"features": empty.half(), "pointers": empty, "memory": torch.randn(entries, 64, generator=generator)}
    pool.load_state_dict(keys | rest | drawn(vectors, entries, generator))
    return pool


def chooser(
    name: SelectorName, config: Config, pool: ReferencePool, vectors: dict[str, torch.Tensor], queries: int = 1
) -> tuple[Query, Callable[[], torch.Tensor]]:
    """Queries, and a call that chooses references for them."""
    generator = torch.Generator().manual_seed(1)
    of_queries = drawn(vectors, queries, generator)
    query = Query(of_queries[WHOLE], of_queries[FOREGROUND], torch.zeros(queries).long())
    key = torch.full((queries,), -1), torch.ones(queries).long(), query.kind
    settings = PolicySettings(references=config.references, shortlist_size=config.shortlist)
    policy = ReferencePolicy(query.whole.shape[1], settings=settings)
    near, at_random = needed(name, config.references, config.shortlist)

    def choose() -> torch.Tensor:
        candidates = pool.candidates(*key, query, near, at_random, generator)
        entries, allowed = candidates.entries, candidates.allowed
        if name == "policy":
            return candidates.in_pool(policy.choose(query, entries, allowed).places)
        vectors_of_both = query.whole, query.foreground, entries.whole, entries.foreground
        return candidates.in_pool(select(name, *vectors_of_both, allowed, config.references, generator))

    return query, choose


def found_share(pool: ReferencePool, query: Query, count: int) -> float:
    """The share of each query's nearest entries, by whole image and by object, that are among its candidates."""
    key = torch.full_like(query.kind, -1), torch.ones_like(query.kind), query.kind
    shares = []
    for name, of_query in ((WHOLE, query.whole), (FOREGROUND, query.foreground)):
        candidates = pool.candidates(*key, query, {name: count})
        for vector, allowed in zip(of_query, candidates.allowed):
            nearest = cosine(vector[None], pool.tensors[name])[0].topk(count).indices
            given = candidates.in_pool(allowed.nonzero()[:, 0])
            shares.append(torch.isin(nearest, given).float().mean())
    return float(torch.stack(shares).mean())


def measure(name: SelectorName, config: Config, vectors: dict[str, torch.Tensor], entries: int) -> dict[str, Any]:
    """One selector and size, in a process of its own."""
    torch.set_num_threads(config.threads)
    if config.look_at == "all":
        pools.LARGE = entries + 1
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        # What every process pays once, such as the libraries' own buffers, is not the pool's size.
        chooser(name, config, make_pool(vectors, 64, folder), vectors)[1]()
        gc.collect()
        before, started = private_bytes(), time.perf_counter()
        pool = make_pool(vectors, entries, folder)
        made = time.perf_counter() - started
        query, choose = chooser(name, config, pool, vectors)
        seconds = median_seconds(choose, config.repeats)
        gc.collect()
        row = {"seconds": seconds, "held_bytes": private_bytes() - before, "made_seconds": made}
        if pool.index is not None and name == "policy":
            query, _ = chooser(name, config, pool, vectors, 50)
            row["found"] = found_share(pool, query, min(config.shortlist, entries))
        return row


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    vectors = vectors_of(config)
    figures: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in SELECTORS}
    for name in SELECTORS:
        for entries in config.entries:
            figures[name][entries] = in_own_process(measure, name, config, vectors, entries)
    cells = {
        name: {str(entries): cell | {"entries": entries} for entries, cell in by_size.items()}
        for name, by_size in figures.items()
    }
    publish(config, table(config, figures), config.settings(), selectors=cells)


def table(config: Config, figures: dict[str, dict[int, dict[str, Any]]]) -> Table:
    rows = [[name, *(f"{c['seconds'] * 1e3:.2f}" for c in by_size.values())] for name, by_size in figures.items()]
    last = figures["policy"].values()
    rows.append(["held, MiB", *(f"{cell['held_bytes'] / 2**20:.0f}" for cell in last)])
    rows.append(["found", *(f"{cell['found']:.3f}" if "found" in cell else "all" for cell in last)])
    rows.append(["pool made in, s", *(f"{cell['made_seconds']:.1f}" for cell in last)])
    return Table(
        f"Choosing {config.references} references for one query, ms by entries of the pool",
        ["", *(f"{entries:,}" for entries in config.entries)],
        rows,
        f"Median of {config.repeats} calls after one that is not counted; {config.shortlist} candidates.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
