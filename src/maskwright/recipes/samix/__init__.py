"""SAMIX: a semantic segmenter from any mix of masks, boxes, scribbles, points, tags and unlabelled images.

Hu et al., "SAMIX: Reinforcing SAM2 with Semantic Adapter and Reference Selecting Policy for Mix-Supervised Segmentation", CVPR 2026.
SAM 2 stays frozen but for small adapters. Conditioned on a few reference images with masks, and prompted with an image's own
weak label, it makes the pseudo-mask of every weakly labelled image. An ordinary network learns from labels and pseudo-masks with
a mean teacher; the teacher is the model that is exported.

``config`` holds the settings, ``trainer`` the algorithm in the order of ``main`` below, ``setup`` what is trained and how
images are sampled, ``report`` the files that a run ends with.
"""

from __future__ import annotations

from pathlib import Path

from maskwright.engine.session import Session
from maskwright.recipes.samix.config import Config
from maskwright.recipes.samix.report import PSEUDO, write_model, write_pseudo_masks, write_report
from maskwright.recipes.samix.trainer import Trainer

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    with Session.open(config, config.settings()) as session:
        trainer = Trainer(config, session)
        session.begin(trainer, files=[PSEUDO])
        trainer.warm_up()
        trainer.visit_all()
        trainer.warm_up_policy()
        trainer.fit()
        if session.finish():
            trainer.blend_pseudo_masks()
            write_model(trainer)
            write_pseudo_masks(trainer)
            write_report(trainer)
    return config.out
