"""Learn the scorer that `maskwright find` ships with the bundled SAM: how good a candidate is, and whether the thing is there at all.

    python tools/train_find_scorer.py --packs packs/*.npz --out runs/find-scorer

1. Episodes (``find_episodes.py``): one to twenty examples of a thing, and images that show it or do not, half and half; of each the
   candidates of ``methods.find.candidates``, what is known of them, and their true Dice. Kept in ``OUT/episodes.safetensors``.
2. A small network learns the expected Dice of a candidate, and a logistic regression presence.
3. Calibration: in five folds over subjects, presence scores of episodes about things that neither had learnt from. Of each subject at
   most as many scores are kept as of the others; one, a few and many examples have calibrations of their own.

About 15 minutes of one core. Nothing that results are measured on is learnt from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from find_episodes import Subject, subjects
from maskwright.engine.budget import progress
from maskwright.engine.metrics import auroc
from maskwright.methods.find.candidates import propose
from maskwright.methods.find.clues import FEATURES
from maskwright.methods.find.scorer import BUNDLED, HIDDEN, Scorer, ScorerNet, seen_of
from maskwright.methods.find.showing import Showing
from maskwright.methods.find.verdicts import Calibration
from maskwright.sam.sam import Embedding, Sam
from nano_sources import KINDS
from photo_packs import read_pack, refuse_measured

EXAMPLES = (1, 1, 2, 5, 5, 10, 20)
"""Numbers of examples that are drawn from, as far as a subject has images."""

EPISODES = {"kind": 14, "scene": 4, "object": 2, "slide": 3, "bump": 4}
"""Of a subject, by family."""

QUERIES = 6
"""Images of each side in an episode."""

GROUPS = (1, 2, 6)
"""The least numbers of examples of those episodes that share a calibration."""

FOLDS, EACH = 5, 12

_COUNT = FEATURES.index("one of examples")


@dataclass
class Config:
    """Settings of the scorer's training."""

    packs: tuple[Path, ...]
    """Packs of photographs, see photo_packs.py."""
    out: Path
    """Folder for the episodes."""
    sam: str = "nano"
    """SAM whose answers are judged."""
    scorer: Path = BUNDLED
    """Where the scorer is written."""
    seed: int = 0
    """Of all draws."""


@dataclass
class Episodes:
    """Of Q queries.

    Attributes:
        features: (Q, K, F) of the candidates; ``dice`` (Q, K) of each, 0 where the thing is not there.
        present: (Q,) bool.
        hard: (Q,) bool: without the thing, at the same place.
        subject: (Q,) number of the subject; ``family`` (Q,) of its family.
    """

    features: Tensor
    dice: Tensor
    present: Tensor
    hard: Tensor
    subject: Tensor
    family: Tensor

    def __getitem__(self, rows: Tensor) -> Episodes:
        return Episodes(*(value[rows] for value in vars(self).values()))


def main(config: Config) -> None:
    refuse_measured([path.stem for path in config.packs], "--packs")
    sam = Sam.load(config.sam).requires_grad_(False)
    kept = config.out / "episodes.safetensors"
    if not kept.exists():
        config.out.mkdir(parents=True, exist_ok=True)
        packs = [read_pack(path, KINDS) for path in config.packs]
        parts = []
        every = list(subjects(packs, sam.size, config.seed))
        with progress(len(every), "episodes") as advance:
            for number, subject in enumerate(every):
                parts += _episodes(sam, subject, number, np.random.default_rng([config.seed, number]))
                advance(1)
        joined = Episodes(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))
        save_file(vars(joined), kept)
    episodes = Episodes(**load_file(kept))
    calibrations, lines = held_out(episodes, config.seed)
    print(*lines, sep="\n")
    quality, presence = fit(episodes, config.seed)
    Scorer(quality, presence, calibrations, sam.signature()).save(config.scorer)
    print(f"written: {config.scorer}")


@torch.inference_mode()
def _episodes(sam: Sam, subject: Subject, number: int, dice: np.random.Generator) -> list[Episodes]:
    shows, others = (_encoded(sam, images) for images in (subject.images, subject.others))
    family = list(EPISODES).index(subject.family)
    episodes = []
    for _ in range(EPISODES[subject.family]):
        count = min(int(dice.choice(EXAMPLES)), len(subject.images) - QUERIES)
        order = torch.from_numpy(dice.permutation(len(subject.images)))
        examples, queries = order[:count], order[count : count + QUERIES]
        # Half of the images without the thing are of the same place, where there are any.
        weight = np.where(
            subject.hard.numpy(), 1 / max(1, int(subject.hard.sum())), 1 / max(1, int((~subject.hard).sum()))
        )
        chosen = torch.from_numpy(dice.choice(len(weight), len(weight), False, weight / weight.sum()))
        negatives, absent = chosen[: int(dice.choice((0, 0, 1, 4)))], chosen[-QUERIES:]
        embedding = Embedding.cat([shows[0][examples], others[0][negatives]])
        masks = torch.cat(
            [subject.masks[examples], torch.zeros(len(negatives), *subject.masks.shape[1:], dtype=torch.bool)]
        )
        shown = Showing.of(sam, embedding, masks, torch.ones_like(masks)).shown()
        images = torch.cat([subject.images[queries], subject.others[absent]]).to(sam.dtype) / 255
        asked, mirrored = (Embedding.cat([a[queries], b[absent]]) for a, b in zip(shows, others, strict=True))
        found = propose(sam, images, shown, asked, mirrored)
        answers = F.interpolate(found.logits, subject.masks.shape[-2:], mode="bilinear", align_corners=False) > 0
        truths = torch.zeros(len(images), *subject.masks.shape[1:], dtype=torch.bool)
        truths[: len(queries)] = subject.masks[queries]
        both = (answers & truths[:, None]).sum((2, 3))
        present = torch.arange(len(images)) < len(queries)
        hard = torch.cat([torch.zeros(len(queries), dtype=torch.bool), subject.hard[absent]])
        same = torch.full((len(images),), number)
        total = answers.sum((2, 3)) + truths[:, None].sum((2, 3))
        dices = 2 * both / total.clamp(min=1)
        episodes.append(Episodes(found.features, dices, present, hard, same, torch.full_like(same, family)))
    return episodes


def _encoded(sam: Sam, images: Tensor) -> tuple[Embedding, Embedding]:
    """Of images (N, 3, S, S) uint8, and of their mirror images."""
    both: list[list[Embedding]] = [[], []]
    for part in images.split(16):
        pixels = part.to(sam.dtype) / 255
        both[0].append(sam.encode(pixels))
        both[1].append(sam.encode(pixels.flip(-1)))
    return Embedding.cat(both[0]), Embedding.cat(both[1])


def fit(episodes: Episodes, seed: int, steps: int = 1500) -> tuple[ScorerNet, ScorerNet]:
    """What tells the expected Dice, and presence."""
    there = episodes.present
    weights = _weights(episodes)
    quality = _fit(episodes.features[there], episodes.dice[there], weights[there], seed, steps, HIDDEN, 0.1, 0.05)
    with torch.inference_mode():
        seen = seen_of(episodes.features, quality(episodes.features))
    presence = _fit(seen.clone(), episodes.present.float(), weights, seed + 1, steps, 0, 0.3, 0.3)
    return quality, presence


def held_out(episodes: Episodes, seed: int) -> tuple[dict[int, Calibration], list[str]]:
    """Presence scores from networks that had not learnt from the subject; and lines that say how good they are."""
    scores, chosen, best = torch.zeros(len(episodes.present)), torch.zeros(len(episodes.present)), episodes.dice.amax(1)
    expected = torch.zeros(len(episodes.present))
    for fold in range(FOLDS):
        held = episodes.subject % FOLDS == fold
        quality, presence = fit(episodes[~held], seed)
        with torch.inference_mode():
            values = quality(episodes[held].features)
            scores[held] = presence(seen_of(episodes[held].features, values)).sigmoid()
        chosen[held] = episodes.dice[held].gather(1, values.argmax(1, keepdim=True))[:, 0]
        expected[held] = values.amax(1).sigmoid()
    lines = []
    for number, family in enumerate(EPISODES):
        rows = episodes.family == number
        there, hard = rows & episodes.present, rows & ~episodes.present & episodes.hard
        absent = rows & ~episodes.present
        lines.append(
            f"{family}: Dice {chosen[there].mean():.3f} of {best[there].mean():.3f} (best candidate), correlation of expected Dice "
            f"{_correlation(chosen[there], expected[there]):.2f}; AUROC of presence {_auroc(scores[there], scores[absent]):.3f}, "
            f"against the same place {_auroc(scores[there], scores[hard]):.3f}"
        )
    counts = (1 / episodes.features[:, 0, _COUNT]).round().long()
    ends = [*GROUPS[1:], 10**6]
    return {
        least: _calibration(episodes, scores, (counts >= least) & (counts < end), seed)
        for least, end in zip(GROUPS, ends, strict=True)
    }, lines


def _calibration(episodes: Episodes, scores: Tensor, rows: Tensor, seed: int) -> Calibration:
    """Of some of the queries, at most ``EACH`` of a subject on each side."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[list[Tensor]] = [[], []]
    for subject in episodes.subject.unique():
        for side, there in enumerate((True, False)):
            own = scores[rows & (episodes.subject == subject) & (episodes.present == there)]
            kept[side].append(own[torch.randperm(len(own), generator=generator)[:EACH]])
    return Calibration.of(torch.cat(kept[0]).numpy(), torch.cat(kept[1]).numpy())


def _weights(episodes: Episodes) -> Tensor:
    """(Q,) such that families count alike."""
    counts = torch.bincount(episodes.family, minlength=len(EPISODES)).clamp(min=1)
    share = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0])
    weight = (share / counts)[episodes.family]
    return weight / weight.mean()


def _fit(
    features: Tensor, target: Tensor, weights: Tensor, seed: int, steps: int, hidden: int, noise: float, decay: float
) -> ScorerNet:
    """Learn from rows drawn by their weights, with noise on the features and as large a share of them left out."""
    torch.manual_seed(seed)
    net = ScorerNet(features.shape[-1], hidden)
    flat = features.flatten(0, -2)
    net.mean.copy_(flat.mean(0))
    net.deviation.copy_(flat.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        rows = torch.multinomial(weights, 256, replacement=True)
        drop = torch.rand(256, *([1] * (features.ndim - 2)), features.shape[-1]) < noise
        noisy = features[rows] + noise * net.deviation * torch.randn_like(features[rows])
        loss = F.binary_cross_entropy_with_logits(net(torch.where(drop, net.mean, noisy)), target[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])


def _auroc(positive: Tensor, negative: Tensor) -> float:
    return auroc(positive.numpy(), negative.numpy()) if len(positive) and len(negative) else math.nan


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    main(tyro.cli(Config))
