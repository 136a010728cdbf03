"""Which references should SAM be shown? Dice of in-context masks by selector, and how much of the head-room a policy captures.

    python benchmarks/reference_selectors.py --data polyps --seeds 0 1 2 --out runs/selectors/polyps --json polyps_selectors.json
    python benchmarks/reference_selectors.py --data scenes --seeds 0 1 2 --out runs/selectors/scenes
    python benchmarks/reference_selectors.py --data streets --out runs/selectors/streets

`polyps` and `streets` are folders in --datasets; `scenes` are rendered into OUT, with four categories. Any other --data is a folder.

The pool are training images with masks; the queries are images of the test split, asked for without any prompt, once for each
category that they show. SPNet (`policy`) learns by GRPO on the pool's own images, each without itself. Every fifth of them is kept
back as a query, and decides when it has learnt enough. It may look before it chooses: SAM answers --looks sets. Three further rows
say what each half is worth: `policy, looking` always looks, `policy, unseen` never does, `policy, untrained` looks, but never learnt.
Neither val nor test are learnt from; val only says which heuristic is best, and whether `policy` looks. `oracle` chooses greedily with
the truth at hand, among the policy's candidates: no selector, but the end of the head-room.
Head-room captured = (policy - best heuristic) / (oracle - best heuristic). Intervals are paired bootstraps over the test images, each
image's score the mean over the seeds.

Every row of the table is a JSON file in OUT; a call that was killed goes on with those that are missing. --row-minutes bounds each: a
policy learns for so long, and an oracle that is not through with all images by then is compared on those that it has.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
import tyro

from context import Guess, Images, Queries, encode, fill, load_adapted
from frame import ResumableOptions, Table, interval, kept, publish
from maskwright.data.dataset import Dataset
from maskwright.data.labels import Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import Budget, progress
from maskwright.engine.metrics import paired_bootstrap
from maskwright.methods.in_context.judging import oracle
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy, head_room_captured
from maskwright.nets.selector import select
from maskwright.nets.selector_names import EvaluatedSelector, Heuristic
from maskwright.nets.spnet import Entries

HEURISTICS: tuple[Heuristic, ...] = get_args(Heuristic)
SCENES = {"train": 160, "val": 40, "test": 80, "size": 256, "categories": ("disc", "star", "ring", "leaf")}


@dataclass(kw_only=True)
class Config(ResumableOptions):
    """Selectors of references, side by side."""

    data: str
    """`polyps`, `scenes`, `streets`, or a folder with splits train, val and test; its training images with masks are the pool."""
    datasets: Path = Path("../shared/data")
    """Where the folders `polyps` and `streets` are."""
    truth: Path | None = None
    """The same images with all masks, where DATA has weak labels: what `--pool-masks` draws from beyond DATA's own masks
    (left out: DATA's splits_full.json or full.json where there is one, else DATA)."""
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
    """Training images in the pool, drawn anew for each seed; left out: 40 for scenes and streets, else all that have a mask in DATA."""
    more_queries: int = 0
    """Further training images with masks that SPNet learns on as queries, without being in the pool: what more masks would be worth."""
    queries: int | None = None
    """Test images at most, and half as many of `val`; left out: 60 for streets, else all."""
    guess: Guess = "answer"
    """Where the vector of a query's object comes from, as its truth must not be looked at: a first answer with the most similar
    references, or the whole image."""
    upright: bool | None = None
    """Images have an upright: the views that SPNet learns on are mirrored left to right, but not turned. Left out: streets alone."""
    views: int = 8
    """Views of every pool image that SPNet learns on."""
    row_minutes: float = 4.0
    """How long SPNet learns by GRPO, and the oracle searches, per row."""
    steps: int | None = None
    """GRPO steps, instead of a time."""
    batch: int = 8
    """Queries per step of SPNet."""
    groups: int = 8
    """Sets that are tried per query and step."""
    lr: float = 1e-4
    kl: float = 0.1
    """Weight of the divergence from the untrained SPNet, which chooses like `similar-foreground`."""
    shortlist: int = 48
    """Candidates that policy and oracle choose from."""
    looks: int = 16
    """Sets that SAM answers before the policy chooses one."""

    free: ClassVar[tuple[str, ...]] = (*ResumableOptions.free, "selectors", "references", "seeds", "datasets")

    def __post_init__(self) -> None:
        if min(self.views, self.looks, self.batch, self.threads, *self.references) < 1 or self.groups < 2:
            raise SystemExit(
                "--views, --looks, --batch, --threads and --references must be at least 1, --groups at least 2"
            )
        if self.pool_masks is None and self.data in ("scenes", "streets"):
            self.pool_masks = 40
        if self.queries is None and self.data == "streets":
            self.queries = 60
        if self.upright is None:
            self.upright = self.data == "streets"

    @property
    def folder(self) -> Path:
        """Of the dataset."""
        if self.data == "scenes":
            return self.out / "data"
        return self.datasets / self.data if self.data in ("polyps", "streets") else Path(self.data)


class Bench:
    """Data, embeddings and pools, each made when it is first needed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.data == "scenes":
            write_scenes(config.folder, **SCENES)
        self.dataset = Dataset.load(config.folder)
        self.truth = Dataset.load(self._truth_path())
        self._asked: tuple[tuple[int, int], dict[str, Queries]] | None = None

    def _truth_path(self) -> Path:
        config = self.config
        if config.truth is not None:
            return config.truth
        full = [config.folder / name for name in ("splits_full.json", "full.json")]
        return next((path for path in full if path.is_file()), config.folder)

    @cached_property
    def sam(self):
        return load_adapted(self.config.sam, self.config.size).requires_grad_(False)

    def members(self, seed: int) -> tuple[Dataset, set[str]]:
        """The images to learn on, and the ids of those in the pool: with masks in DATA, or so many drawn from all training masks, those
        of DATA first."""
        own = {s.id for s in self.dataset.split("train") if s.labels.kind == Kind.MASK}
        train = [s for s in self.truth.split("train") if s.labels.mask is not None]
        count, more = self.config.pool_masks, self.config.more_queries
        order = random.Random(seed).sample(train, len(train))
        order.sort(key=lambda s: s.id not in own)
        count = len(own & {s.id for s in train}) if count is None else count
        if count + more > len(train):
            raise SystemExit(
                f"--pool-masks {count} --more-queries {more}: only {len(train)} training images have masks"
            )
        wanted = {s.id for s in order[: count + more]}
        return self.truth.with_samples([s for s in train if s.id in wanted]), {s.id for s in order[:count]}

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
                raise SystemExit(f"{self.config.folder}: split {split} has no image with a mask")
            limit = min(limit or len(samples), len(samples))
            kept = [samples[i * len(samples) // limit] for i in range(limit)]
            found[split] = encode(self.sam, self.truth.with_samples(kept), f"encoding {split}")
        return found

    @cached_property
    def pool_images(self) -> Callable[[int], Images]:
        made: dict[tuple[str, ...], Images] = {}

        def images(seed: int) -> Images:
            members, _ = self.members(seed)
            key = tuple(s.id for s in members)
            if key not in made:
                made.clear()
                views = self.config.views if "policy" in self.config.selectors else 1
                made[key] = encode(
                    self.sam, members, "encoding the pool", views=views, upright=bool(self.config.upright), seed=seed
                )
            return made[key]

        return images

    def asked(self, seed: int, references: int) -> dict[str, Queries]:
        """Queries of ``train`` (the pool's images, without themselves), ``val`` and ``test``."""
        if self._asked is None or self._asked[0] != (seed, references):
            own = self.pool_images(seed)
            members, kept = self.members(seed)
            pool = fill(self.sam, own, {number for number, s in enumerate(members) if s.id in kept})
            made = {
                split: Queries(
                    self.sam, pool, images, own=split == "train", guess=self.config.guess, references=references
                )
                for split, images in {"train": own, **self.asked_images}.items()
            }
            if empty := [split for split, queries in made.items() if not len(queries)]:
                raise SystemExit(f"{self.config.folder}: the pool has no reference for any query of {', '.join(empty)}")
            self._asked = (seed, references), made
        return self._asked[1]


def learn(
    config: Config, asked: dict[str, Queries], references: int, seed: int
) -> tuple[ReferencePolicy, dict[str, Any]]:
    """SPNet after GRPO on four fifths of the pool's images: as it was when it did best on the others; and a record of how it went."""
    train = asked["train"]
    pool = train.pool.entries()
    policy = _policy(config, pool, references, seed)
    budget = Budget(steps=config.steps) if config.steps else Budget(minutes=config.row_minutes)
    generator = torch.Generator().manual_seed(seed)
    number = train.images.sample[train.rows.image]
    images = number.unique()
    kept = torch.isin(number, images[seed % min(5, len(images)) :: 5])
    held, own = (torch.arange(len(train))[part] for part in (kept, ~kept))
    curve: list[dict[str, float]] = []
    best = (-1.0, policy.net.state_dict())
    order = torch.empty(0, dtype=torch.long)
    started, step, checked = time.monotonic(), 0, -1
    sums: dict[str, list[float]] = {}
    with progress(100, f"learning, T = {references}, seed {seed}") as advance:
        share = 0.0
        while True:
            share, before = budget.share(step, (time.monotonic() - started) / 60), share
            advance(100 * (share - before))
            if int(10 * share) > checked:
                checked = int(10 * share)
                dice = float(
                    train.quick_dice(policy.choose(train.some(held), pool, train.allowed[held]).places, held).mean()
                )
                means = {name: sum(values) / len(values) for name, values in sums.items()}
                curve.append({"step": step, "minutes": (time.monotonic() - started) / 60, "held_out": dice, **means})
                sums.clear()
                if dice > best[0]:
                    best = dice, copy.deepcopy(policy.net.state_dict())
            if share >= 1:
                break
            if len(order) < config.batch:
                order = torch.cat([order, own[torch.randperm(len(own), generator=generator)]])
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
    """Scores of one selector on the images of val and test. The policy looks where that is better on val; ``variants`` has both ways."""
    asked = bench.asked(seed, references)
    started, record = time.monotonic(), {}
    pool = asked["test"].pool.entries()
    scores: dict[str, Any]
    if selector == "oracle":
        queries = asked["test"]
        shortlist = _policy(config, pool, references, seed).shortlist(queries.query, pool, queries.allowed)
        at, places = _oracle(queries, shortlist.index, shortlist.allowed, references, config.row_minutes)
        scores = {"test": queries.scores(places, at)}
    elif selector == "policy":
        untrained = _policy(config, pool, references, seed)
        policy, record = learn(config, asked, references, seed)
        looking = _chosen(asked, lambda q: policy.choose(q.query, pool, q.allowed, q.answer).places)
        unseen = _chosen(asked, lambda q: policy.choose(q.query, pool, q.allowed).places)
        record["looks"] = _mean(looking["val"]) > _mean(unseen["val"])
        scores = looking if record["looks"] else unseen
        record["variants"] = {
            "policy, looking": looking,
            "policy, unseen": unseen,
            "policy, untrained": _chosen(asked, lambda q: untrained.choose(q.query, pool, q.allowed, q.answer).places),
        }
    else:
        generator = torch.Generator().manual_seed(seed)
        scores = _chosen(
            asked,
            lambda q: select(
                selector,
                q.query.whole,
                q.query.foreground,
                pool.whole,
                pool.foreground,
                q.allowed,
                references,
                generator,
            ),
        )
    minutes = (time.monotonic() - started) / 60
    return {**scores, "queries": len(asked["test"]), "pool": len(asked["test"].pool), "minutes": minutes, **record}


def _policy(config: Config, pool: Entries, references: int, seed: int) -> ReferencePolicy:
    settings = PolicySettings(
        references=references,
        groups=config.groups,
        shortlist_size=config.shortlist,
        looks=config.looks,
        lr=config.lr,
        kl=config.kl,
    )
    return ReferencePolicy(pool.whole.shape[1], pool.memory.shape[1], settings, seed=seed)


def _chosen(asked: dict[str, Queries], choose: Callable[[Queries], torch.Tensor]) -> dict[str, dict[str, float]]:
    """What a way to choose comes to on val and test."""
    return {split: asked[split].scores(choose(asked[split])) for split in ("val", "test")}


def _oracle(
    queries: Queries, index: torch.Tensor, allowed: torch.Tensor, references: int, minutes: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries that there was time for (the images in an order by chance, each as a whole), and the oracle's places for them."""
    rank = torch.randperm(len(queries.images.ids), generator=torch.Generator().manual_seed(0))[queries.rows.image]
    order = rank.argsort(stable=True)
    ends = (rank[order][1:] != rank[order][:-1]).nonzero()[:, 0] + 1
    started, found, done = time.monotonic(), [], []
    with progress(len(queries), f"oracle, T = {references}") as advance:
        for at in order.tensor_split(ends.tolist()):
            chosen = oracle(
                lambda rows, places, at=at: queries.answer(at[rows], places),
                queries.judge(at),
                index[at],
                allowed[at],
                references,
            )[0]
            found.append(chosen)
            done.append(at)
            advance(len(at))
            if time.monotonic() - started > 60 * minutes:
                break
    return torch.cat(done), torch.cat(found)


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
    if "oracle" in test:
        # The oracle may not have had time for all images.
        compared = [name for name in (best, "policy", "oracle") if name in test]
        common = sorted(set.intersection(*(set(test[name]) for name in compared)))
        means = {name: _mean({i: test[name][i] for i in common}) for name in compared}
        figures["head_room"] = means["oracle"] - means[best]
        figures["head_room_images"] = len(common)
        if "policy" in means:
            figures["head_room_captured"] = head_room_captured(means[best], means["policy"], means["oracle"])
    return figures


def _mean(scores: dict[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def table(config: Config, figures: dict[int, dict[str, Any]]) -> Table:
    rows, notes = [], []
    for count, found in figures.items():
        best = found.get("best_heuristic")
        for name in (name for name in found if isinstance(found[name], dict)):
            difference = found[name].get("over_best_heuristic")
            spread = found[name]["seeds"]
            rows.append(
                [
                    f"T = {count}, {name}" + (" *" if name == best else ""),
                    f"{100 * found[name]['dice']:.2f}",
                    f"{100 * min(spread):.2f} .. {100 * max(spread):.2f}",
                    interval(None if difference is None or name == best else [100 * d for d in difference], digits=2),
                ]
            )
        if "head_room" in found:
            captured = found.get("head_room_captured")
            notes.append(
                f"T = {count}: head-room {100 * found['head_room']:.2f} on {found['head_room_images']} images"
                + ("" if captured is None else f", of which the policy captures {captured:.0%}")
            )
    return Table(
        f"Selectors on {config.folder.name if config.data != 'scenes' else 'scenes'}, SAM {config.sam}, {len(config.seeds)} seeds",
        ["", "Dice", "seeds", "over best heuristic"],
        rows,
        "Dice x 100, mean over test images. * best heuristic on val. " + "; ".join(notes),
    )


def main(config: Config) -> None:
    settings = config.start()
    bench = Bench(config)
    cells: dict[tuple[str, int, int], dict[str, Any]] = {}
    # All selectors of a seed and T one after the other: they share the pool and the first answers.
    for seed in config.seeds:
        for count in config.references:
            for name in config.selectors:
                path = config.out / f"{name}-t{count}-s{seed}.json"
                made = kept(path, lambda name=name, count=count, seed=seed: cell(config, bench, name, count, seed))
                cells[name, count, seed] = made
                for variant, scores in made.get("variants", {}).items():
                    cells[variant, count, seed] = scores
    figures = {count: summarise(cells, count) for count in config.references}
    publish(config, table(config, figures), settings, references=figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
