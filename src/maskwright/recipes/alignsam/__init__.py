"""AlignSAM: a frozen SAM that prompts itself, learnt from a few images with masks.

Huang et al., "AlignSAM: Aligning Segment Anything Model to Open Context via Reinforcement Learning", CVPR 2024. SAM (and CLIP,
with ``--text``) stay frozen and encode every image once. Two small networks learn: by PPO a policy that chooses where to click, and
from the masks SRM, which says whether that place is foreground.

``config`` holds the settings, ``trainer`` the algorithm in the order of ``main`` below, ``strong`` the further networks of
``--preset strong``, ``report`` the files that a run ends with.
"""

from __future__ import annotations

from pathlib import Path

from maskwright.engine.announce import announce
from maskwright.recipes.alignsam.config import Config
from maskwright.sam.sources import require_source

__all__ = ["Config", "main"]


def main(config: Config) -> Path:
    """Train and return the run directory."""
    require_source(config.sam)
    started = announce("alignsam", config)
    # These need PyTorch, which takes seconds to import: the first line comes before, and the help does without.
    from maskwright.engine.session import Session
    from maskwright.recipes.alignsam import report
    from maskwright.recipes.alignsam.trainer import Trainer

    with Session.open(config, config.settings(), several_processes=False, started=started) as session:
        trainer = Trainer(config, session)
        session.begin(trainer)
        report.reserve_ending(trainer)
        trainer.fit()
        if session.finish():
            report.keep_model(trainer)
            report.write_model(trainer)
            report.write_report(trainer)
    return config.out
