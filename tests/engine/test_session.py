"""What every training does around its algorithm, on the smallest training there is: a weight that descends."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from maskwright import interrupts
from maskwright.data.dataset import Dataset
from maskwright.data.fingerprint import Fingerprint
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.mask_files import write_mask
from maskwright.data.registry import ReadName
from maskwright.engine.best import Best
from maskwright.engine.budget import Budget
from maskwright.engine.origin import Heads, Origin
from maskwright.engine.run import Run, read_metrics
from maskwright.engine.session import Session, Trainable, rated_groups, set_rate
from maskwright.engine.timer import Part, Validations
from maskwright.errors import DataError, MaskwrightError, RunError, WeightsError


@dataclass
class Config:
    data: Path
    out: Path
    format: ReadName | None = None
    image_reading: ImageReading = PLAIN
    sam: str = "nano"
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    checkpoint_seconds: float = 0.0
    lr: float = 0.1
    init: Path | None = None
    resume: bool = False
    overwrite: bool = False


class Descent(Trainable):
    """Two stages: plain descent, then descent with noise."""

    recipe = "descent"
    networks = {"model": "net"}  # noqa: RUF012

    def __init__(self, session: Session, length: Budget) -> None:
        self.session = session
        self.first, self.second = session.plan(
            length, Part("first", "descending", share=5 / 9), Part("second", "shaking")
        )
        self.net = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(self.net.weight)
        torch.nn.init.zeros_(self.net.bias)
        self.optimizer = torch.optim.AdamW(rated_groups([(self.net.parameters(), session.config.lr)]))
        self.restored: dict[str, Any] = {}
        self.hooks = 0

    def parts(self) -> dict[str, Any]:
        return {"net": self.net, "optimizer": self.optimizer}

    def values(self) -> dict[str, Any]:
        return {"hooks": self.hooks}

    def restore(self, values: Any) -> None:
        self.hooks = values["hooks"]

    def start_from(self, origin: Origin) -> None:
        origin.fill(self.net, "model", flags="--width")

    def train(self, then: Callable[[], None] | None = None, during: Callable[[], None] = lambda: None) -> None:
        def hook() -> None:
            self.hooks += 1
            if then is not None:
                then()

        for stage in (self.first, self.second):
            for step in self.session.steps(stage, log_every=2, then=hook):
                during()
                set_rate(self.optimizer, 1 - stage.fraction)
                noise = torch.randn(1, 2, generator=self.session.generator(3, self.session.clock))
                loss = self.net(noise if stage is self.second else torch.ones(1, 2)).square().sum()
                self.session.descend(loss, self.optimizer, self.net.parameters())
                self.session.average(loss=loss, at=step)
                self.session.latest(rate=1 - stage.fraction)


LENGTH = Budget(steps=9)
"""Five steps of the first stage, four of the second."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "images").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "data" / "images" / "a.png")
    write_mask(tmp_path / "data" / "masks" / "a.png", np.ones((8, 8), np.uint8))
    return tmp_path / "data"


def run(
    config: Config,
    then: Callable[[Session], None] | None = None,
    length: Budget = LENGTH,
    during: Callable[[], None] = lambda: None,
) -> Descent:
    with Session.open(config, {"lr": 0.1}) as session:
        descent = Descent(session, length)
        session.begin(descent)
        descent.train(None if then is None else lambda: then(session), during)
        assert session.finish()
    return descent


class Killed(Exception):
    pass


def kill_at(clock: int) -> Callable[[Session], None]:
    def kill(session: Session) -> None:
        if session.clock == clock:
            raise Killed

    return kill


def test_stages_follow_each_other_and_the_log_holds_means(data: Path, tmp_path: Path):
    descent = run(Config(data, tmp_path / "run"))
    assert (descent.first.step, descent.second.step, descent.hooks) == (5, 4, 9)
    assert descent.first.fraction == descent.second.fraction == 1.0
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 7, 9]
    # Means of the two steps before each line, and the newest rate; what a stage left over is not the next one's.
    assert [line["at"] for line in lines] == [0.5, 2.5, 0.5, 2.5]
    assert [line["rate"] for line in lines] == pytest.approx([0.8, 0.4, 0.75, 0.25])


def test_start_and_end_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(Config(data, tmp_path / "run"))
    told = capsys.readouterr().err
    assert "train: 1 image (1 mask)" in told
    assert "SAM nano on cpu; 9 steps in all (descending: 5 steps, shaking: 4 steps); seed 0; run: " in told
    assert "no images for validation: the last model will be kept" in told
    assert re.search(r"^9 steps in \d+ s, everything included$", told, re.MULTILINE)
    run(Config(data, tmp_path / "run", resume=True))
    assert re.search(r"resumed at step 9, after \d+ s in earlier sessions", capsys.readouterr().err)


@pytest.mark.parametrize("stops", [[1], [5], [6], [2, 7], [8]])
def test_a_resumed_training_is_the_uninterrupted_one(stops: list[int], data: Path, tmp_path: Path):
    whole = run(Config(data, tmp_path / "whole"))
    config = Config(data, tmp_path / "run")
    for stop in stops:
        with pytest.raises(Killed):
            run(config, kill_at(stop))
        config.resume = True
    resumed = run(config)
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, resumed.net.state_dict()[name])
    assert read_metrics(config.out) == read_metrics(tmp_path / "whole")
    assert resumed.hooks == whole.hooks


def test_a_mistake_before_begin_leaves_no_run(data: Path, tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Session.open(Config(data, tmp_path / "run"), {}):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="no such file or folder"):
        Session.open(Config(tmp_path / "nowhere", tmp_path / "run"), {})


def test_a_recipe_for_one_process_refuses_several(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    with pytest.raises(RunError, match="trains in one process, and 2 were started"):
        Session.open(Config(data, tmp_path / "run"), {}, several_processes=False)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds, as the first number of a list."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_minutes_count_over_sessions(data: Path, tmp_path: Path, now: list[float]):
    def half_a_minute() -> None:
        now[0] += 30.0

    # Nine minutes, and the two seconds that are set aside for the end.
    config, length = Config(data, tmp_path / "run"), Budget(minutes=9 + 2 / 60)
    with pytest.raises(Killed):
        run(config, kill_at(3), length, half_a_minute)
    config.resume = True
    descent = run(config, None, length, half_a_minute)
    # The third step was not saved before the kill: its half minute is gone with it, as its step is.
    assert (descent.first.step, descent.second.step) == (10, 8)
    assert descent.session.timer.minutes == pytest.approx(9.0)


def test_time_before_the_first_step_and_after_the_last_one_is_part_of_the_minutes(
    data: Path, tmp_path: Path, now: list[float]
):
    config = Config(data, tmp_path / "run")
    with Session.open(config, {}, started=-60.0) as session:  # a minute from the command to here
        descent = Descent(session, Budget(minutes=5))
        session.begin(descent)
        now[0] += 60.0  # images are embedded
        session.timer.reserves["report"] = 58 / 60

        def three_seconds() -> None:
            now[0] += 3.0

        descent.train(None, three_seconds)
        now[0] += 60.0
        assert session.finish()
    # Two minutes are left for the steps: five ninths of them, and the step that is under way then, for the first stage.
    assert (descent.first.step, descent.second.step) == (23, 17)
    assert session.timer.minutes == pytest.approx(5.0, abs=0.06)


def test_every_stage_gets_a_step_where_there_is_no_time(data: Path, tmp_path: Path, now: list[float]):
    config = Config(data, tmp_path / "run")
    with Session.open(config, {}, started=-600.0) as session:
        descent = Descent(session, Budget(minutes=5))
        session.begin(descent)
        descent.train()
        session.finish()
    assert (descent.first.step, descent.second.step) == (1, 1)
    assert descent.second.fraction == 1.0


def test_a_checkpoint_that_lacks_a_part_is_refused(data: Path, tmp_path: Path):
    config = Config(data, tmp_path / "run")
    run(config)
    (newest,) = (config.out / "last").iterdir()
    state = json.loads((newest / "state.json").read_text())
    del state["tensors"]["net"]
    (newest / "state.json").write_text(json.dumps(state))
    (newest / "net.safetensors").unlink()
    config.resume = True
    with pytest.raises(WeightsError, match=r"state.json: changed since the checkpoint was written"):
        run(config)


def test_checkpoints_come_by_the_clock(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved: list[int] = []
    save = Run.save_checkpoint
    monkeypatch.setattr(Run, "save_checkpoint", lambda self, step, *rest: (saved.append(step), save(self, step, *rest)))
    run(Config(data, tmp_path / "often"))
    assert saved == [*range(1, 10), 9]
    saved.clear()
    run(Config(data, tmp_path / "seldom", checkpoint_seconds=1000.0))
    assert saved == [9]


def test_gradients_do_not_depend_on_the_launchers_environment(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.nn.Parameter(torch.ones(1))
    session = Session.open(Config(data, tmp_path / "run"), {})
    session.descend(weight.sum() / 2, torch.optim.SGD([weight], lr=1.0), [weight])
    assert weight.item() == 0.5


def test_random_numbers_are_a_function_of_seed_stream_and_step(data: Path, tmp_path: Path):
    session = Session.open(Config(data, tmp_path / "run", seed=3), {})
    draws = {
        (stream, step): torch.rand(4, generator=session.generator(stream, step)) for stream in (0, 1) for step in (0, 1)
    }
    assert torch.equal(draws[0, 1], torch.rand(4, generator=session.generator(0, 1)))
    assert len({tuple(values.tolist()) for values in draws.values()}) == 4


# ----------------------------------------------------------------------------------------------------------- validation


class Validated(Descent):
    """Descent whose validation scores are given."""

    def __init__(self, session: Session, scores: dict[int, float], **best: Any) -> None:
        super().__init__(session, LENGTH)
        self.scores, self.validations = scores, Validations(4)
        self.best = Best({"net": self.net}, **best)
        self.weights: dict[int, torch.Tensor] = {}

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"best": self.best}

    def train(self, then: Callable[[], None] | None = None) -> None:
        def validate() -> None:
            self.weights[self.session.clock] = self.net.weight.detach().clone()
            if then is not None:
                then()
            stage = self.second if self.second.step else self.first
            if stage is self.second:
                score = lambda: {"dice": self.scores[self.session.clock]}  # noqa: E731
                self.session.validate_if_due(stage, self.validations, self.best, score, "dice")

        for stage in (self.first, self.second):
            for _ in self.session.steps(stage, log_every=2, then=validate, stop=self.best.is_exhausted):
                noise = torch.randn(1, 2, generator=self.session.generator(3, self.session.clock))
                self.session.descend(self.net(noise).square().sum(), self.optimizer, self.net.parameters())


def validated(config: Config, scores: list[float], then: Callable[[Session], None] | None = None, **best: Any) -> Any:
    with Session.open(config, {}) as session:
        trainer = Validated(session, dict(enumerate(scores, start=6)), **best)
        session.begin(trainer)
        trainer.train(None if then is None else lambda: then(session))
        session.finish()
        trainer.best.restore()
    return trainer


def test_the_model_with_the_best_smoothed_score_is_kept(data: Path, tmp_path: Path):
    scores = [0.2, 0.8, 0.5, 0.1]  # smoothed: .2, .5, .5, .3
    kept = validated(Config(data, tmp_path / "run"), scores)
    # Of two that are as good the later one, which has learnt longer.
    assert (kept.best.step, kept.best.score) == (8, 0.5)
    assert torch.equal(kept.net.weight, kept.weights[8])
    assert not torch.equal(kept.net.weight, kept.weights[9])
    lines = [line for line in read_metrics(tmp_path / "run") if "val_dice" in line]
    assert [line["step"] for line in lines] == [6, 7, 8, 9]
    assert [line["val_smoothed"] for line in lines] == pytest.approx([0.2, 0.5, 0.5, 0.3])
    last = validated(Config(data, tmp_path / "last"), scores, keep="last")
    assert last.best.step == 9
    assert torch.equal(last.net.weight, last.weights[9])


def test_patience_ends_a_training(data: Path, tmp_path: Path):
    ended = validated(Config(data, tmp_path / "run"), [0.8, 0.5, 0.4, 0.3], patience=2)
    assert (ended.session.clock, ended.best.step) == (8, 6)
    assert ended.second.fraction == 1.0
    resumed = validated(Config(data, tmp_path / "run", resume=True), [0.8, 0.5, 0.4, 0.3], patience=2)
    assert resumed.session.clock == 8
    assert torch.equal(resumed.net.weight, ended.net.weight)


@pytest.mark.parametrize("stop", [3, 6, 7, 8, 9])
def test_a_resumed_training_keeps_the_same_model(stop: int, data: Path, tmp_path: Path):
    scores = [0.2, 0.8, 0.3, 0.1]
    whole = validated(Config(data, tmp_path / "whole"), scores)
    config = Config(data, tmp_path / "run")
    with pytest.raises(Killed):
        validated(config, scores, kill_at(stop))
    config.resume = True
    resumed = validated(config, scores)
    assert torch.equal(resumed.net.weight, whole.net.weight)
    assert resumed.best.state()[1] == whole.best.state()[1]
    assert read_metrics(config.out) == read_metrics(tmp_path / "whole")


# ---------------------------------------------------------------------------------------------------- the data


def test_other_data_are_refused_and_named_and_a_folder_that_was_moved_is_not(data: Path, tmp_path: Path):
    config = Config(data, tmp_path / "run")
    with pytest.raises(Killed):
        run(config, kill_at(3))
    config.resume = True
    write_mask(data / "masks" / "a.png", np.eye(8, dtype=np.uint8))
    Image.fromarray(np.ones((8, 8, 3), np.uint8)).save(data / "images" / "b.png")
    log = (config.out / "metrics.jsonl").read_text()
    with pytest.raises(RunError) as caught:
        run(config)
    told = str(caught.value)
    assert f"{config.out} cannot be resumed, its data changed:" in told
    assert "1 image added: b" in told
    assert "1 image relabelled: a" in told
    assert f"--init {config.out}" in told
    assert (config.out / "metrics.jsonl").read_text() == log
    os.remove(data / "images" / "b.png")
    write_mask(data / "masks" / "a.png", np.ones((8, 8), np.uint8))
    config.data = data.rename(tmp_path / "moved")
    run(config)


def test_a_run_keeps_its_fingerprint_and_says_where_it_cannot_compare(data: Path, tmp_path: Path):
    config = Config(data, tmp_path / "run")
    run(config)
    record, digest = config.out / "config.json", Fingerprint.of(Dataset.load(data)).digest
    assert json.loads(record.read_text())["data"] == digest
    (state,) = (config.out / "last").glob("*/state.json")
    assert json.loads(state.read_text())["state"]["data"] == digest
    config.resume = True
    (config.out / "data.json").unlink()  # as after a kill between the two files
    run(config)
    (config.out / "data.json").write_text("{")
    write_mask(data / "masks" / "a.png", np.eye(8, dtype=np.uint8))
    with pytest.raises(RunError, match=r"what changed cannot be told, since .*data\.json cannot be read"):
        run(config)


# ---------------------------------------------------------------------------------------------------- an earlier run


def trained_net(path: Path) -> dict[str, torch.Tensor]:
    return load_file(next((path / "last").iterdir()) / "net.safetensors")


def test_a_new_training_starts_from_an_earlier_one(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(Config(data, tmp_path / "first"))
    config = Config(data, tmp_path / "second", init=tmp_path / "first")
    started: list[torch.Tensor] = []
    with Session.open(config, {}) as session:
        descent = Descent(session, LENGTH)
        session.begin(descent)
        started.append(descent.net.weight.detach().clone())
    assert torch.equal(started[0], trained_net(tmp_path / "first")["weight"])
    record = json.loads((config.out / "config.json").read_text())["origin"]
    assert record == {"folder": str(tmp_path / "first"), "signature": "step-9", "taken": ["model"]}
    assert f"starts from {tmp_path / 'first'} (step-9): model" in capsys.readouterr().err


def test_what_cannot_be_started_from_leaves_no_run(data: Path, tmp_path: Path):
    run(Config(data, tmp_path / "first"))
    config = Config(data, tmp_path / "second", init=tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="there is no such folder"):
        run(config)
    config.init = config.out
    with pytest.raises(RunError, match="is the new run itself"):
        run(config)
    config.init = tmp_path / "first"
    record = json.loads((config.init / "config.json").read_text())
    (config.init / "config.json").write_text(json.dumps(record | {"recipe": "clicks"}))
    with pytest.raises(WeightsError, match="is a run of clicks, this is one of descent"):
        run(config)
    assert not config.out.exists()


def test_rows_of_heads_go_by_the_names_of_categories():
    then, now = ("background", "polyp", "tool"), ("background", "tool", "dye", "polyp")
    earlier = {"head.weight": torch.arange(3.0)[:, None], "body": torch.ones(2)}
    origin = Origin(Path("runs/a"), then, {}, {}, "step-1", {"model": earlier})
    expected = {"head.weight": torch.full((4, 1), -1.0), "body": torch.zeros(2)}
    taken = origin.take(expected, "model", flags="--sam", heads=Heads(("head.",)), categories=now)
    assert taken["head.weight"][:, 0].tolist() == [0, 2, -1, 1]
    assert taken["body"].tolist() == [1, 1]
    assert str(origin) == "runs/a (step-1): model (new categories: dye)"


def test_another_network_is_told_with_the_settings_that_it_was_made_with():
    origin = Origin(Path("runs/a"), (), {}, {"sam": "large", "size": 64}, "step-1", {"model": {"w": torch.ones(2)}})
    with pytest.raises(WeightsError, match=r"w: shape \(2,\) there, \(3,\) here\).*: --sam large --size 64"):
        origin.take({"w": torch.ones(3)}, "model", flags="--sam, --size, --crop")
    with pytest.raises(WeightsError, match="is for another SAM than --sam small; give --sam large"):
        origin.require_sam("small", "1234", None)


# ---------------------------------------------------------------------------------------------------- NaN


@pytest.mark.parametrize("often", [True, False])
def test_a_training_that_diverges_ends_with_its_last_good_checkpoint(often: bool, data: Path, tmp_path: Path):
    config = Config(data, tmp_path / "run", checkpoint_seconds=0.0 if often else 1000.0)

    def poison(session: Session) -> None:
        if session.clock == 6:
            session._trainer.net.weight.data.fill_(torch.nan)  # type: ignore[union-attr]

    with pytest.raises(RunError) as caught:
        run(config, poison)
    told = str(caught.value)
    assert f"by step {6 if often else 7} a loss, a gradient or a weight is NaN or infinite" in told
    assert "Lower --lr (now 0.1), and start anew with --overwrite" in told
    assert ("the checkpoint of step 5 is kept" if often else "no checkpoint was written yet") in told
    for path in config.out.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert all(np.isfinite([*line.values()]).all() for line in read_metrics(config.out))


def test_a_rate_beyond_all_bounds_ends_with_an_error(data: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"Lower --lr \(now 1e\+30\)"):
        run(Config(data, tmp_path / "run", lr=1e30))


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused_at_once(rate: float, data: Path, tmp_path: Path):
    with pytest.raises(MaskwrightError, match=rf"--lr {rate:g}: must be a number of 0 or more"):
        run(Config(data, tmp_path / "run", lr=rate))
    assert not (tmp_path / "run").exists()


def test_losses_are_watched_without_asking_the_device_at_each_step(data: Path, tmp_path: Path):
    session = Session.open(Config(data, tmp_path / "run"), {})
    session.plan(LENGTH, Part("fit", "training"))
    session.watch(torch.ones(3), torch.ones(()))
    session.require_finite()
    session.watch(torch.tensor([1.0, torch.inf]))
    session.watch(torch.ones(()))
    session.run = Run.create(tmp_path / "run", {}, resume=False)
    with pytest.raises(RunError, match="has diverged"):
        session.require_finite()


# ---------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("at", [1, 5, 7])
@pytest.mark.usefixtures("ctrl_c")
def test_a_signal_finishes_the_step_and_saves(
    number: signal.Signals, status: int, at: int, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    whole = run(Config(data, tmp_path / "whole"))
    config = Config(data, tmp_path / "run", checkpoint_seconds=1000.0)

    def strike(session: Session) -> None:
        if session.clock == at:
            os.kill(os.getpid(), number)

    with interrupts.handled(["train", "samix"]), pytest.raises(interrupts.Interrupted) as caught:
        run(config, strike)
    assert interrupts.status(caught.value) == status
    told = capfd.readouterr().err
    assert "the step under way is finished and saved first" in told
    assert f"the checkpoint of step {at} is kept in {config.out / 'last'}" in told
    config.resume = True
    resumed = run(config)
    assert torch.equal(resumed.net.weight, whole.net.weight)
    assert read_metrics(config.out) == read_metrics(tmp_path / "whole")


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_signal_does_not_wait(data: Path, tmp_path: Path):
    config, seen = Config(data, tmp_path / "run", checkpoint_seconds=1000.0), []

    def strike(session: Session) -> None:
        if session.clock == 3:
            os.kill(os.getpid(), signal.SIGINT)
            seen.append(1)
            os.kill(os.getpid(), signal.SIGINT)
            seen.append(2)

    with interrupts.handled(["train", "samix"]), pytest.raises(interrupts.Interrupted):
        run(config, strike)
    assert seen == [1]
    assert not Run.has_checkpoint(config.out)


@pytest.mark.usefixtures("ctrl_c")
def test_outside_of_steps_a_signal_stops_at_once(data: Path, tmp_path: Path):
    with interrupts.handled(["train", "samix"]):
        run(Config(data, tmp_path / "run"))
        with pytest.raises(interrupts.Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
