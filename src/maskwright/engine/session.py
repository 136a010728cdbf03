"""All of a training but its algorithm: the data's check, the folder, resuming, the bar, the clock, checkpoints, the log.

A recipe's ``main`` reads like its paper and leaves the rest to a session::

    with Session.open(config, config.settings()) as session:
        trainer = Trainer(config, session)      # networks and optimisers; nothing is written yet
        session.begin(trainer)                  # makes the run's folder, or loads its newest checkpoint
        trainer.fit()
        session.finish()

and inside ``fit``::

    for step in session.steps(self.stage):      # until the stage's share of the training's length is used up
        loss = ...
        session.descend(loss, self.optimizer, parameters)
        session.average(loss=loss)              # its mean is logged every ten steps
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from maskwright import interrupts
from maskwright.data.check import require_clean
from maskwright.data.crop_dataset import cropped, diameters
from maskwright.data.crops import Suggestion, given_crop, suggest
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.image_reading import ImageReading
from maskwright.data.large.opening import needs_windows
from maskwright.data.registry import ReadName
from maskwright.data.understood import start_of_training
from maskwright.engine.bar import TrainingBar, time_as_text
from maskwright.engine.best import Best
from maskwright.engine.budget import Budget
from maskwright.engine.devices import find_device
from maskwright.engine.locks import refuse_if_locked
from maskwright.engine.origin import Origin
from maskwright.engine.outcome import Outcome
from maskwright.engine.precision import Precision, PrecisionName
from maskwright.engine.processes import is_cpu
from maskwright.engine.run import Run
from maskwright.engine.state import pack, seeded, unpack
from maskwright.engine.timer import Part, Stage, Timer, Validations, Work, share_out
from maskwright.errors import DataError, MaskwrightError, RunError, require

T = TypeVar("T")

LARGE_BESIDE = 1.5
"""How many times longer than the canvas an image's side has to be before objects are measured, and crops thought of."""


class RunConfig(Protocol):
    """What a session needs of a recipe's settings."""

    data: Path
    format: ReadName | None
    image_reading: ImageReading
    crop: int | None
    scale: float | None
    out: Path
    sam: str
    seed: int
    device: Any
    precision: PrecisionName
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


class Session:
    """One training at work, in one process or several. Made by :meth:`open`.

    Attributes:
        dataset: read from ``config.data`` and checked; after :meth:`crop_images` crops of it.
        image_reading: how the image files of ``config.data`` are read.
        crop: side of the crops in pixels of the images; None: whole images are squashed.
        accelerator: the processes.
        device: of this process.
        precision: what the networks compute in.
        run: the run's folder; there after :meth:`begin`.
        timer: of the whole training; there after :meth:`plan`.
        bar: the one progress bar.
        outcome: how the training ended; the recipe notes it.
        fingerprint: of the data; None in all but the main process.
    """

    run: Run
    timer: Timer

    def __init__(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        dataset: Dataset,
        accelerator: Accelerator,
        device: torch.device,
        precision: Precision,
        started: float | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self.config, self.settings, self.dataset, self.accelerator = config, dict(settings), dataset, accelerator
        self.device, self.precision = device, precision
        self.image_reading, self.crop = dataset.image_reading, None
        self.bar = TrainingBar(is_main=accelerator.is_main_process)
        self.outcome: Outcome | None = None
        self._started = time.monotonic() if started is None else started
        self._after = 0.0
        self.fingerprint = fingerprint
        self._trainer: Trainable | None = None
        self._saved, self._saved_clock = time.monotonic(), -1
        self._finite: Tensor | None = None
        self._sums: dict[str, list[Tensor | float]] = defaultdict(list)
        self._latest: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}

    @classmethod
    def open(
        cls,
        config: RunConfig,
        settings: Mapping[str, Any],
        *,
        several_processes: bool = True,
        started: float | None = None,
    ) -> Session:
        """Read and check the data, and find the device.

        Args:
            config: the recipe's settings.
            settings: those of them that decide the result, as JSON.
            several_processes: whether the recipe can share its work among processes.
            started: ``time.monotonic()`` when the training's clock started; left out: now. See ``engine.announce``.

        Raises:
            DataError: the dataset cannot be read, or has problems (all are named), or names nothing to segment.
            RunError: several processes for a recipe that works in one; another process is writing to the run.
            MaskwrightError: a rate that is negative, NaN or infinite; a device that is not here, or cannot compute in ``precision``.
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
        dataset = Dataset.load(config.data, format=config.format, image_reading=config.image_reading)
        # Half precision is autocast alone, see engine.precision: accelerate itself is left out of it.
        accelerator = Accelerator(cpu=is_cpu(config.device), mixed_precision="no")
        if accelerator.num_processes > 1 and not several_processes:
            raise RunError(
                f"this recipe trains in one process, and {accelerator.num_processes} were started; "
                "call `maskwright` without `accelerate launch` or `torchrun`"
            )
        intensity, fingerprint = None, None
        if accelerator.is_main_process:
            refuse_if_locked(config.out, "name another folder with --out")
            report = require_clean(dataset)
            print(start_of_training(report), file=sys.stderr)
            intensity = report.intensity.range
        if accelerator.num_processes > 1:
            intensity = broadcast_object_list([intensity])[0]
        dataset = dataset.with_image_reading(replace(dataset.image_reading, intensity=intensity))
        if accelerator.is_main_process:
            fingerprint = Fingerprint.of(dataset)
        if len(dataset.categories) < 2:
            raise DataError([f"{config.data}: no category but the background is named; name what is to be segmented"])
        device = _device(config.device, accelerator)
        precision = Precision(config.precision, device)
        return cls(config, settings, dataset, accelerator, device, precision, started, fingerprint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupts.wait(False)
        self.bar.close()
        if hasattr(self, "run"):
            if kind is not None and issubclass(kind, Exception) and not issubclass(kind, MaskwrightError):
                # Numbers that are no longer finite make functions fail that nobody suspects, such as a draw from probabilities.
                with contextlib.suppress(RuntimeError):
                    self.require_finite()
            self.run.close()
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._say(f"\n{self._kept()}")
        if kind is None:
            self._say(self._outcome())
            self.accelerator.end_training()

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
        return sum(stage.step for stage in self.timer.stages)

    @property
    def at_end(self) -> bool:
        """In ``then`` of :meth:`steps`: whether that was the last step of the stage."""
        return self._after >= 1

    def plan(self, length: Budget, *parts: Part) -> list[Stage]:
        """Share out the whole training's length among its stages, in their order; before :meth:`begin`.

        Raises:
            RunError: the length is too short for them.
        """
        stages = share_out(length, list(parts))
        self.timer = Timer(length, stages, self._started, works=list(stages))
        # Of the report's last touch and the end of the process; recipes add what they write.
        self.timer.reserves["end"] = 2 / 60
        return stages

    def work(self, text: str, total: float, cost: float = 1.0, unit: str = "images") -> Work:
        """Declare what a training does beside its steps, for the bar and the time left; see :class:`Work`."""
        self.timer.works.append(Work(text, unit, total, cost))
        return self.timer.works[-1]

    def generator(self, stream: int, step: int) -> torch.Generator:
        """Stateless random numbers: a function of the run's seed, their purpose (``stream``) and the step alone."""
        return seeded(self.config.seed, stream, step)

    # ------------------------------------------------------------------------------------------------ crops

    def crop_images(self, canvas: int) -> None:
        """Train on crops where the settings say so, or where squashing images to the canvas would lose the labelled objects.

        What is taken, and why, is said. To be called before the dataset is looked at.

        Args:
            canvas: its side in pixels.

        Raises:
            DataError: images that are too large to be squashed; a file cannot be read.
        """
        self.crop = side = self.chosen_crop(canvas)
        if side is not None:
            self.dataset = self._cut(self.dataset, {"train": side, "val": side})

    def chosen_crop(self, canvas: int) -> int | None:
        """The side of crops in pixels of the images by ``--crop``, ``--scale`` or the objects' sizes; None: whole images.

        Raises:
            DataError: whole images that are too large to be squashed.
        """
        config = self.config
        if (given := given_crop(config.crop, config.scale, canvas)) is not None:
            return given
        used = self.dataset.split("train", "val")
        sizes = [used.size_of(sample) for sample in used]
        suggestion = Suggestion(None, "")
        if config.crop is None and sizes and max(map(max, sizes)) > LARGE_BESIDE * canvas:
            measured = diameters(used.split("train")) if self.is_main else []
            suggestion = suggest(measured, sizes, canvas)
            instead = "--crop 0 squashes whole images" if suggestion.crop else "--crop N takes crops of N pixels"
            self._say(f"{suggestion.reason} ({instead})")
        if self.accelerator.num_processes > 1:
            suggestion = broadcast_object_list([suggestion])[0]
        if suggestion.crop is not None:
            return suggestion.crop
        if large := [path for path in map(used.image_path, used) if needs_windows(path)]:
            more = f" and {len(large) - 1} more" if len(large) > 1 else ""
            raise DataError([f"{large[0]}{more}: too large to be squashed to {canvas} pixels; give --crop {canvas}"])
        return None

    def in_pieces(self, dataset: Dataset, sides: Mapping[str, int], changed: str = "") -> Dataset:
        """Go on with a dataset in which images that are much larger than these pieces are cut up.

        For recipes that themselves crop what they train on.

        Args:
            dataset: that of this session, or one that was made of it.
            sides: of the pieces of each split, in pixels.
            changed: what was changed in it.
        """
        used = dataset.split("train", "val")
        if any(max(used.size_of(sample)) > LARGE_BESIDE * max(sides.values()) for sample in used):
            dataset = self._cut(dataset, sides, changed)
        self.dataset = dataset
        return dataset

    def _cut(self, dataset: Dataset, sides: Mapping[str, int], changed: str = "") -> Dataset:
        began = time.monotonic()
        digest = self.data_digest or ""
        if self.accelerator.num_processes > 1:
            digest = broadcast_object_list([digest])[0]
        with self.accelerator.main_process_first():
            crops, sentences = cropped(dataset, f"{digest} {changed}", sides, seed=self.config.seed)
        took = time_as_text((time.monotonic() - began) / 60)
        self._say(f"cut in {took}: " + "; ".join(sentences))
        return crops

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
                may_differ=("data", "image_reading"),
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
        self.timer.before = state["minutes"]
        for stage in self.timer.stages:
            for name, value in state["stages"][stage.name].items():
                setattr(stage, name, value)
            stage.done = stage.step
        trainer.restore(state["values"])
        unpack(trainer.parts(), checkpoint.tensors, state["parts"])
        self._sums.update(state["averages"])
        self._latest = state["latest"]
        self.precision.load_state(state["precision"])
        self._saved_clock = self.clock
        earlier = time_as_text(state["minutes"])
        self._say(f"{self._understood()}\nresumed at step {checkpoint.step}, after {earlier} in earlier sessions")

    def _origin(self, trainer: Trainable) -> Origin | None:
        """What ``--init`` names; None without it, and where a checkpoint of this run holds all that came of it."""
        config = self.config
        if config.init is None or (config.resume and Run.has_checkpoint(config.out)):
            return None
        if config.init.resolve() in (config.out.resolve(), config.out.resolve() / "model"):
            raise RunError(f"--init {config.init}: is the new run itself; name another folder with --out")
        return Origin.open(config.init, trainer.recipe, trainer.networks)

    def _understood(self) -> str:
        """What is about to be trained: SAM, device, length. How the data were understood is said before."""
        stages = [stage for stage in self.timer.stages if not stage.left_out]
        lengths = [f"{stage.text}: {stage.total:g} steps" for stage in stages if stage.total is not None]
        parts = f" ({', '.join(lengths)})" if len(stages) > 1 and not self.timer.by_clock else ""
        text = (
            f"SAM {self.config.sam} on {self.device}; {self.timer.length} in all{parts}; seed {self.config.seed}; "
            f"run: {self.config.out}"
        )
        if not len(self.dataset.split("val")):
            text += "\nno images for validation: the last model will be kept, and how good it is will not be measured"
        return text

    def _outcome(self) -> str:
        """How it ended: time, the score on the validation split against what costs nothing, the report, and a warning."""
        lines = [f"{self.clock} steps in {time_as_text(self.timer.minutes)}, everything included"]
        lines += [self.outcome.text] if self.outcome is not None else []
        report = self.run.folder / "report.html"
        lines += [f"report: {report}"] if report.is_file() else []
        lines += [self.outcome.warning] if self.outcome is not None and self.outcome.warning else []
        return "\n".join(lines)

    def _kept(self) -> str:
        """What is there to go on from."""
        step = self.run.newest_step()
        if step < 0:
            return f"no checkpoint was written yet: {self.run.folder} begins anew when it is resumed"
        return f"the checkpoint of step {step} is kept in {self.run.folder / 'last'}"

    def _say(self, text: str) -> None:
        """On standard error, like the bar, and once."""
        self.bar.say(text)

    def save(self, *, force: bool = False) -> None:
        """Write a checkpoint, if ``checkpoint_seconds`` have passed since the last one."""
        if not force and time.monotonic() - self._saved < self.config.checkpoint_seconds:
            return
        assert self._trainer is not None, "begin comes first"
        self.require_finite()
        began = time.monotonic()
        tensors, parts = pack(self._trainer.parts())
        names = ("step", "fraction", "began", "over")
        state = {
            "minutes": self.timer.minutes,
            "stages": {stage.name: {name: getattr(stage, name) for name in names} for stage in self.timer.stages},
            "values": self._trainer.values(),
            "parts": parts,
            "averages": {name: values for name, values in as_numbers(self._sums).items() if values},
            "latest": {name: value for name, (value,) in as_numbers({n: [v] for n, v in self._latest.items()}).items()},
            "precision": self.precision.state(),
            "data": self.data_digest,
        }
        self.run.save_checkpoint(self.clock, tensors, state)
        self._saved, self._saved_clock = time.monotonic(), self.clock
        self.timer.reserves["checkpoint"] = (self._saved - began) / 60

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
        until: float = 1.0,
        then: Callable[[], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[int]:
        """Numbers of the steps of a stage until its share of the training's length is used up, from where the run was left.

        After each step it is counted, averages are logged, the bar moves, and a checkpoint is written if one is due. On
        Ctrl-C or SIGTERM the step under way is finished, and a checkpoint written at once.

        Args:
            stage: one of this session's.
            log_every: steps of the stage between two lines of averages; None: ``then`` logs.
            until: end at this share of the stage.
            then: called after each step, before a checkpoint may be written.
            stop: ends the stage before its time where it is true.
        """
        if not stage.step:
            # What the stage before has noted since its last line is not this one's.
            self._sums.clear()
            self._latest = {}
        if stage.began is None:
            stage.began = self.agree(self.timer.minutes)
        self.moved(stage)
        interrupts.wait(True)
        share, stopped = self.agree(self.timer.share(stage)), False
        while True:
            if (signal := self.agree(interrupts.received())) is not None:
                self._stop(stage, signal)
            if share >= until or (stopped := stop is not None and stop()):
                break
            with self.timer.spending(stage):
                stage.fraction = share
                yield stage.step
                stage.step += 1
                stage.done, stage.counted = stage.step, stage.counted + 1
                if log_every and stage.step % log_every == 0:
                    self.log_averages()
                share = self._after = self.agree(self.timer.share(stage))
                self.moved(stage)
                if then is not None:
                    then()
                self.save()
        interrupts.wait(False)
        if until >= 1 or stopped:
            stage.fraction, stage.over = 1.0, True
            stage.total = stage.step

    @contextlib.contextmanager
    def doing(self, work: Work) -> Iterator[Callable[[float], None]]:
        """Around something that is no step; yields ``advance(amount)``, which moves the bar."""

        def advance(amount: float) -> None:
            work.done, work.counted = work.done + amount, work.counted + amount
            self.moved(work)

        self.moved(work)
        with self.timer.spending(work):
            yield advance

    def deadline(self, share: float) -> Callable[[], bool]:
        """Whether a share of the time that is left for training is used up from now on; in steps it never is."""
        if not self.timer.by_clock:
            return lambda: False
        end = self.timer.minutes + share * (self.timer.usable - self.timer.minutes)
        return lambda: self.agree(self.timer.minutes >= end)

    def validate_if_due(
        self,
        stage: Stage,
        validations: Validations,
        best: Best,
        scores_of: Callable[[], dict[str, Any]],
        key: str,
        prefix: str = "val_",
    ) -> None:
        """After a step: where a validation is due, score the model, log it, and keep the model if it is the best.

        Args:
            scores_of: computes the scores, higher is better, by name; called in the main process.
            key: of the one that decides.
            prefix: of the names in the log.
        """
        if not self.agree(self.timer.validation_due(stage, validations, stage.fraction, self._after)):
            return
        with self.timer.timed(validations):
            scores = self.agree(scores_of() if self.is_main else {})
        if scores.get(key) is None:  # no pixel of the split is labelled
            return
        best.update(self.clock, scores[key])
        self.log(**{f"{prefix}{name}": score for name, score in scores.items()}, **{f"{prefix}smoothed": best.smoothed})

    def moved(self, work: Work) -> None:
        """Move the bar to where a work is."""
        is_open = work.total is None or (isinstance(work, Stage) and self.timer.by_clock)
        done = f"{work.done:g}" if is_open else f"{work.done:g} of {work.total:g}"
        self.bar.show(work.text, f"{work.unit} {done}", self.timer.done, self.timer.left, **self._shown)
        self._shown = {}

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
        self.precision.backward(loss)
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            mean: Any = self.accelerator.reduce(flat, "mean")
            for parameter, grad in zip(parameters, mean.split([p.numel() for p in parameters])):
                parameter.grad = grad.view_as(parameter)
        self.precision.unscale(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, clip)
        self.precision.step(optimizer)
        # With scaled gradients an infinite one now and then is how the scale is found; the step is left out then.
        self.watch(loss, *([norm] if self.precision.scaler is None else []))

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
        """Note scalars of this step; their means over the steps go into the next line of the log. The device is not waited for."""
        for name, value in scalars.items():
            self._sums[name].append(value.detach() if isinstance(value, Tensor) else float(value))

    def latest(self, **scalars: Any) -> None:
        """Note scalars whose newest value goes into the next line of the log, as a learning rate does."""
        self._latest.update(_detached(scalars))

    def show(self, **scalars: Any) -> None:
        """Scalars to show beside the bar with the step under way."""
        self._shown.update(_detached(scalars))

    def averages(self) -> dict[str, float]:
        """The means so far, which begin anew."""
        means = {name: sum(values) / len(values) for name, values in as_numbers(self._sums).items() if values}
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


def as_numbers(scalars: Mapping[str, Sequence[Tensor | float]]) -> dict[str, list[float]]:
    """Numbers and tensors of one element, by name, as numbers: the device is waited for once, not for each."""
    waiting = [value.reshape(()) for values in scalars.values() for value in values if isinstance(value, Tensor)]
    there = iter(torch.stack([value.float() for value in waiting]).tolist() if waiting else [])
    return {n: [next(there) if isinstance(v, Tensor) else float(v) for v in values] for n, values in scalars.items()}


def _detached(scalars: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in scalars.items()}


def _device(name: str, accelerator: Accelerator) -> torch.device:
    """Where this process computes: ``auto`` is accelerate's choice, of several processes each its own GPU."""
    if name == "auto":
        return accelerator.device
    device = find_device(name)
    if device.index is not None and accelerator.num_processes > 1:
        raise RunError(
            f"--device {name}: is one device, and {accelerator.num_processes} processes were started; give auto"
        )
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what asks for "cuda" gets this one
    return device


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
