"""How the stages of a training share its length, when it is validated, and the time left; with a pretend clock."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskwright.engine.bar import TrainingBar, time_as_text
from maskwright.engine.budget import Budget
from maskwright.engine.timer import MOST_TIME, VALIDATION_SHARE, Part, Stage, Timer, Validations, Work, share_out
from maskwright.errors import RunError


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def parts(**changed) -> list[Part]:
    first = {"share": 0.2, "most": 150, "option": "--warm-up"} | changed
    return [Part("warm_up", "warming up", **first), Part("fit", "training")]


def totals(length: Budget, **changed) -> list[float | None]:
    return [stage.total for stage in share_out(length, parts(**changed))]


def test_steps_are_shared_out_beforehand():
    assert totals(Budget(steps=100)) == [20, 80]
    assert totals(Budget(steps=2000)) == [150, 1850]
    assert totals(Budget(epochs=2.5, steps_per_epoch=40)) == [20, 80]
    assert totals(Budget(steps=100), steps=30) == [30, 70]
    assert totals(Budget(steps=100), steps=0) == totals(Budget(steps=100), wanted=False) == [0, 100]
    assert totals(Budget(steps=2)) == [1, 1]


@given(st.integers(2, 5000), st.floats(0.01, 0.9), st.integers(1, 200))
def test_stages_add_up_to_the_whole(steps: int, share: float, most: int):
    first, second = totals(Budget(steps=steps), share=share, most=most)
    assert first is not None
    assert second is not None
    assert first + second == steps
    assert 1 <= first <= max(1, min(most, steps * share + 0.5))
    assert second >= 1


def test_stages_that_leave_nothing_are_refused():
    with pytest.raises(RunError, match=r"20 steps for the whole training: --warm-up 20 leave no step for training"):
        share_out(Budget(steps=20), parts(steps=20))
    with pytest.raises(RunError, match=r"1 steps? for the whole training: too few to give every stage one"):
        share_out(Budget(steps=1), parts())


def timer_of(minutes: float, **changed) -> Timer:
    stages = share_out(Budget(minutes=minutes), parts(**changed))
    return Timer(Budget(minutes=minutes), stages, started=0.0, works=list(stages))


def run_stage(timer: Timer, stage: Stage, now: list[float], seconds: float) -> None:
    """Steps of so many seconds until the stage is over."""
    stage.began = timer.minutes
    while (share := timer.share(stage)) < 1:
        stage.fraction = share
        now[0] += seconds
        stage.step += 1


def test_by_the_clock_a_stage_gets_its_share_of_what_is_left(now: list[float]):
    timer = timer_of(10.0)
    timer.reserves["report"] = 1.0
    now[0] = 60.0  # set-up
    warm_up, fit = timer.stages
    run_stage(timer, warm_up, now, 6.0)
    assert timer.minutes == pytest.approx(1.0 + 0.2 * 8.0, abs=0.11)
    run_stage(timer, fit, now, 6.0)
    assert timer.minutes == pytest.approx(9.0, abs=0.11)
    assert fit.expected_steps == pytest.approx(fit.step, rel=0.05)


def test_by_the_clock_a_number_of_steps_is_bounded(now: list[float]):
    timer = timer_of(10.0, steps=30)
    run_stage(timer, timer.stages[0], now, 2.0)
    assert timer.stages[0].step == 30
    now[0] = 0.0
    slow = timer_of(10.0, steps=30)
    run_stage(slow, slow.stages[0], now, 20.0)
    assert slow.stages[0].step < 30
    assert slow.minutes == pytest.approx(10 * MOST_TIME, abs=0.34)


def test_a_share_never_goes_back(now: list[float]):
    timer = timer_of(10.0)
    timer.reserves["validation"] = 2.0
    stage = timer.stages[1]
    stage.began, stage.step, now[0] = 0.0, 5, 240.0
    stage.fraction = timer.share(stage)
    timer.reserves["validation"] = 0.1
    assert timer.share(stage) == stage.fraction == pytest.approx(0.5)


@given(st.integers(1, 400), st.integers(1, 20), st.floats(0.0, 5.0))
def test_validations_are_evenly_spread_bounded_and_the_last_step_has_one(steps: int, times: int, cost: float):
    (stage,) = share_out(Budget(steps=steps), [Part("fit", "training")])
    timer, validations = Timer(Budget(steps=steps), [stage], 0.0), Validations(times, cost)
    due = [
        step + 1 for step in range(steps) if timer.validation_due(stage, validations, step / steps, (step + 1) / steps)
    ]
    assert due[-1] == steps
    assert len(due) == min(steps, validations.number(steps))
    assert len(due) <= times
    assert (len(due) - 1) * cost <= VALIDATION_SHARE * steps
    gaps = [b - a for a, b in zip([0, *due], due)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_by_the_clock_validations_cost_a_bounded_share(seconds: float, now: list[float]):
    timer = timer_of(10.0, wanted=False)
    stage, validations = timer.stages[1], Validations(10)
    stage.began, spent, count = 0.0, 0.0, 0
    while (share := timer.share(stage)) < 1:
        stage.fraction = share
        now[0] += 2.0
        stage.step += 1
        after = timer.share(stage)
        if timer.validation_due(stage, validations, share, after):
            with timer.timed(validations):
                now[0] += seconds
            spent, count = spent + seconds, count + 1
            last = after
    assert last == 1.0  # the model at the end has a score
    assert spent - seconds <= VALIDATION_SHARE * 600 * 1.1
    assert count == (10 if seconds == 1.0 else 3)
    assert timer.minutes == pytest.approx(10.0, abs=0.05)  # the last validation was set aside


def test_the_time_left_holds(now: list[float]):
    """Steps whose cost rises, another work between the stages, and work at the end: what is left is what it will take."""
    stages = share_out(
        Budget(steps=120),
        [
            Part("warm_up", "", share=1 / 6, cost=2.0),
            Part("fit", "", grows=lambda fraction: 1.0 if fraction < 0.7 else 4.0),
        ],
    )
    visit = Work("first visits", "images", 50, cost=0.5)
    timer = Timer(Budget(steps=120), stages, 0.0, works=[*stages, visit], reserves={"end": 0.5})
    assert timer.left is None
    work = [(stages[0], 2.0)] * 20 + [(visit, 0.5)] * 50 + [(stages[1], 1.0)] * 70 + [(stages[1], 4.0)] * 30
    whole = sum(seconds for _, seconds in work) / 60 + 0.5
    for each, seconds in work:
        with timer.spending(each):
            now[0] += seconds
        each.done, each.counted = each.done + 1, each.counted + 1
        assert timer.left == pytest.approx(whole - timer.minutes, rel=0.03, abs=0.02)
    assert timer.done == pytest.approx(1.0)
    clock = timer_of(3.0)
    clock.started = now[0] - 60.0
    assert clock.left == pytest.approx(2.0)


def test_one_line_for_each_phase_and_now_and_then(now: list[float], capsys: pytest.CaptureFixture[str]):
    bar = TrainingBar()
    for step in range(41):
        bar.show("training", f"steps {step} of 40", step / 40, 4.0 - step / 10, loss=0.5)
        now[0] += 2.0
    bar.show("last pseudo-masks", "images 0 of 7", 0.95, 0.1)
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "training: steps 0 of 40, 0% of all, about 4.0 min left, loss 0.5",
        "training: steps 15 of 40, 38% of all, about 2.5 min left, loss 0.5",
        "training: steps 30 of 40, 75% of all, about 60 s left, loss 0.5",
        "last pseudo-masks: images 0 of 7, 95% of all, about 6 s left",
    ]
    TrainingBar(is_main=False).show("training", "steps 1", 0.5, 1.0)
    assert capsys.readouterr().err == ""


def test_the_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    bar = TrainingBar()
    bar.show("training", "steps 2 of 4", 0.5, 1.5, loss=0.125)
    bar.close()
    shown = capsys.readouterr().err
    for text in ("training, steps 2 of 4", "50%", "about 1.5 min left", "loss 0.125"):
        assert text in shown


def test_times_in_words():
    assert [time_as_text(minutes) for minutes in (0, 1.4, 4.26, 42, 200)] == [
        "0 s",
        "84 s",
        "4.3 min",
        "42 min",
        "3 h 20 min",
    ]
