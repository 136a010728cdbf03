"""S⁴M: an instance segmenter from a small labelled share, and many images without labels.

Yoon et al., "S⁴M: Boosting Semi-Supervised Instance Segmentation with SAM", ICCV 2025. SAM 2 stays frozen; the segmenter is a
Mask2Former. The student is the model that is exported.

``config`` holds the settings, ``trainer`` the algorithm in the order of ``main`` below, ``images`` which images it trains on,
``report`` the files that a run ends with.
"""

from __future__ import annotations

from pathlib import Path

from maskwright.engine.session import Session
from maskwright.recipes.s4m.config import Config
from maskwright.recipes.s4m.report import TEACHER, write_model, write_report
from maskwright.recipes.s4m.trainer import Trainer

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    with Session.open(config, config.settings()) as session:
        trainer = Trainer(config, session)
        session.begin(trainer, folders=[TEACHER])
        if trainer.fit_teacher() and config.stage == "both":
            write_model(trainer, trainer.network, TEACHER)
        trainer.fit_student()
        if session.finish():
            write_model(trainer, trainer.network, "model")
            write_report(trainer)
    return config.out
