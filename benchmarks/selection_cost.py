"""What it costs to choose the references of one query, by the number of entries in the pool.

    python benchmarks/selection_cost.py --json selection_cost.json

The vectors are random, which costs the same as real ones. `policy` takes its candidates out of the pool first and looks at these alone:
the larger the pool, the more of its time is that first look, which is the one thing that must grow. Each selector and size runs in a
process of its own; `over the pool` is by how much its peak of memory exceeds that of holding the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
import tyro

from frame import Table, TimingOptions, publish
from maskwright.data.labels import Kind
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy
from maskwright.nets.selector import select
from maskwright.nets.selector_names import Heuristic
from maskwright.nets.spnet import Entries, Query
from measure import in_own_process, median_seconds, peak_bytes

SELECTORS = (*get_args(Heuristic), "policy")


@dataclass(kw_only=True)
class Config(TimingOptions):
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
    return {"seconds": seconds, "over_pool_bytes": peak_bytes() - before}


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    figures: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in SELECTORS}
    for name in SELECTORS:
        for entries in config.entries:
            figures[name][entries] = in_own_process(measure, name, config, entries)
    cells = {
        name: {str(entries): cell | {"entries": entries} for entries, cell in by_size.items()}
        for name, by_size in figures.items()
    }
    publish(config, table(config, figures), config.settings(), selectors=cells)


def table(config: Config, figures: dict[str, dict[int, dict[str, Any]]]) -> Table:
    return Table(
        f"Choosing {config.references} references for {config.queries} queries: ms / MiB over the pool, by entries",
        ["", *(f"{entries:,}" for entries in config.entries)],
        [
            [name, *(f"{c['seconds'] * 1e3:.2f} / {c['over_pool_bytes'] / 2**20:.1f}" for c in by_size.values())]
            for name, by_size in figures.items()
        ],
        f"Median of {config.repeats} calls after one that is not counted; {config.channels} channels, {config.shortlist} candidates.",
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
