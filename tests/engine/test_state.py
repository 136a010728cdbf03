"""Training state: resumed equals never stopped, and state of another model is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from maskwright.engine.run import Run
from maskwright.engine.state import flatten_optimizer, unflatten_optimizer
from maskwright.engine.weights import load_state
from maskwright.errors import WeightsError
from tests.run_helpers import start

torch.set_num_threads(1)


class Training:
    """A loop with dropout, batch norm and a schedule, whose random numbers and rate follow from the step alone."""

    def __init__(self, optimizer: str) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        groups = [{"params": self.model[0].parameters(), "lr": 0.02}, {"params": [*self.model[3].parameters()]}]
        kinds = {
            "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, amsgrad=True),
            "sgd": lambda: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
        }
        self.optimizer = kinds[optimizer]()

    def step(self, step: int) -> float:
        torch.manual_seed(step)
        self.optimizer.param_groups[1]["lr"] = 0.01 / step
        images = torch.randn(6, 4)
        loss = (self.model(images) - images.sum(1, keepdim=True)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def save(self, run: Run, step: int) -> None:
        optimizer, state = flatten_optimizer(self.optimizer)
        run.save_checkpoint(step, {"model": self.model.state_dict(), "optimizer": optimizer}, {"optimizer": state})

    def load(self, run: Run) -> int:
        checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        load_state(self.model, checkpoint.tensors["model"], checkpoint.folder)
        unflatten_optimizer(self.optimizer, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"])
        return checkpoint.step


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_resumed_equals_never_stopped_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    with start(tmp_path / "whole") as run:
        whole = Training(optimizer)
        for step in range(1, 13):
            run.log(step, loss=whole.step(step))
    with start(tmp_path / "killed") as run:
        first = Training(optimizer)
        for step in range(1, 9):
            run.log(step, loss=first.step(step))
            if step in (2, 5):
                first.save(run, step)
    with start(tmp_path / "killed", resume=True) as run:
        second = Training(optimizer)
        for step in range(second.load(run) + 1, 13):
            run.log(step, loss=second.step(step))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "killed" / "metrics.jsonl").read_bytes()


def test_optimizer_of_another_model_is_refused() -> None:
    def adam(*sizes: int) -> torch.optim.Optimizer:
        parameters = [nn.Parameter(torch.ones(size)) for size in sizes]
        optimizer = torch.optim.AdamW(parameters)
        sum(p.sum() for p in parameters).backward()
        optimizer.step()
        return optimizer

    tensors, state = flatten_optimizer(adam(3, 4))
    with pytest.raises(
        WeightsError, match=r"group 0: parameters of shapes \[\[3\], \[4\]\], and the optimiser has \[\[3\]\]"
    ):
        unflatten_optimizer(adam(3), tensors, state)
    tensors["0.momentum"] = tensors.pop("0.exp_avg")
    with pytest.raises(WeightsError, match=r"1 missing: 0.exp_avg\n.*1 unexpected: 0.momentum"):
        unflatten_optimizer(adam(3, 4), tensors, state)


def test_unflattened_state_is_the_optimisers_own() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    tensors, state = flatten_optimizer(optimizer)
    tensors = {name: value.clone() for name, value in tensors.items()}
    kept = {name: value.clone() for name, value in tensors.items()}
    unflatten_optimizer(optimizer, tensors, state)
    optimizer.step()
    assert all(torch.equal(value, kept[name]) for name, value in tensors.items())
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_a_learning_rate_that_is_a_tensor_goes_with_the_tensors() -> None:
    parameter = nn.Parameter(torch.ones(3))
    tensors, state = flatten_optimizer(torch.optim.Adam([parameter], lr=torch.tensor(0.25)))
    other = torch.optim.Adam([parameter], lr=torch.tensor(0.5))
    unflatten_optimizer(other, tensors, state)
    assert torch.equal(other.param_groups[0]["lr"], torch.tensor(0.25))
