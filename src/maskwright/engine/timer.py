"""The clock of a training: its stages share one length in steps or minutes, everything around them included.

A training is a list of stages, which take optimiser steps, and of other works (first pseudo-masks, export). In steps the
length is shared out beforehand, so everything is a function of the step alone. In minutes each stage is given a share of
the time that is left when it begins, and what follows the last step is estimated and set aside (:attr:`Timer.reserve`).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from maskwright.engine.budget import Budget
from maskwright.errors import RunError

VALIDATION_SHARE = 0.1
"""Most of the time of a stage that its validations may take, the last one aside."""


@dataclass
class Work:
    """A stretch of a training with something to count: images to visit, or a stage's steps.

    Attributes:
        text: on the progress bar.
        unit: what is counted, in the plural.
        total: how many; None where the clock decides.
        cost: of one, relative to those of the training's other works; for the time left.
        done: so far.
        spent: minutes that this session spent on it.
        counted: how many of ``done`` this session did.
    """

    text: str
    unit: str = "steps"
    total: float | None = None
    cost: float = 1.0
    done: float = 0.0
    spent: float = 0.0
    counted: float = 0.0

    def costs(self, start: float, end: float) -> float:
        """The cost of those from number ``start`` to ``end``."""
        return self.cost * max(0.0, end - start)


@dataclass
class Stage(Work):
    """A work whose units are optimiser steps.

    Attributes:
        name: in checkpoints.
        share: by the clock: of the time that is left for training when it begins, at most.
        grows: what a step costs by the share of the stage that is done, relative to its first.
        step: steps done.
        fraction: 0..1, the share of the stage that was done when the step under way began.
        left_out: by the run's settings; its steps stay 0.
        began: minutes of the whole training when its first step did; None before.
        over: it has ended.
    """

    name: str = ""
    share: float = 1.0
    grows: Callable[[float], float] = lambda fraction: 1.0
    step: int = 0
    fraction: float = 0.0
    left_out: bool = False
    began: float | None = None
    over: bool = False

    @property
    def expected_steps(self) -> float:
        """Steps in all; by the clock an estimate from the steps done."""
        return self.step / max(self.fraction, 1e-6) if self.total is None else self.total

    def costs(self, start: float, end: float) -> float:
        bins = 50
        edges = [start + (end - start) * i / bins for i in range(bins + 1)]
        total = self.total or max(end, 1.0)
        mean = sum(self.grows(min(1.0, (a + b) / 2 / total)) for a, b in itertools.pairwise(edges)) / bins
        return self.cost * mean * max(0.0, end - start)


@dataclass(frozen=True)
class Part:
    """How a stage takes part in a training's length.

    Attributes:
        name, text: of the stage.
        share: of the whole length in steps; by the clock of the time that is left when the stage begins.
        most: at most so many steps of this share.
        steps: exactly so many instead; by the clock at most :data:`MOST_TIME` of what is left.
        wanted: False leaves the stage out.
        cost, grows: see :class:`Stage`.
        option: that sets ``steps``, for error messages.
    """

    name: str
    text: str
    share: float = 1.0
    most: int | None = None
    steps: int | None = None
    wanted: bool = True
    cost: float = 1.0
    grows: Callable[[float], float] = lambda fraction: 1.0
    option: str = ""


MOST_TIME = 0.5
"""By the clock a stage with a number of steps of its own takes at most this share of the time that is left when it begins."""


def share_out(length: Budget, parts: list[Part]) -> list[Stage]:
    """The stages of a training of this length, in their order; the last one that is wanted takes what the others leave.

    Raises:
        RunError: the stages with a number of steps of their own leave nothing for the last one.

    >>> [stage.total for stage in share_out(Budget(steps=100), [Part("warm_up", "", 0.2, most=150), Part("fit", "")])]
    [20, 80]
    """
    total, stages = length.total_steps, []
    wanted = [part for part in parts if part.wanted and part.steps != 0]
    last, left = wanted[-1], total
    for part in parts:
        steps, share = part.steps, part.share
        if part not in wanted:
            stages.append(Stage(part.text, name=part.name, total=0, left_out=True))
            continue
        if part is last:
            steps, share = left, 1.0
        elif total is None:
            steps, share = (part.most, share) if steps is None else (steps, MOST_TIME)
        elif steps is None:
            assert left is not None
            later = len(wanted) - 1 - wanted.index(part)
            steps = max(1, min(part.most or total, round(total * share), left - later))
        if left is not None and part is not last:
            assert steps is not None
            left -= steps
        stages.append(Stage(part.text, name=part.name, total=steps, share=share, cost=part.cost, grows=part.grows))
    if left is not None and left < 1:
        taken = " and ".join(f"{part.option} {part.steps}" for part in parts if part.steps and part.wanted)
        short = f"{taken} leave no step for {last.text}" if taken else "too few to give every stage one"
        raise RunError(f"{length} for the whole training: {short}; give more")
    return stages


@dataclass
class Validations:
    """When a stage is validated: evenly spread, so often that it costs a bounded share of the time, and at its end.

    Attributes:
        times: at most so often.
        cost: of one, in steps of the stage.
        last: minutes of the whole training when the newest one ended, or when the stage began.
    """

    times: int
    cost: float = 0.0
    last: float | None = None

    def number(self, steps: float) -> int:
        """How many there are in a stage of so many steps."""
        time = VALIDATION_SHARE * steps
        return self.times if self.times * self.cost <= time else max(1, int(time / self.cost))


@dataclass
class Timer:
    """How far a training is.

    Attributes:
        length: of the whole training.
        stages: in their order.
        works: stages and other works in their order.
        before: minutes of earlier sessions of the run.
        started: ``time.monotonic()`` at the start of this one.
        reserves: minutes that what follows the last step will take, by what it is.
    """

    length: Budget
    stages: list[Stage]
    started: float
    before: float = 0.0
    reserves: dict[str, float] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        """Since the start, over all sessions."""
        return self.before + (time.monotonic() - self.started) / 60

    @property
    def reserve(self) -> float:
        """Minutes that are set aside for what follows the last step."""
        return sum(self.reserves.values())

    @property
    def by_clock(self) -> bool:
        return self.length.minutes is not None

    @property
    def usable(self) -> float:
        """By the clock: the minute at which the last step ends."""
        assert self.length.minutes is not None
        return self.length.minutes - self.reserve

    def span(self, stage: Stage) -> float:
        """By the clock: the minutes that a stage gets, from its first step on; at least 0."""
        began = self.minutes if stage.began is None else stage.began
        return max(0.0, stage.share * (self.usable - began))

    def share(self, stage: Stage) -> float:
        """The share of a stage that is done, 0..1; every stage gets a step at least."""
        if stage.over or stage.left_out:
            return 1.0
        by_steps = stage.step / stage.total if stage.total else 0.0
        if not self.by_clock or stage.began is None or not stage.step:
            return min(1.0, by_steps)
        span = self.span(stage)
        by_clock = (self.minutes - stage.began) / span if span > 0 else 1.0
        # What is set aside may shrink while the stage goes on: it never goes back.
        return min(1.0, max(by_steps, by_clock, stage.fraction))

    def validation_due(self, stage: Stage, validations: Validations, before: float, after: float) -> bool:
        """Whether a stage is to be validated after a step that took its share from ``before`` to ``after``."""
        if after >= 1:
            return True
        if not self.by_clock:
            number = validations.number(stage.expected_steps)
            return int(number * after + 1e-9) > int(number * before + 1e-9)
        last = stage.began if validations.last is None else validations.last
        assert last is not None
        pause = max(self.span(stage) / validations.times, self.reserves.get("validation", 0.0) / VALIDATION_SHARE)
        # One shortly before the end would be done twice.
        return self.minutes - last >= pause and (1 - after) * self.span(stage) > pause / 2

    @contextlib.contextmanager
    def timed(self, validations: Validations) -> Iterator[None]:
        """Around a validation; another one follows the last step."""
        began = self.minutes
        yield
        validations.last = self.minutes
        self.reserves["validation"] = validations.last - began

    @contextlib.contextmanager
    def spending(self, work: Work) -> Iterator[None]:
        """Around a stretch of a work, for the time left."""
        began = time.monotonic()
        try:
            yield
        finally:
            work.spent += (time.monotonic() - began) / 60

    @property
    def left(self) -> float | None:
        """Minutes left of the whole training; in steps an estimate, None before there is anything to go by."""
        if self.length.minutes is not None:
            return max(0.0, self.length.minutes - self.minutes)
        finished = [(work.spent, work.costs(work.done - work.counted, work.done)) for work in self.works]
        spent, cost = (sum(column) for column in zip(*finished)) if finished else (0.0, 0.0)
        if not cost or not spent:
            return None
        minutes = self.reserve
        for work, (own_spent, own_cost) in zip(self.works, finished):
            remaining = work.costs(work.done, work.total or 0.0)
            is_measured = own_cost > 0.03 * (own_cost + remaining)
            minutes += remaining * (own_spent / own_cost if is_measured else spent / cost)
        return minutes

    @property
    def done(self) -> float:
        """The share of the whole training that is done, 0..1."""
        if self.length.minutes is not None:
            return min(1.0, self.minutes / self.length.minutes)
        cost = sum(work.costs(0, work.total or 0.0) for work in self.works)
        done = sum(work.costs(0, work.done) for work in self.works)
        return min(1.0, done / cost) if cost and math.isfinite(cost) else 0.0
