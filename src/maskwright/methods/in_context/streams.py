"""Random streams of a SAMIX training: every generator is a function of the run's seed, a stream and a number (``engine.state.seeded``)."""

from __future__ import annotations

from enum import IntEnum, unique

_FIRST_STEP = 1 << 32
"""Number of the visit in the first step of stage 2. Visits before it count downwards from here: a number must not be negative."""


@unique
class Stream(IntEnum):
    """What randomness is for. The values are part of every result: changing one changes what a seed gives."""

    WARM_UP = 1
    """Stage 1: strong views, practice and episodes, by step of the warm-up."""
    STRONG_VIEW = 2
    """Stage 2: strong views that the segmenter learns from, by step."""
    EPISODE = 3
    """Stage 2: practice and episodes, by step."""
    REFERENCES = 4
    """References by the selector ``random``, by number of the visit."""
    LEARNING_ROWS = 5
    """Which rows of a visit SAM learns from, by number of the visit."""
    POLICY_WARM_UP = 6
    """Queries and reference sets on which the policy learns before stage 2, by step of its warm-up."""
    POLICY = 7
    """The same in stage 2, by step."""
    ASSESSMENT = 8
    """Queries on which the policy is compared with a heuristic and the oracle, by step of its warm-up."""


def visit_in_step(step: int) -> int:
    """Number of the visit in a step of stage 2, from 0 on."""
    return _FIRST_STEP + step


def visit_before_stage_2(image: int) -> int:
    """Number of the visit of a chunk of images before stage 2; ``image``: place of its first image in the order of visits."""
    return _FIRST_STEP - 1 - image
