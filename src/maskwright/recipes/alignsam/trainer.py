"""What both presets of ``alignsam`` share: images, the loop over episodes, validation and checkpoints.

What happens in an episode is in ``paper`` and ``strong``, each a ``Trainer``.
"""

from __future__ import annotations

from abc import abstractmethod
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import nn

from maskwright.data.dataset import Dataset
from maskwright.engine.best import Best
from maskwright.engine.origin import Origin
from maskwright.engine.scoring import evenly_spread
from maskwright.engine.session import Session, Trainable
from maskwright.engine.timer import Part, Validations
from maskwright.errors import DataError
from maskwright.methods.autoprompt.agent import SelfPrompter
from maskwright.methods.autoprompt.scores import foreground_bank, foreground_of, scores_on_canvas
from maskwright.nets.clip_surgery import ClipSurgery
from maskwright.nets.recalibrate import Branch
from maskwright.recipes.alignsam.config import Config
from maskwright.rl.bank import Bank
from maskwright.sam.sam import Sam

VALIDATION_COST = 0.3
"""Time of an image in a validation relative to one in an episode: an estimate, to bound the time of validations."""


class Stream(IntEnum):
    """Purposes of the run's random numbers; see ``Session.generator``."""

    ACTIONS = 0
    SRM = 1


class Trainer(Trainable):
    """Networks, images and optimisers of one run.

    Attributes:
        bank: the training images that show foreground and background, ``--shots`` of them.
        drawn: the same as a dataset, and those without foreground that were drawn on the way, at most as many.
        val: images of the validation split; None where there are none.
        agent: what is trained.
        clicks, srm_updates: see ``Config``.
        modules: the networks of the model that is kept, by name; :meth:`build` sets them.
    """

    recipe = "alignsam"
    agent: SelfPrompter
    modules: dict[str, nn.Module]

    def __init__(self, config: Config, session: Session) -> None:
        self.config, self.session, self.device = config, session, session.device
        # Config has filled them in.
        assert config.clicks is not None
        assert config.srm_updates is not None
        self.clicks, self.srm_updates = config.clicks, config.srm_updates
        (self.stage,) = session.plan(config.length, Part("episodes", "training"))
        # Errors in the words are raised before anything that takes time.
        self.clip = ClipSurgery.load(config.clip, size=config.clip_size).to(self.device) if config.text else None
        if self.clip is not None:
            self.clip.check_names(config.text)
        self.branch: Branch = "explicit" if config.text else "implicit"
        self.foreground = foreground_of(session.dataset, config.category, config.text)
        self.sam = Sam.load(config.sam, size=config.size).to(self.device).requires_grad_(False)
        session.crop_images(self.sam.size)
        dataset = session.dataset
        # The networks that learn are tiny, and stay in float32.
        session.precision.lower(self.sam.networks())
        self.drawn, self.bank = self._shots(dataset)
        val = dataset.split("val")
        val = val.with_samples([sample for sample in val if sample.labels.mask is not None])
        val = evenly_spread(val, config.validation_images)
        self.val = foreground_bank(self.sam, val, self.foreground) if len(val) else None
        self.validations = Validations(config.validations, VALIDATION_COST * len(val) / len(self.bank))
        torch.manual_seed(config.seed)
        self.agent = self.build()
        self.best = Best(self.modules, config.keep, config.patience)

    @abstractmethod
    def build(self) -> SelfPrompter:
        """Make networks, optimisers and ``modules``."""

    @abstractmethod
    def learning(self) -> dict[str, Any]:
        """By name: networks and optimisers of a checkpoint."""

    @abstractmethod
    def episode(self) -> dict[str, float]:
        """Learn from one episode on all images. Returns what is logged."""

    def _shots(self, dataset: Dataset) -> tuple[Dataset, Bank]:
        """The training images that are drawn, and as a bank, encoded once, ``--shots`` of them that show foreground and background."""
        train = dataset.split("train")
        order_of_samples = shuffled(train, self.config.seed)
        shots = self.config.shots or None
        bank = foreground_bank(self.sam, order_of_samples, self.foreground, both=True, limit=shots)
        if shots and len(bank) < shots:
            raise DataError(
                [
                    f"{len(bank)} of {len(train)} images of split 'train' have a mask that shows {self.foreground.name!r} and "
                    f"something else; --shots asks for {shots}. Label more, or ask for fewer"
                ],
                dataset.source or str(dataset.root),
            )
        ids = [sample.id for sample in order_of_samples]
        last = len(ids) if shots is None else ids.index(bank.names[-1]) + 1
        shown, drawn = set(bank.names), list(order_of_samples)[:last]
        # Of crops of large images most may be without foreground.
        others = [sample.id for sample in drawn if sample.id not in shown][: len(bank)]
        return order_of_samples.with_samples([sample for sample in drawn if sample.id in shown.union(others)]), bank

    # ------------------------------------------------------------------------------------------------ checkpoints

    def parts(self) -> dict[str, Any]:
        return {**self.learning(), "best": self.best}

    def require_sam(self, origin: Origin) -> None:
        """Raise WeightsError if an earlier run is for another SAM."""
        then = origin.config.get("sam", {}).get("signature")
        origin.require_sam(self.config.sam, self.sam.signature(configured=origin.config.get("version", 1) > 1), then)

    # ------------------------------------------------------------------------------------------------ learning

    def fit(self) -> None:
        """Learn from one episode after the other."""
        session, scalars = self.session, dict[str, float]()

        def log_and_validate() -> None:
            session.log(**scalars)
            self._validate_if_due()

        for _ in session.steps(self.stage, log_every=None, then=log_and_validate, stop=self.best.is_exhausted):
            learnt = self.episode()
            scalars = learnt | session.averages()

    # ------------------------------------------------------------------------------------------------ validation

    def _validate_if_due(self) -> None:
        val = self.val
        if val is not None:
            self.session.validate_if_due(self.stage, self.validations, self.best, lambda: self.validate(val), "miou")

    def validate(self, bank: Bank) -> dict[str, float]:
        """Scores on the canvas, without any prompt."""
        scores = scores_on_canvas(self.agent, bank)
        return {name: scores[name] for name in ("miou", "mae", "f", "e", "fr") if scores[name] is not None}


def shuffled(train: Dataset, seed: int) -> Dataset:
    """The images with masks, in the order in which ``--shots`` are drawn from them."""
    masked = [sample for sample in train if sample.labels.mask is not None]
    return train.with_samples([masked[i] for i in np.random.default_rng(seed).permutation(len(masked)).tolist()])
