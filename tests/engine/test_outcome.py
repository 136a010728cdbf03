"""What is said at the end of a training: the score, what it is measured against, and a warning where it is worth nothing."""

from __future__ import annotations

from maskwright.engine.outcome import Outcome


def test_a_model_that_is_better_than_nothing():
    outcome = Outcome(
        "Dice", 0.81234, {"all background": 0.0, "the average training mask": 0.41}, step=70, steps=90, images=12
    )
    assert outcome.text == (
        "validation: Dice 0.812 (the best model, of step 70 of 90; 12 images); "
        "against: all background 0.000, the average training mask 0.410"
    )
    assert outcome.warning == ""
    assert outcome.marks == {"kept": 70}
    assert outcome.rows[0] == ("this model", 0.81234)


def test_a_model_that_is_no_better_than_nothing_is_warned_of_loudly():
    outcome = Outcome(
        "Dice", 0.5, {"no agent": 0.7, "all background": 0.1}, step=9, steps=9, keep="last", advice="do not use it"
    )
    assert outcome.worse_than == {"no agent": 0.7}
    assert outcome.warning.splitlines() == [
        "WARNING: this model is no better than what costs nothing: Dice 0.500 on the validation split, and no agent 0.700.",
        "Do not use it.",
    ]
    assert "the last model, after step 9" in outcome.text
    assert Outcome("Dice", 0.0, {"nothing found": 0.0}).warning  # a tie is no gain


def test_without_a_score_nothing_is_claimed():
    outcome = Outcome("Dice", None, {"all background": 0.5})
    assert "was not measured" in outcome.text
    assert (outcome.warning, outcome.worse_than, outcome.rows, outcome.marks) == ("", {}, [], {})
