"""S⁴M: an instance segmenter from a small labelled share, and many images without labels.

Yoon et al., "S⁴M: Boosting Semi-Supervised Instance Segmentation with SAM", ICCV 2025. SAM 2 stays frozen; the segmenter is a
dense segmenter (``nets/dense_instances.py``), or a Mask2Former as in the paper. The student is the model that is exported.

``config`` holds the settings, ``trainer`` the algorithm in the order of ``main`` below, ``dense`` what differs for a dense segmenter,
``images`` which images it trains on, ``report`` the files that a run ends with.
"""

from __future__ import annotations

from pathlib import Path

from maskwright.engine.announce import announce
from maskwright.recipes.s4m.config import Config
from maskwright.sam.sources import require_source

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    require_source(config.sam)
    started = announce("s4m", config)
    # These need PyTorch, which takes seconds to import: the first line comes before, and the help does without.
    from maskwright.engine.session import Session
    from maskwright.recipes.s4m import report
    from maskwright.recipes.s4m.dense import DenseTrainer
    from maskwright.recipes.s4m.trainer import Trainer

    with Session.open(config, config.settings(), started=started) as session:
        trainer = (DenseTrainer if config.decoder == "dense" else Trainer)(config, session)
        session.begin(trainer, folders=[report.TEACHER])
        report.reserve_ending(trainer)
        if trainer.fit_teacher() and config.stage == "both":
            report.write_model(trainer, trainer.network, report.TEACHER)
        trainer.fit_student()
        if session.finish():
            report.keep_model(trainer)
            report.write_model(trainer, trainer.network, "model")
            report.write_report(trainer)
    return config.out
