"""All of a training but its algorithm: the data's check, the folder, resuming, the bar, the clock, checkpoints, the log.

A recipe's ``main`` reads like its paper and leaves the rest to a session::

    with Session.open(config, config.settings()) as session:
        trainer = Trainer(config, session)      # networks and optimisers; nothing is written yet
        session.begin(trainer)                  # makes the run's folder, or loads its newest checkpoint
        trainer.fit()
        session.finish()

and inside ``fit``::

    for step in session.steps(self.stage):      # until the stage's budget is used up
        loss = ...
        session.descend(loss, self.optimizer, parameters)
        session.average(loss=loss)              # its mean is logged every ten steps
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from maskwright import interrupts
from maskwright.data.check import require_clean
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.engine.budget import Budget, progress
from maskwright.engine.locks import refuse_if_locked
from maskwright.engine.origin import Origin
from maskwright.engine.run import Run, read_metrics
from maskwright.engine.state import pack, seeded, unpack
from maskwright.errors import DataError, MaskwrightError, RunError, require

T = TypeVar("T")


class RunConfig(Protocol):
    """What a session needs of a recipe's settings."""

    data: Path
    out: Path
    sam: str
    seed: int
    device: Any
    checkpoint_seconds: float
    init: Path | None
    resume: bool
    overwrite: bool


class Trainable(ABC):
    """What a session needs of a recipe's trainer, to write and read checkpoints, and to start from an earlier run.

    Attributes:
        recipe: its name.
        networks: for ``--init``: name of a file in its model folder → group in its checkpoints, see :meth:`Origin.open`.
    """

    recipe: ClassVar[str]
    networks: ClassVar[Mapping[str, str]]

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """By name: modules, optimisers and other objects whose state a checkpoint holds; see ``engine.state.pack``."""

    def values(self) -> dict[str, Any]:
        """Whatever else decides how the training goes on, as JSON."""
        return {}

    def restore(self, values: Mapping[str, Any]) -> None:  # noqa: B027 (most recipes have no values)
        """Take up the ``values`` of a checkpoint, before its ``parts`` are filled: this may create some of them."""

    @abstractmethod
    def start_from(self, origin: Origin) -> None:
        """Take over the networks of an earlier run, for ``--init``.

        Raises:
            RunError: the settings leave nothing to take over.
            WeightsError: other networks, or for another SAM.
        """


@dataclass
class Stage:
    """One stretch of a training: its length, and how far it got.

    Attributes:
        name: in checkpoints.
        text: on the progress bar.
        budget: how long it lasts.
        step: steps done.
        minutes: wall clock of this and earlier sessions, without the one under way.
        fraction: 0..1, the share of the budget that was used when the step under way began.
        left_out: by the run's settings; its steps stay 0.
        started: ``time.monotonic()`` when this session began with it; None before and after.
    """

    name: str
    text: str
    budget: Budget
    step: int = 0
    minutes: float = 0.0
    fraction: float = 0.0
    left_out: bool = False
    started: float | None = None

    @property
    def minutes_used(self) -> float:
        """Of all sessions."""
        return self.minutes + (0.0 if self.started is None else (time.monotonic() - self.started) / 60)

    @property
    def share(self) -> float:
        """The share of the budget that is used, 0..1. With a budget in minutes the clock decides."""
        return self.budget.share(self.step, self.minutes_used)

    @property
    def expected_steps(self) -> float:
        """Steps in all; with a budget in minutes an estimate from the steps done."""
        return self.budget.total_steps or self.step / max(self.fraction, 1e-6)


class Session:
    """One training at work, in one process or several. Made by :meth:`open`.

    Attributes:
        dataset: read from ``config.data`` and checked.
        accelerator: device and processes.
        run: the run's folder; there after :meth:`begin`.
        fingerprint: of the data; None in all but the main process.
        stages: in the order in which they were declared; :attr:`clock` counts their steps.
    """

    run: Run

    def __init__(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        dataset: Dataset,
        accelerator: Accelerator,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self.config, self.settings, self.dataset, self.accelerator = config, dict(settings), dataset, accelerator
        self.fingerprint = fingerprint
        self.stages: list[Stage] = []
        self._trainer: Trainable | None = None
        self._saved, self._saved_clock = time.monotonic(), -1
        self._finite: Tensor | None = None
        self._sums: dict[str, list[float]] = defaultdict(list)
        self._latest: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    @classmethod
    def open(cls, config: RunConfig, settings: Mapping[str, Any], *, several_processes: bool = True) -> Session:
        """Read and check the data, and find the device.

        Args:
            config: the recipe's settings.
            settings: those of them that decide the result, as JSON.
            several_processes: whether the recipe can share its work among processes.

        Raises:
            DataError: the dataset cannot be read, or has problems (all are named), or names nothing to segment.
            RunError: several processes for a recipe that works in one; another process is writing to the run.
            MaskwrightError: a rate that is negative, NaN or infinite.
        """
        rates = {name: value for name, value in vars(config).items() if _is_rate(name) or name == "weight_decay"}
        require(
            {
                f"--{name.replace('_', '-')} {value:g}: must be a number of 0 or more": math.isfinite(value)
                and value >= 0
                for name, value in rates.items()
            }
        )
        torch.set_flush_denormal(True)
        # Before the processes meet: one that has failed already cannot be met.
        dataset = Dataset.load(config.data)
        accelerator = Accelerator(cpu=config.device == "cpu")
        if accelerator.num_processes > 1 and not several_processes:
            raise RunError(
                f"this recipe trains in one process, and {accelerator.num_processes} were started; "
                "call `maskwright` without `accelerate launch` or `torchrun`"
            )
        fingerprint = None
        if accelerator.is_main_process:
            refuse_if_locked(config.out, "name another folder with --out")
            require_clean(dataset)
            fingerprint = Fingerprint.of(dataset)
        if len(dataset.categories) < 2:
            raise DataError([f"{config.data}: no category but the background is named; name what is to be segmented"])
        return cls(config, settings, dataset, accelerator, fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupts.wait(False)
        if hasattr(self, "run"):
            if kind is not None and issubclass(kind, Exception) and not issubclass(kind, MaskwrightError):
                # Numbers that are no longer finite make functions fail that nobody suspects, such as a draw from probabilities.
                with suppress(RuntimeError):
                    self.require_finite()
            self.run.close()
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._say(f"\n{self._kept()}")
        if kind is None:
            self._say(self._outcome())
            self.accelerator.end_training()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.accelerator.is_main_process

    @property
    def data_digest(self) -> str | None:
        """What the run's files say of the data that they come from; None in all but the main process."""
        return self.fingerprint.digest if self.fingerprint else None

    @property
    def clock(self) -> int:
        """Steps of all stages together."""
        return sum(stage.step for stage in self.stages)

    def stage(self, name: str, text: str, budget: Budget | int) -> Stage:
        """Declare a stage; call it in the order in which the stages happen, before :meth:`begin`.

        Args:
            name, text: see :class:`Stage`.
            budget: or a number of steps; 0 leaves the stage out.
        """
        left_out = budget == 0
        if not isinstance(budget, Budget):
            budget = Budget(steps=max(1, budget))
        self.stages.append(Stage(name, text, budget, left_out=left_out))
        return self.stages[-1]

    def generator(self, stream: int, step: int) -> torch.Generator:
        """Stateless random numbers: a function of the run's seed, their purpose (``stream``) and the step alone."""
        return seeded(self.config.seed, stream, step)

    # ------------------------------------------------------------------------------------------------ the folder

    def begin(self, trainer: Trainable, files: Sequence[str] = (), folders: Sequence[str] = ()) -> None:
        """Make the run's folder, or go on from its newest checkpoint.

        The last of the set-up, so that a mistake in the settings leaves no run behind, and deletes none.

        Args:
            trainer: what checkpoints hold.
            files: names that the recipe writes into the folder beside what every run has; deleted with the run.
            folders: names of model folders beside ``model``.

        Raises:
            RunError: see ``Run.create``.
            WeightsError: the checkpoint is damaged or does not fit; or what ``--init`` names does not.
        """
        config = self.config
        origin = self._origin(trainer)
        if origin is not None:
            trainer.start_from(origin)
        with self.accelerator.main_process_first():
            self.run = Run.create(
                config.out,
                self.settings,
                resume=config.resume,
                overwrite=config.overwrite,
                # The fingerprint tells whether they are the same, wherever they lie.
                may_differ=("data",),
                is_main=self.is_main,
                files=files,
                folders=folders,
                data=self.fingerprint,
                recipe=trainer.recipe,
                origin=origin.record() if origin else None,
            )
        self._trainer = trainer
        checkpoint = self.run.load_checkpoint()
        if checkpoint is None:
            notes = [] if origin is None else [f"starts from {origin}"]
            self._say("\n".join([self._understood(), *notes]))
            return
        state = checkpoint.state
        if self.fingerprint and state["data"] != self.data_digest:
            raise RunError(
                f"{checkpoint.folder}: this checkpoint is of other data than config.json beside it; restore the run's folder"
            )
        for stage in self.stages:
            stage.step, stage.minutes = state["stages"][stage.name]["step"], state["stages"][stage.name]["minutes"]
        trainer.restore(state["values"])
        unpack(trainer.parts(), checkpoint.tensors, state["parts"])
        self._sums.update(state["averages"])
        self._latest = state["latest"]
        self._saved_clock = self.clock
        self._say(f"{self._understood()}\nresumed at step {checkpoint.step}")

    def _origin(self, trainer: Trainable) -> Origin | None:
        """What ``--init`` names; None without it, and where a checkpoint of this run holds all that came of it."""
        config = self.config
        if config.init is None or (config.resume and Run.has_checkpoint(config.out)):
            return None
        if config.init.resolve() in (config.out.resolve(), config.out.resolve() / "model"):
            raise RunError(f"--init {config.init}: is the new run itself; name another folder with --out")
        return Origin.open(config.init, trainer.recipe, trainer.networks)

    def _understood(self) -> str:
        """What is about to be trained: images by label, categories, SAM, device, length."""
        train = self.dataset.split("train")
        kinds = Counter(sample.labels.kind for sample in train)
        labels = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds, reverse=True))
        lengths = [f"{stage.text} for {stage.budget}" for stage in self.stages if not stage.left_out]
        return (
            f"{self.config.data}: {len(train)} training images ({labels}), {len(self.dataset.split('val'))} for validation; "
            f"categories: {', '.join(self.dataset.categories[1:])}\n"
            f"SAM {self.config.sam} on {self.device}; {', '.join(lengths)}; seed {self.config.seed}; run: {self.config.out}"
        )

    def _outcome(self) -> str:
        """How it ended: time, the last scores on the validation split, the report."""
        minutes = sum(stage.minutes for stage in self.stages)
        scores: dict[str, float] = {}
        for line in read_metrics(self.run.folder):
            scores |= {name.removeprefix("val_"): value for name, value in line.items() if name.startswith("val_")}
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        report = self.run.folder / "report.html"
        lines = [f"{self.clock} steps in {minutes:.1f} minutes" + (f"; validation: {shown}" if shown else "")]
        return "\n".join(lines + ([f"report: {report}"] if report.is_file() else []))

    def _kept(self) -> str:
        """What is there to go on from."""
        step = self.run.newest_step()
        if step < 0:
            return f"no checkpoint was written yet: {self.run.folder} begins anew when it is resumed"
        return f"the checkpoint of step {step} is kept in {self.run.folder / 'last'}"

    def _say(self, text: str) -> None:
        """On standard error, like the bar, and once."""
        if self.is_main:
            print(text, file=sys.stderr)

    def save(self, *, force: bool = False) -> None:
        """Write a checkpoint, if ``checkpoint_seconds`` have passed since the last one."""
        if not force and time.monotonic() - self._saved < self.config.checkpoint_seconds:
            return
        assert self._trainer is not None, "begin comes first"
        self.require_finite()
        tensors, parts = pack(self._trainer.parts())
        stages = {stage.name: {"step": stage.step, "minutes": stage.minutes_used} for stage in self.stages}
        state = {
            "stages": stages,
            "values": self._trainer.values(),
            "parts": parts,
            "averages": {name: values for name, values in self._sums.items() if values},
            "latest": self._latest,
            "data": self.data_digest,
        }
        self.run.save_checkpoint(self.clock, tensors, state)
        self._saved, self._saved_clock = time.monotonic(), self.clock

    def finish(self, *, save: bool = True) -> bool:
        """Write the last checkpoint and wait for all processes. Returns whether this one is to write model and report.

        Args:
            save: False where something followed the last step that a resumed run must do again.
        """
        if save:
            self.save(force=True)
        self.accelerator.wait_for_everyone()
        return self.is_main

    # ------------------------------------------------------------------------------------------------ the loop

    def steps(
        self,
        stage: Stage,
        *,
        log_every: int | None = 10,
        until: int | None = None,
        then: Callable[[], None] | None = None,
    ) -> Iterator[int]:
        """Numbers of the steps of a stage until its budget is used up, from where the run was left.

        After each step it is counted, averages are logged, the bar moves, and a checkpoint is written if one is due. On
        Ctrl-C or SIGTERM the step under way is finished, and a checkpoint written at once.

        Args:
            stage: one of this session's.
            log_every: steps of the stage between two lines of averages; None: ``then`` logs.
            until: end at this step of the stage, before its budget is used up.
            then: called after each step, before a checkpoint may be written.
        """
        stage.started = time.monotonic()
        if not stage.step:
            # What the stage before has noted since its last line is not this one's.
            self._sums.clear()
            self._latest = {}
        length, completed = stage.budget.bar(stage.step, stage.minutes_used)
        interrupts.wait(True)
        with progress(length, stage.text, completed=completed, is_main=self.is_main) as advance:
            while True:
                share, signal = self.agree((stage.share, interrupts.received()))
                if signal is not None:
                    self._stop(stage, signal)
                if share >= 1 or (until is not None and stage.step >= until):
                    break
                stage.fraction = share
                yield stage.step
                stage.step += 1
                if log_every and stage.step % log_every == 0:
                    self.log_averages()
                advance(stage.budget.stride(share, self.agree(stage.share)), **self._shown)
                self._shown = {}
                if then is not None:
                    then()
                self.save()
        interrupts.wait(False)
        stage.minutes, stage.started = stage.minutes_used, None
        if until is None:
            stage.fraction = 1.0

    def _stop(self, stage: Stage, signal: int) -> None:
        """End the training between two steps. Before a stage's first one nothing is saved: what led to it is done again."""
        if stage.step and self.clock > self._saved_clock:
            self.save(force=True)
        raise interrupts.Interrupted(signal)

    def descend(
        self,
        loss: Tensor,
        optimizer: torch.optim.Optimizer,
        parameters: Iterable[nn.Parameter],
        clip: float = 1.0,
    ) -> None:
        """One optimiser step; gradients are averaged over the processes, then clipped to a norm of ``clip``. Both are watched."""
        parameters = list(parameters)
        optimizer.zero_grad(set_to_none=True)
        # Not by accelerate, whose environment may ask for scaled or accumulated gradients.
        loss.backward()
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            mean: Any = self.accelerator.reduce(flat, "mean")
            for parameter, grad in zip(parameters, mean.split([p.numel() for p in parameters])):
                parameter.grad = grad.view_as(parameter)
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        self.watch(loss, norm)

    def watch(self, *values: Tensor) -> None:
        """Note on the device whether losses are finite, without waiting for it; :meth:`require_finite` asks."""
        finite = torch.stack([value.detach().isfinite().all() for value in values]).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def require_finite(self) -> None:
        """End the training where what was watched, or a weight that is trained, is NaN, infinite or beyond all bounds.

        Asked with each line of the log and before each checkpoint, so that the last one is always good.

        Raises:
            RunError: it has diverged; says what to lower.
        """
        parts = self._trainer.parts().values() if self._trainer else ()
        optimizers = [part for part in parts if isinstance(part, torch.optim.Optimizer)]
        weights = [p.detach() for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        checks = [] if self._finite is None else [self._finite]
        if weights:
            # The norm of weights that have no use left, such as 1e30, is infinite in float32.
            checks.append(nn.utils.get_total_norm(weights).isfinite())
        self._finite = None
        if checks and not bool(torch.stack(checks).all()):
            rates = {name: value for name, value in vars(self.config).items() if _is_rate(name)}
            lower = " or ".join(f"--{name.replace('_', '-')} (now {value:g})" for name, value in rates.items())
            raise RunError(
                f"the training has diverged: by step {self.clock} a loss, a gradient or a weight is NaN or infinite. "
                f"Lower {lower or 'the learning rate'}, and start anew with --overwrite; {self._kept()}"
            )

    def agree(self, value: T) -> T:
        """The main process' value, for all: its clock decides."""
        return value if self.accelerator.num_processes == 1 else broadcast_object_list([value])[0]

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order."""
        return [value] if self.accelerator.num_processes == 1 else gather_object([value])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        mean: Any = self.accelerator.reduce(value, "mean")
        return mean

    # ------------------------------------------------------------------------------------------------ the log

    def average(self, **scalars: Any) -> None:
        """Note scalars of this step; their means over the steps go into the next line of the log."""
        for name, value in scalars.items():
            self._sums[name].append(float(value.detach()) if isinstance(value, Tensor) else float(value))

    def latest(self, **scalars: float) -> None:
        """Note scalars whose newest value goes into the next line of the log, as a learning rate does."""
        self._latest.update(scalars)

    def show(self, **scalars: Any) -> None:
        """Scalars to show beside the bar with the step under way."""
        self._shown.update(scalars)

    def averages(self) -> dict[str, float]:
        """The means so far, which begin anew."""
        means = {name: sum(values) / len(values) for name, values in self._sums.items() if values}
        self._sums.clear()
        return means

    def log_averages(self, prefix: str = "") -> None:
        """One line of the log: the newest values of ``latest``, and the means of ``average``."""
        self.log(**self._latest, **{prefix + name: mean for name, mean in self.averages().items()})
        self._latest = {}

    def log(self, **scalars: Any) -> None:
        """One line of the log, at the present step over all stages, if the training is finite still."""
        self.require_finite()
        self.run.log(self.clock, **scalars)


def _is_rate(name: str) -> bool:
    """Whether a setting is a learning rate."""
    return name == "lr" or name.endswith("_lr")


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every parameter group to a share of its ``peak`` learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]


def rated_groups(parameters: Iterable[tuple[Iterable[nn.Parameter], float]]) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, each with the rate that it starts with and that :func:`set_rate` scales."""
    return [{"params": list(some), "lr": rate, "peak": rate} for some, rate in parameters]
