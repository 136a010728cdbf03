from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from maskwright.engine.ema import Ema, spanning
from maskwright.errors import WeightsError

torch.set_num_threads(1)


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def walk(model: nn.Module, steps: int) -> list[dict[str, torch.Tensor]]:
    """Move the model at random; returns its states."""
    states = []
    for _ in range(steps):
        model.train()(torch.randn(5, 2))  # moves the running statistics of the batch norm
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    return states


@settings(deadline=None)
@given(decay=st.floats(0, 1), steps=st.integers(1, 6))
def test_equals_the_closed_form(decay: float, steps: int) -> None:
    model = student()
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    ema = Ema(model, decay)
    states = []
    for _ in range(steps):
        states += walk(model, 1)
        ema.update(model)
    for name, value in ema.model.state_dict().items():
        if value.is_floating_point():
            expected = decay**steps * initial[name]
            for i, state in enumerate(states):
                expected = expected + (1 - decay) * decay ** (steps - 1 - i) * state[name]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(value, states[-1][name])  # num_batches_tracked is counted, not averaged


def test_warm_up_is_the_plain_mean_then_the_decay_holds() -> None:
    model = student()
    ema = Ema(model, decay=0.99, warmup=4)
    states, decays = [], []
    for _ in range(4):
        states += walk(model, 1)
        decays.append(ema.current_decay)
        ema.update(model)
    mean = torch.stack([state["0.weight"] for state in states]).mean(0)
    torch.testing.assert_close(ema.model.state_dict()["0.weight"], mean)
    assert decays == [0, 1 / 2, 2 / 3, 3 / 4]
    assert ema.current_decay == 0.99
    assert Ema(model, decay=0.3, warmup=100).current_decay == 0.0


def test_the_teacher_has_no_gradient_and_is_apart_from_the_student() -> None:
    model = student()
    ema = Ema(model, 0.5)
    ema.update(model)
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())
    assert all(parameter.grad_fn is None for parameter in ema.model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = ema.model.state_dict()["0.weight"].clone()
    walk(model, 1)
    assert torch.equal(ema.model.state_dict()["0.weight"], before)


def test_tied_weights_move_once_and_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    nn.init.zeros_(model[0].weight)
    ema = Ema(model, 0.75)
    nn.init.ones_(model[0].weight)
    ema.update(model)
    assert ema.model.get_parameter("0.weight") is ema.model.get_parameter("1.weight")
    assert torch.equal(ema.model.get_parameter("0.weight"), torch.full((2, 2), 0.25))


def test_copy_from_ends_a_burn_in() -> None:
    model = student()
    ema = Ema(model, 0.9, warmup=2)
    walk(model, 1)
    ema.update(model)
    state = walk(model, 1)[0]
    ema.copy_from(model)
    assert all(torch.equal(value, state[name]) for name, value in ema.model.state_dict().items())
    assert ema.updates == 0


def test_state_round_trip_and_its_errors() -> None:
    model = student()
    ema = Ema(model, 0.9, warmup=10)
    for _ in range(3):
        walk(model, 1)
        ema.update(model)
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    other = Ema(student(), 0.9, warmup=10)
    other.load_state_dict(saved)
    assert other.updates == 3
    assert all(torch.equal(value, saved[name]) for name, value in other.state_dict().items())
    ema.update(model)
    other.update(model)
    assert all(torch.equal(value, ema.state_dict()[name]) for name, value in other.state_dict().items())
    with pytest.raises(WeightsError, match="updates"):
        other.load_state_dict({name: value for name, value in saved.items() if name != "updates"})
    saved["model.9.weight"] = saved.pop("model.0.weight")
    with pytest.raises(WeightsError, match=r"1 missing: 0.weight\n.*1 unexpected: 9.weight"):
        other.load_state_dict(saved)


def test_another_architecture_is_an_error_that_names_the_difference() -> None:
    with pytest.raises(ValueError, match=r"2\.bias, 2\.weight"):
        Ema(student(), 0.9).update(student()[:2])


@pytest.mark.parametrize(("decay", "warmup"), [(-0.1, 0), (1.1, 0), (float("nan"), 0), (0.5, -1)])
def test_impossible_settings(decay: float, warmup: int) -> None:
    with pytest.raises(ValueError, match=r"decay|warmup"):
        Ema(student(), decay, warmup)


def test_a_short_run_has_a_short_memory() -> None:
    assert spanning(0.999, 1_000_000, 0.2) == 0.999
    assert spanning(0.999, 1000, 0.2) == pytest.approx(1 - 1 / 200)
    assert spanning(0.999, 0, 0.2) == 0.5
