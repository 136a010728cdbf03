"""What it costs to choose the references of one query, by the number of entries in the pool.

    python benchmarks/selection_cost.py --json selection_cost.json

The vectors are random, which costs the same as real ones. `policy` takes its candidates out of the pool first and looks at these alone:
the larger the pool, the more of its time is that first look, which is the one thing that must grow. Each selector and size runs in a
process of its own; `over the pool` is by how much its peak of memory exceeds that of holding the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import tyro

from maskwright.data.labels import Kind
from maskwright.engine.run import settings_of
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy
from maskwright.nets.selector import Heuristic, select
from maskwright.nets.spnet import Entries, Query
from measure import in_own_process, machine, median_seconds, peak_bytes, save, show

SELECTORS = (*get_args(Heuristic), "policy")


@dataclass
class Config:
    """Cost of choosing references by the size of the pool."""

    entries: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    """Sizes of the pool."""
    channels: int = 256
    """Width of the pooled image features: 128 for nano, 256 for SAM 2."""
    queries: int = 1
    """Queries at a time."""
    references: int = 4
    shortlist: int = 48
    """Candidates of the policy."""
    repeats: int = 9
    """Calls that the median is taken of, after one that is not counted."""
    threads: int = 2
    json: Path | None = None
    """Also write the figures to this file."""

    def __post_init__(self) -> None:
        if min(*self.entries, self.queries, self.references, self.shortlist, self.repeats, self.threads) < 1:
            raise SystemExit("all numbers must be at least 1")


def chooser(name: str, config: Config, entries: int) -> Callable[[], object]:
    """A call that chooses references for the queries out of a pool of random vectors."""
    generator = torch.Generator().manual_seed(0)

    def vectors(count: int, width: int) -> torch.Tensor:
        return torch.randn(count, width, generator=generator)

    wide = config.channels
    kinds = torch.full((entries,), int(Kind.MASK))
    pool = Entries(vectors(entries, 64), vectors(entries, wide), vectors(entries, wide), kinds)
    query = Query(vectors(config.queries, wide), vectors(config.queries, wide), torch.zeros(config.queries).long())
    allowed = torch.ones(config.queries, entries, dtype=torch.bool)
    if name == "policy":
        settings = PolicySettings(references=config.references, shortlist_size=config.shortlist)
        policy = ReferencePolicy(wide, settings=settings)
        return lambda: policy.choose(query, pool, allowed)
    rule: Any = name
    return lambda: select(
        rule, query.whole, query.foreground, pool.whole, pool.foreground, allowed, config.references, generator
    )


def measure(name: str, config: Config, entries: int) -> dict[str, Any]:
    """One selector and size, in a process of its own."""
    torch.set_num_threads(config.threads)
    torch.set_grad_enabled(False)
    # What every process pays once, such as the libraries' own buffers, is not the pool's size.
    chooser(name, config, 64)()
    choose = chooser(name, config, entries)
    before = peak_bytes()
    seconds = median_seconds(choose, config.repeats)
    return {"seconds": seconds, "over_pool_bytes": peak_bytes() - before, "machine": machine()}


def main(config: Config) -> None:
    figures: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in SELECTORS}
    for name in SELECTORS:
        for entries in config.entries:
            figures[name][entries] = in_own_process(measure, name, config, entries)
    facts = figures[SELECTORS[0]][config.entries[0]]["machine"]
    rows = [
        [name, *(f"{f['seconds'] * 1e3:.2f} / {f['over_pool_bytes'] / 2**20:.1f}" for f in by_size.values())]
        for name, by_size in figures.items()
    ]
    show(
        f"Choosing {config.references} references for {config.queries} queries: ms / MiB over the pool, by entries",
        ["", *(f"{entries:,}" for entries in config.entries)],
        rows,
        facts,
        f"Median of {config.repeats} calls after one that is not counted; {config.channels} channels, {config.shortlist} candidates.",
    )
    settings = settings_of(config, "json")
    cells = {
        name: {
            str(entries): {k: v for k, v in f.items() if k != "machine"} | {"entries": entries}
            for entries, f in by_size.items()
        }
        for name, by_size in figures.items()
    }
    save(config.json, {"settings": settings, "machine": facts, "selectors": cells})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
