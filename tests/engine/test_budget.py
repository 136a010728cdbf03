"""Budgets in steps, epochs and minutes; and what progress shows with and without a terminal."""

from __future__ import annotations

import time

import pytest

from maskwright.engine.budget import Budget, progress
from maskwright.errors import RunError


def test_budget_in_steps_and_epochs() -> None:
    steps = Budget(steps=10)
    assert [steps.share(step, minutes_used=99) for step in (0, 5, 10, 11)] == [0.0, 0.5, 1.0, 1.0]
    epochs = Budget(epochs=2.5, steps_per_epoch=5)
    assert epochs.total_steps == 13
    assert epochs.share(12, 0.0) < 1 == epochs.share(13, 0.0)


def test_budget_in_minutes() -> None:
    budget = Budget(minutes=10)
    assert budget.total_steps is None
    assert [budget.share(123, minutes) for minutes in (0, 4, 10, 11)] == [0.0, 0.4, 1.0, 1.0]
    assert (str(budget), str(Budget(steps=1))) == ("10 minutes", "1 step")


@pytest.mark.parametrize(
    ("given_budget", "message"),
    [
        ({}, "given: none"),
        ({"epochs": 1, "minutes": 2}, "given: --epochs and --minutes"),
        ({"steps": 0}, "--steps must be a number above 0"),
        ({"minutes": float("inf")}, "--minutes must be a number above 0"),
    ],
)
def test_impossible_budgets(given_budget: dict, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Budget(**given_budget)


def test_progress_prints_now_and_then_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress(100, "training [s]", completed=20) as advance:
        for _ in range(70):
            now[0] += 1.0
            advance(loss=0.25)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training [s]: 50 of 100 (50%), about 0.8 min left  loss 0.25",
        "training [s]: 80 of 100 (80%), about 0.3 min left  loss 0.25",
    ]
    with progress(100, "training", is_main=False, interval=0) as advance:
        advance()
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(4, "training") as advance:
        advance(2, loss=0.125)
    assert "50%" in capsys.readouterr().err
