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

from maskwright.engine.announce import announce
from maskwright.recipes.samix.config import Config
from maskwright.sam.sources import require_source

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    require_source(config.sam)
    started = announce("samix", config)
    # These need PyTorch, which takes seconds to import: the first line comes before, and the help does without.
    from maskwright.engine.session import Session
    from maskwright.recipes.samix import report
    from maskwright.recipes.samix.trainer import Trainer

    with Session.open(config, config.settings(), started=started) as session:
        trainer = Trainer(config, session)
        session.begin(trainer, files=[report.PSEUDO])
        trainer.warm_up()
        trainer.visit_all()
        trainer.warm_up_policy()
        report.reserve_ending(trainer)
        trainer.fit()
        if session.finish():
            scores = report.keep_model(trainer)
            in_context = trainer.decide_looks()
            trainer.blend_pseudo_masks()
            report.write_model(trainer)
            report.write_pseudo_masks(trainer)
            report.write_report(trainer, scores, in_context)
    return config.out
