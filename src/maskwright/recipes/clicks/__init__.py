"""Clicks: an agent that answers a user's click on a frozen SAM better than SAM does, by corrective clicks and by what it has learnt.

After "SAM2 Click Agent", which learns by PPO and whose clicks lower the mean Dice. Here the truth of the training images is used in
full: from every visited state many clicks are tried in one decode, and the true change of Dice of each is a regression target, so
that no credit has to be assigned over time.

``config`` holds the settings, ``trainer`` the algorithm in the order of ``main`` below with ``reinforcement`` and
``calibration`` as its later parts, ``sb3`` the published learner as a baseline, ``report`` the files that a run ends with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskwright.engine.announce import announce
from maskwright.errors import RunError
from maskwright.recipes.clicks.config import Config
from maskwright.sam.sources import require_source

if TYPE_CHECKING:
    from maskwright.engine.session import Session
    from maskwright.recipes.clicks.trainer import Trainer

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    require_source(config.sam)
    started = announce("clicks", config)
    # These need PyTorch, which takes seconds to import: the first line comes before, and the help does without.
    from maskwright.engine.session import Session
    from maskwright.recipes.clicks import report

    with Session.open(config, config.settings(), several_processes=False, started=started) as session:
        trainer = _trainer(config, session)
        session.begin(trainer, files=[report.GIF])
        report.reserve_ending(trainer)
        trainer.fit()
        trainer.calibrate()
        if session.finish(save=False):
            scores = report.validate(trainer)
            report.log_scores(trainer, scores)
            report.conclude(trainer, scores)
            report.write_model(trainer, scores)
            report.write_report(trainer, scores)
    return config.out


def _trainer(config: Config, session: Session) -> Trainer:
    from maskwright.recipes.clicks.trainer import Trainer

    if config.learner == "own":
        return Trainer(config, session)
    if config.resume:
        raise RunError("a training with --learner sb3 cannot be continued; start it anew with --overwrite")
    from maskwright.recipes.clicks.sb3 import Sb3Trainer  # seconds to import, and only the baseline needs it

    return Sb3Trainer(config, session)
