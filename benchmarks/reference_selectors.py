r"""Which references should SAM be shown? Dice of in-context masks by selector, and how much of the head-room a policy captures.

    python benchmarks/reference_selectors.py --data ../shared/data/polyps --out runs/selectors/polyps --json polyps_selectors.json
    python benchmarks/reference_selectors.py --data runs/scenes --scenes --out runs/selectors/scenes
    python benchmarks/reference_selectors.py --data ../shared/data/streets --upright --queries 60 --pool-masks 40 \
        --out runs/selectors/streets

The pool are training images with masks; the queries are images of the test split, asked for without any prompt, once for each
category that they show. SPNet (`policy`) learns by GRPO on the pool's own images, each without itself; test images are never learnt
from, and `val` only decides how long to learn and which heuristic is best. `oracle` chooses greedily with the truth at hand, among
the policy's candidates: no selector, but the end of the head-room. Head-room captured = (policy - best heuristic) / (oracle - best
heuristic). Intervals are paired bootstraps over the test images, each image's score the mean over the seeds.

Every cell of the table is a JSON file in OUT; a call that was killed goes on with the cells that are missing.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
import tyro

from context import Guess, Images, Queries, encode, fill, load_adapted
from maskwright.data.images import write_atomic
from maskwright.data.labels import Dataset, Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import Budget, progress
from maskwright.engine.metrics import paired_bootstrap
from maskwright.engine.selection import ReferencePolicy, head_room_captured, oracle
from maskwright.nets.selector import EvaluatedSelector, Heuristic, select
from measure import machine, save, show

HEURISTICS: tuple[Heuristic, ...] = get_args(Heuristic)
SCENES = {"train": 160, "val": 40, "test": 80, "size": 256, "categories": ("disc", "star", "ring", "leaf")}


@dataclass
class Config:
    """Selectors of references, side by side."""

    data: Path
    """Dataset with splits train, val and test; its training images with masks are the pool."""
    out: Path
    """Folder for the finished cells."""
    truth: Path | None = None
    """The same images with all masks, where DATA has weak labels: what `--pool-masks` draws from beyond DATA's own masks
    (left out: DATA's splits_full.json or full.json where there is one, else DATA)."""
    scenes: bool = False
    """Render procedural scenes with four categories into DATA where they are not there yet."""
    sam: str = "nano"
    """What `Sam.load` takes, `random`, or a run of `samix`: its adapted SAM."""
    size: int | None = None
    """Canvas in pixels other than the checkpoint's."""
    selectors: tuple[EvaluatedSelector, ...] = (*HEURISTICS, "policy", "oracle")
    references: tuple[int, ...] = (1, 4)
    """Numbers of references (T)."""
    seeds: tuple[int, ...] = (0,)
    """Of the pool where it is drawn, of `random`, and of SPNet."""
    pool_masks: int | None = None
    """Training images in the pool, drawn anew for each seed; left out: all that have a mask in DATA."""
    queries: int | None = None
    """Test images at most, and half as many of `val`; left out: all."""
    guess: Guess = "answer"
    """Where the vector of a query's object comes from, as its truth must not be looked at: a first answer with the most similar
    references, or the whole image."""
    upright: bool = False
    """Images have an upright: the views that SPNet learns on are mirrored left to right, but not turned."""
    views: int = 8
    """Views of every pool image that SPNet learns on."""
    minutes: float = 4.0
    """Learning time of SPNet per cell."""
    steps: int | None = None
    """Learn so many steps instead."""
    batch: int = 8
    """Queries per step of SPNet."""
    groups: int = 8
    """Sets that are tried per query and step."""
    lr: float = 1e-4
    kl: float = 0.1
    """Weight of the divergence from the untrained SPNet, which chooses like `similar-foreground`."""
    shortlist: int = 48
    """Candidates that policy and oracle choose from."""
    threads: int = 1
    json: Path | None = None
    """Also write the figures to this file."""

    def __post_init__(self) -> None:
        if min(self.views, self.batch, self.threads, *self.references) < 1 or self.groups < 2:
            raise SystemExit("--views, --batch, --threads and --references must be at least 1, --groups at least 2")

    def settings(self) -> dict[str, Any]:
        """What decides the cells' content; cells made with other settings are not mixed."""
        free = ("out", "json", "selectors", "references", "seeds", "threads")
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k not in free}


class Bench:
    """Data, embeddings and pools, each made when it is first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.scenes:
            write_scenes(config.data, **SCENES)
        self.dataset = Dataset.load(config.data)
        self.truth = Dataset.load(self._truth_path())
        self._asked: tuple[tuple[int, int], dict[str, Queries]] | None = None

    def _truth_path(self) -> Path:
        config = self.config
        if config.truth is not None:
            return config.truth
        full = [config.data / name for name in ("splits_full.json", "full.json")]
        return next((path for path in full if path.is_file()), config.data)

    @cached_property
    def sam(self):
        return load_adapted(self.config.sam, self.config.size).requires_grad_(False)

    def members(self, seed: int) -> Dataset:
        """The pool's images: those with masks in DATA, or so many drawn from all training masks, those of DATA first."""
        own = {s.id for s in self.dataset.split("train") if s.labels.kind == Kind.MASK}
        train = [s for s in self.truth.split("train") if s.labels.mask is not None]
        count = self.config.pool_masks
        if count is None:
            return self.truth.with_samples([s for s in train if s.id in own])
        if count > len(train):
            raise SystemExit(f"--pool-masks {count}: only {len(train)} training images have masks")
        order = random.Random(seed).sample(train, len(train))
        order.sort(key=lambda s: s.id not in own)
        chosen = {s.id for s in order[:count]}
        return self.truth.with_samples([s for s in train if s.id in chosen])

    @cached_property
    def asked_images(self) -> dict[str, Images]:
        """The plain images of val and test, evenly spread where they are limited: neighbours are often alike."""
        found = {}
        for split, limit in (
            ("val", self.config.queries and -(-self.config.queries // 2)),
            ("test", self.config.queries),
        ):
            samples = [s for s in self.truth.split(split) if s.labels.mask is not None]
            if not samples:
                raise SystemExit(f"{self.config.data}: split {split} has no image with a mask")
            limit = min(limit or len(samples), len(samples))
            kept = [samples[i * len(samples) // limit] for i in range(limit)]
            found[split] = encode(self.sam, self.truth.with_samples(kept), f"encoding {split}")
        return found

    @cached_property
    def pool_images(self) -> Callable[[int], Images]:
        made: dict[tuple[str, ...], Images] = {}

        def images(seed: int) -> Images:
            members = self.members(seed)
            key = tuple(s.id for s in members)
            if key not in made:
                made.clear()
                views = self.config.views if "policy" in self.config.selectors else 1
                made[key] = encode(
                    self.sam, members, "encoding the pool", views=views, upright=self.config.upright, seed=seed
                )
            return made[key]

        return images

    def asked(self, seed: int, references: int) -> dict[str, Queries]:
        """Queries of ``train`` (the pool's images, without themselves), ``val`` and ``test``."""
        if self._asked is None or self._asked[0] != (seed, references):
            own = self.pool_images(seed)
            pool = fill(self.sam, own, set(own.sample.tolist()))
            made = {
                split: Queries(
                    self.sam, pool, images, own=split == "train", guess=self.config.guess, references=references
                )
                for split, images in {"train": own, **self.asked_images}.items()
            }
            if empty := [split for split, queries in made.items() if not len(queries)]:
                raise SystemExit(f"{self.config.data}: the pool has no reference for any query of {', '.join(empty)}")
            self._asked = (seed, references), made
        return self._asked[1]


def learn(
    config: Config, asked: dict[str, Queries], references: int, seed: int
) -> tuple[ReferencePolicy, dict[str, Any]]:
    """SPNet after GRPO on the training queries: as it was when it did best on ``val``, and a record of how it went."""
    train, val = asked["train"], asked["val"]
    pool = train.pool.entries()
    policy = ReferencePolicy(
        pool.whole.shape[1],
        pool.memory.shape[1],
        references=references,
        groups=config.groups,
        shortlist=config.shortlist,
        lr=config.lr,
        kl=config.kl,
        seed=seed,
    )
    budget = Budget(steps=config.steps) if config.steps else Budget(minutes=config.minutes)
    generator = torch.Generator().manual_seed(seed)
    curve: list[dict[str, float]] = []
    best = (-1.0, policy.net.state_dict())
    order = torch.empty(0, dtype=torch.long)
    started, step, validated = time.monotonic(), 0, -1
    sums: dict[str, list[float]] = {}
    with progress(100, f"learning, T = {references}, seed {seed}") as advance:
        share = 0.0
        while True:
            share, before = budget.progress(step, started), share
            advance(100 * (share - before))
            if int(10 * share) > validated:
                validated = int(10 * share)
                dice = float(val.quick_dice(policy.choose(val.query, pool, val.allowed)).mean())
                means = {name: sum(values) / len(values) for name, values in sums.items()}
                curve.append({"step": step, "minutes": (time.monotonic() - started) / 60, "val": dice, **means})
                sums.clear()
                if dice > best[0]:
                    best = dice, copy.deepcopy(policy.net.state_dict())
            if share >= 1:
                break
            if len(order) < config.batch:
                order = torch.cat([order, torch.randperm(len(train), generator=generator)])
            at, order = order[: config.batch], order[config.batch :]
            for group in policy.optimizer.param_groups:
                group["lr"] = config.lr * (1 - 0.9 * share)
            found = policy.step(
                train.some(at),
                pool,
                train.allowed[at],
                lambda rows, places, at=at: train.answer(at[rows], places),
                train.judge(at),
                generator,
            )
            for name, value in found.scalars.items():
                sums.setdefault(name, []).append(value)
            step += 1
    policy.net.load_state_dict(best[1])
    return policy, {"steps": step, "curve": curve}


def cell(config: Config, bench: Bench, selector: EvaluatedSelector, references: int, seed: int) -> dict[str, Any]:
    """Scores of one selector on the images of val and test."""
    asked = bench.asked(seed, references)
    started, record = time.monotonic(), {}
    pool = asked["test"].pool.entries()
    policy = ReferencePolicy(
        pool.whole.shape[1], pool.memory.shape[1], references=references, shortlist=config.shortlist, seed=seed
    )
    if selector == "policy":
        policy, record = learn(config, asked, references, seed)
    scores = {}
    for split in ("val", "test"):
        queries = asked[split]
        if selector == "policy":
            places = policy.choose(queries.query, pool, queries.allowed)
        elif selector == "oracle":
            if split == "val":
                continue
            seen = policy.observe(queries.query, pool, queries.allowed)
            places = _oracle(queries, seen.index, seen.allowed, references)
        else:
            query, generator = queries.query, torch.Generator().manual_seed(seed)
            places = select(
                selector,
                query.whole,
                query.foreground,
                pool.whole,
                pool.foreground,
                queries.allowed,
                references,
                generator,
            )
        scores[split] = queries.scores(places)
    minutes = (time.monotonic() - started) / 60
    return {**scores, "queries": len(asked["test"]), "pool": len(asked["test"].pool), "minutes": minutes, **record}


def _oracle(queries: Queries, index: torch.Tensor, allowed: torch.Tensor, references: int) -> torch.Tensor:
    parts = torch.arange(len(queries)).split(4)
    found = []
    with progress(len(parts), f"oracle, T = {references}") as advance:
        for at in parts:
            found.append(
                oracle(
                    lambda rows, places, at=at: queries.answer(at[rows], places),
                    queries.judge(at),
                    index[at],
                    allowed[at],
                    references,
                )[0]
            )
            advance()
    return torch.cat(found)


# --------------------------------------------------------------------------------------------------------- the table


def mean_scores(cells: Sequence[dict[str, Any]], split: str) -> dict[str, float]:
    """Every image's score as the mean over the seeds that have it."""
    found: dict[str, list[float]] = {}
    for one in cells:
        for name, value in one[split].items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def summarise(cells: dict[tuple[str, int, int], dict[str, Any]], references: int) -> dict[str, Any]:
    """Figures for one T: mean Dice by selector, differences to the best heuristic, head-room captured.

    Args:
        cells: by selector, T and seed.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for (name, count, _), one in sorted(cells.items(), key=lambda item: item[0][2]):
        if count == references:
            by_name.setdefault(name, []).append(one)
    test = {name: mean_scores(some, "test") for name, some in by_name.items()}
    figures: dict[str, Any] = {
        name: {"dice": _mean(scores), "seeds": [_mean(one["test"]) for one in by_name[name]]}
        for name, scores in test.items()
    }
    heuristics = [name for name in HEURISTICS if name in test]
    if not heuristics:
        return figures
    best = max(heuristics, key=lambda name: _mean(mean_scores(by_name[name], "val")))
    figures["best_heuristic"] = best
    for name, scores in test.items():
        common = sorted(scores.keys() & test[best].keys())
        low_high = paired_bootstrap([scores[i] for i in common], [test[best][i] for i in common])
        figures[name]["over_best_heuristic"] = low_high
    if {"policy", "oracle"} <= test.keys():
        figures["head_room"] = _mean(test["oracle"]) - _mean(test[best])
        figures["head_room_captured"] = head_room_captured(*(_mean(test[n]) for n in (best, "policy", "oracle")))
    elif "oracle" in test:
        figures["head_room"] = _mean(test["oracle"]) - _mean(test[best])
    return figures


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def table(config: Config, figures: dict[int, dict[str, Any]], facts: dict[str, Any]) -> None:
    rows, notes = [], []
    for count, found in figures.items():
        best = found.get("best_heuristic")
        for name in config.selectors:
            if name not in found:
                continue
            difference = found[name].get("over_best_heuristic")
            spread = found[name]["seeds"]
            rows.append(
                [
                    f"T = {count}, {name}" + (" *" if name == best else ""),
                    f"{100 * found[name]['dice']:.2f}",
                    f"{100 * min(spread):.2f} .. {100 * max(spread):.2f}",
                    ""
                    if difference is None or name == best
                    else "{:+.2f} ({:+.2f} .. {:+.2f})".format(*(100 * d for d in difference)),
                ]
            )
        if "head_room" in found:
            captured = found.get("head_room_captured")
            notes.append(
                f"T = {count}: head-room {100 * found['head_room']:.2f}"
                + ("" if captured is None else f", of which the policy captures {captured:.0%}")
            )
    show(
        f"Selectors on {config.data.name}, SAM {config.sam}, {len(config.seeds)} seeds",
        ["", "Dice", "seeds", "over best heuristic"],
        rows,
        facts,
        "Dice x 100, mean over test images. * best heuristic on val. " + "; ".join(notes),
    )


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    config.out.mkdir(parents=True, exist_ok=True)
    same = config.out / "settings.json"
    settings = json.loads(json.dumps(config.settings()))
    if same.is_file():
        found = json.loads(same.read_text())
        if different := [k for k in settings if found.get(k) != settings[k]]:
            raise SystemExit(f"{config.out}: its cells were made with other {', '.join(different)}; name another --out")
    write_atomic(same, json.dumps(settings, indent=1) + "\n")
    bench = Bench(config)
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    # All selectors of a seed and T one after the other: they share the pool and the first answers.
    for seed in config.seeds:
        for count in config.references:
            for name in config.selectors:
                path = config.out / f"{name}-t{count}-s{seed}.json"
                if not path.is_file():
                    write_atomic(path, json.dumps(cell(config, bench, name, count, seed), indent=1) + "\n")
                cells[name, count, seed] = json.loads(path.read_text())
    figures = {count: summarise(cells, count) for count in config.references}
    facts = machine()
    table(config, figures, facts)
    save(config.json, {"settings": settings, "machine": facts, "references": figures})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
