"""AlignSAM: a frozen SAM that prompts itself, learnt from a few images with masks.

Huang et al., "AlignSAM: Aligning Segment Anything Model to Open Context via Reinforcement Learning", CVPR 2024. SAM (and CLIP,
with ``--text``) stay frozen and encode every image once. Small networks learn: SRM, which says whether a place is foreground, and what
chooses the places to click on.

``config`` holds the settings, ``trainer`` the loop in the order of ``main`` below. An episode of it is in ``paper`` (as published) or in
``strong`` (ours, with ``views``). ``report`` writes the files that a run ends with.
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
    from maskwright.recipes.alignsam.paper import PaperTrainer
    from maskwright.recipes.alignsam.strong import StrongTrainer

    with Session.open(config, config.settings(), several_processes=False, started=started) as session:
        trainer = (PaperTrainer if config.preset == "paper" else StrongTrainer)(config, session)
        session.begin(trainer)
        report.reserve_ending(trainer)
        trainer.fit()
        if session.finish():
            report.keep_model(trainer)
            report.write_model(trainer)
            report.write_report(trainer)
    return config.out
