"""Half precision: networks compute in it, and nothing that comes out of them, nor any weight, is of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from maskwright.engine.precision import Precision, as_float32
from maskwright.errors import RunError

CPU = torch.device("cpu")


@dataclass
class Answer:
    logits: Tensor
    parts: tuple[Tensor, ...]


class Network(nn.Module):
    """Notes what its layer computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Answer:
        y = self.layer(x)
        self.seen.append(y.dtype)
        if y.isnan().any():
            raise ValueError("no number")
        return Answer(y, (y, y.argmax(-1)))


def test_a_network_and_its_copies_compute_in_bfloat16_and_answer_in_float32():
    torch.manual_seed(0)
    network, plain = Network(), None
    plain = copy.deepcopy(network)
    Precision("bf16", CPU).lower([network])
    other = copy.deepcopy(network)
    nn.init.zeros_(other.layer.weight)
    x = torch.randn(2, 8)
    answer = network(x)
    assert network.seen == [torch.bfloat16]
    assert (answer.logits.dtype, answer.parts[0].dtype, answer.parts[1].dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    torch.testing.assert_close(answer.logits, plain(x).logits, atol=0.05, rtol=0.05)
    answer.logits.square().sum().backward()
    assert network.layer.weight.grad is not None
    assert network.layer.weight.grad.dtype == torch.float32
    # A copy has weights and hooks of its own.
    assert torch.equal(other(x).logits, other.layer.bias.bfloat16().float().expand(2, 4))
    assert (other.seen, network.seen) == ([torch.bfloat16], [torch.bfloat16])
    assert network.state_dict().keys() == plain.state_dict().keys()
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_inside_leaves_no_autocast_behind():
    network = Network()
    Precision("bf16", CPU).lower([network])
    with pytest.raises(ValueError, match="no number"):
        network(torch.full((1, 8), torch.nan))
    assert not torch.is_autocast_enabled("cpu")


def test_float32_changes_nothing():
    network = Network()
    precision = Precision("float32", CPU)
    precision.lower([network])
    assert not network._forward_hooks
    assert precision.state() == {}


def test_what_cannot_be_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunError, match=r"--precision fp16: needs a GPU of CUDA.*; give bf16 or float32$"):
        Precision("fp16", CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    Precision("bf16", CPU)
    with pytest.raises(
        RunError, match=r"--precision float32: accelerate was told --mixed_precision bf16.*give --precision bf16"
    ):
        Precision("float32", CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(RunError, match="launch with --mixed_precision no"):
        Precision("bf16", CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # what `accelerate launch` says of itself
    Precision("bf16", CPU)


def test_float32_of_everything_that_networks_give():
    half = torch.ones(2, dtype=torch.bfloat16)
    found = as_float32({"a": [half, (half.half(), 3)], "b": Answer(half, (half,)), "c": None})
    assert (
        found["a"][0].dtype
        == found["a"][1][0].dtype
        == found["b"].logits.dtype
        == found["b"].parts[0].dtype
        == torch.float32
    )
    assert (found["a"][1][1], found["c"]) == (3, None)
