"""EfficientNet-Lite against a plain implementation of its own: TensorFlow's padding, one operation after the other, nothing folded."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from maskwright.errors import WeightsError
from maskwright.sam.sam import MEAN, STD, Sam
from maskwright.sam.trunks.cpu_layers import depthwise_conv, relu6_
from maskwright.sam.trunks.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel, NormedConv
from tests.helpers import tiny_lite_config

# As published: repeats, kernel, stride, expansion, channels in and out of each group of blocks.
LITE0 = (
    "r1_k3_s1_e1_i32_o16",
    "r2_k3_s2_e6_i16_o24",
    "r2_k5_s2_e6_i24_o40",
    "r3_k3_s2_e6_i40_o80",
    "r3_k5_s1_e6_i80_o112",
    "r4_k5_s2_e6_i112_o192",
    "r1_k3_s1_e6_i192_o320",
)
TINY = ("r1_k3_s1_e1_i8_o4", "r1_k3_s2_e2_i4_o8", "r2_k5_s2_e2_i8_o12", "r2_k3_s2_e2_i12_o16", "r1_k5_s2_e2_i16_o24")


def same_conv(x: Tensor, weight: Tensor, stride: int, groups: int = 1, border: Tensor | None = None) -> Tensor:
    """TensorFlow's "same": as many cells as are needed, the odd one at the end; ``border`` (C,) is the colour of the cells."""
    kernel = weight.shape[-1]
    around = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in around]
    padded = F.pad(x, (left, right, top, bottom))
    if border is not None:
        inside = F.pad(torch.ones_like(x), (left, right, top, bottom))
        padded = padded + (1 - inside) * border[:, None, None]
    return F.conv2d(padded, weight, stride=stride, groups=groups)


def maps(state: dict[str, Tensor], groups: tuple[str, ...], x: Tensor, border: Tensor | None = None) -> list[Tensor]:
    """Maps of strides 2 to 32 from tensors with the published names."""

    def norm(x: Tensor, name: str) -> Tensor:
        tensors = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *tensors, training=False, eps=1e-3)

    x = F.relu6(norm(same_conv(x, state["_conv_stem.weight"], 2, border=border), "_bn0"))
    index, found = 0, []
    for group in groups:
        repeats, kernel, stride, expand, width, out = map(int, re.findall(r"\d+", group))
        for repeat in range(repeats):
            block, before, step = f"_blocks.{index}.", x, stride if repeat == 0 else 1
            if step == 2:
                found.append(x)
            if expand > 1:
                x = F.relu6(norm(F.conv2d(x, state[f"{block}_expand_conv.weight"]), f"{block}_bn0"))
            hidden = (width if repeat == 0 else out) * expand
            depthwise = state[f"{block}_depthwise_conv.weight"]
            assert depthwise.shape == (hidden, 1, kernel, kernel)
            x = F.relu6(norm(same_conv(x, depthwise, step, hidden), f"{block}_bn1"))
            x = norm(F.conv2d(x, state[f"{block}_project_conv.weight"]), f"{block}_bn2")
            x = x + before if x.shape == before.shape else x
            index += 1
    return [*found, x]


def published_names(trunk: EfficientNetLiteModel) -> dict[str, Tensor]:
    """The parameters and buffers of a trunk under the names of the published file."""
    state: dict[str, Tensor] = {}
    for name, tensor in trunk.state_dict(keep_vars=True).items():
        if name.startswith("stem."):
            _, kind, part = name.split(".")
            state[f"{'_conv_stem' if kind == 'conv' else '_bn0'}.{part}"] = tensor
            continue
        _, index, _, layer, kind, part = name.split(".")
        place = int(layer) + 3 - len(trunk.blocks[int(index)].layers)
        conv = ("_expand_conv", "_depthwise_conv", "_project_conv")[place]
        state[f"_blocks.{index}.{conv if kind == 'conv' else f'_bn{place}'}.{part}"] = tensor
    return state


def tiny(seed: int = 0) -> EfficientNetLiteModel:
    """A trunk of random weights, with norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    trunk = EfficientNetLiteModel(tiny_lite_config().vision_config.backbone_config).eval()
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            spread = 0.5 if "norm" in name else 0.4
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
            if name.endswith(("running_var", "norm.weight")):
                tensor.abs_().add_(0.5)
    return trunk


def all_maps(trunk: EfficientNetLiteModel, pixels: Tensor) -> list[Tensor]:
    output = trunk(pixels)
    assert output.last_hidden_state is output.intermediate_hidden_states[-1]
    return [stage.permute(0, 3, 1, 2) for stage in (output.stride_2, *output.intermediate_hidden_states)]


@torch.no_grad()
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_any_canvas_that_is_a_multiple_of_32(rows: int, columns: int, batch: int, seed: int):
    trunk = tiny(seed)
    pixels = torch.randn(batch, 3, 32 * rows, 32 * columns, generator=torch.Generator().manual_seed(seed))
    expected = maps(published_names(trunk), TINY, pixels)
    for ours, theirs in zip(all_maps(trunk, pixels), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_canvases_are_refused():
    with pytest.raises(ValueError, match="both sides must be multiples of 32"):
        tiny()(torch.zeros(1, 3, 64, 72))


@pytest.mark.parametrize("trained", ["all", "norms", "stem"])
def test_gradients_are_those_of_the_plain_network(trained: str):
    trunk = tiny().double()
    for name, parameter in trunk.named_parameters():
        parameter.requires_grad_(trained == "all" or trained.rstrip("s") in name)
    pixels = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double().requires_grad_()

    def gradients(outputs: list[Tensor], parameters: list[Tensor]) -> tuple[Tensor, ...]:
        loss = sum((output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum() for output in outputs)
        return torch.autograd.grad(loss, parameters)  # type: ignore[arg-type]

    own = published_names(trunk)
    plain = {name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in own.items()}
    learns = [name for name, tensor in own.items() if tensor.requires_grad]
    ours = gradients(all_maps(trunk, pixels), [pixels, *(own[name] for name in learns)])
    theirs = gradients(maps(plain, TINY, pixels), [pixels, *(plain[name] for name in learns)])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("wanted", ["xwb", "wb", "xw", "w", "b"])
def test_depthwise_convolutions_learn_as_those_of_torch(stride: int, kernel: int, wanted: str):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (3, 16, 12, 10), "w": (16, 1, kernel, kernel), "b": (16,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["x"] = tensors["x"].contiguous(memory_format=torch.channels_last)
    for name in wanted:
        tensors[name].requires_grad_()
    x, w, b = tensors.values()
    ours, theirs = depthwise_conv(x, w, b, stride), F.conv2d(x, w, b, stride, kernel // 2, groups=16)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn(ours.shape, generator=generator)
    leaves = [tensors[name] for name in wanted]
    for mine, other in zip(torch.autograd.grad(ours, leaves, gradient), torch.autograd.grad(theirs, leaves, gradient)):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_relu6_is_made_in_place_and_learns_as_that_of_torch():
    x = torch.linspace(-3, 9, 49, requires_grad=True)
    before = x * 1
    after = relu6_(before)
    assert after.data_ptr() == before.data_ptr()
    weights = torch.arange(49.0)
    (ours,) = torch.autograd.grad((after * weights).sum(), x)
    (theirs,) = torch.autograd.grad((F.relu6(x) * weights).sum(), x)
    assert torch.equal(after, F.relu6(x))
    assert torch.equal(ours, theirs)


def test_under_autocast_it_learns_as_well():
    trunk = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        output = trunk(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).last_hidden_state
    output.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trunk.parameters())


# ------------------------------------------------------------------------------------------------------ folded norms


def folds(trunk: EfficientNetLiteModel, monkeypatch: pytest.MonkeyPatch) -> list[NormedConv]:
    """The layers that are folded from now on, each as often as it is."""
    done: list[NormedConv] = []
    fold = NormedConv._fold

    def counted(layer: NormedConv) -> tuple[Tensor, Tensor]:
        done.append(layer)
        return fold(layer)

    monkeypatch.setattr(NormedConv, "_fold", counted)
    return done


PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def last(trunk: EfficientNetLiteModel) -> Tensor:
    output = trunk(PIXELS).last_hidden_state
    assert output is not None
    return output


def test_norms_are_folded_once_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch):
    trunk = tiny().requires_grad_(False)
    done = folds(trunk, monkeypatch)
    layers = sum(isinstance(module, NormedConv) for module in trunk.modules())
    first = last(trunk)
    with torch.inference_mode():
        again = last(trunk)
    assert len(done) == layers
    assert torch.equal(first, again)
    trunk.requires_grad_(True)
    last(trunk)
    last(trunk)
    assert len(done) == 3 * layers


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda t: t.add_(0.25),
    "copied": lambda t: t.copy_(t.clone() + 0.25),
    "averaged": lambda t: t.lerp_(t + 1, 0.25),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_was_folded_follows_every_change(name: str, change: str, mode: Callable[[], object]):
    trunk = tiny().requires_grad_(False)
    before = last(trunk)
    with mode():  # type: ignore[attr-defined]
        CHANGES[change](trunk.state_dict()[f"blocks.1.layers.1.{name}"])
    after = last(trunk)
    fresh = tiny().requires_grad_(False)
    fresh.load_state_dict(trunk.state_dict())
    assert torch.equal(after, last(fresh))
    assert not torch.allclose(after, before)


@torch.no_grad()
def test_a_copy_another_dtype_and_other_weights_are_folded_anew():
    trunk = tiny().requires_grad_(False)
    before = last(trunk)
    twin = copy.deepcopy(trunk)
    twin.load_state_dict(tiny(5).state_dict())
    assert torch.equal(last(trunk), before)
    assert torch.equal(last(twin), last(tiny(5)))
    assert last(trunk.double()).dtype == torch.float64
    trunk.float().load_state_dict(tiny(5).state_dict(), assign=True)
    assert torch.equal(last(trunk), last(twin))


@torch.no_grad()
def test_what_is_folded_is_not_saved_with_the_weights():
    trunk = tiny().requires_grad_(False)
    names = set(trunk.state_dict())
    last(trunk)
    assert set(trunk.state_dict()) == names


def test_a_frozen_trunk_that_was_used_for_inference_still_passes_gradients():
    trunk = tiny().requires_grad_(False)
    with torch.inference_mode():
        last(trunk)
    pixels = PIXELS.clone().requires_grad_()
    trunk(pixels).last_hidden_state.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_made_in_inference_mode_it_still_runs():
    with torch.inference_mode():
        trunk = tiny().requires_grad_(False)
        assert torch.equal(last(trunk), last(trunk))


def test_a_fused_optimiser_is_followed():
    trunk = tiny()
    optimizer = torch.optim.AdamW(trunk.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = last(trunk)
    last(trunk).sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.allclose(last(trunk), before)


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": [1, 2, 2, 2, 1, 1, 1]}, "their product 16"),
        ({"strides": [1, 4, 2, 2, 1, 1, 1]}, "must be 1 or 2"),
        ({"kernel_sizes": [3, 3]}, "lists of different lengths"),
        ({"kernel_sizes": [3, 3, 4, 3, 5, 5, 3]}, "an odd kernel"),
        ({"num_block_repeats": [0, 2, 2, 3, 3, 4, 1]}, "needs a block"),
    ],
)
def test_configurations_that_make_no_trunk(changes: dict[str, list[int]], message: str):
    with pytest.raises(ValueError, match=message):
        EfficientNetLiteConfig(**changes)  # type: ignore[arg-type]


def test_a_first_group_that_halves_makes_the_stem_the_map_of_stride_2():
    config = EfficientNetLiteConfig(
        stem_channels=8,
        out_channels=[8, 8, 8, 8],
        num_block_repeats=[1, 1, 1, 1],
        strides=[2, 2, 2, 2],
        kernel_sizes=[3, 3, 3, 3],
        expand_ratios=[1, 1, 1, 1],
    )
    trunk = EfficientNetLiteModel(config)
    assert [m.shape[-1] for m in all_maps(trunk, torch.zeros(1, 3, 64, 64))] == [32, 16, 8, 4, 2]
    assert [len(trunk.blocks_of(stage)) for stage in range(4)] == [1, 1, 1, 1]


# ------------------------------------------------------------------------------------------------------ published weights


@pytest.fixture(scope="module")
def converter() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "tools"))
        yield importlib.import_module("convert_efficientnet_lite")


@pytest.fixture(scope="module")
def published(converter: ModuleType) -> dict[str, Tensor]:
    try:
        return converter.read(converter.published_file())
    except WeightsError as error:
        pytest.skip(str(error))


@torch.no_grad()
def test_published_weights_give_the_published_networks_numbers(converter: ModuleType, published: dict[str, Tensor]):
    trunk = converter.imagenet_trunk(published)
    smooth = F.interpolate(
        torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(3)), (128, 96), mode="bicubic"
    )
    image = (smooth + 0.05 * torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(4))).clamp(0, 1)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    # What is around the image is ImageNet's mean colour for our trunk; see the converter.
    expected = maps(published, LITE0, (image - 0.5) / 0.5, border=(torch.tensor(MEAN) - 0.5) / 0.5)
    for ours, theirs in zip(all_maps(trunk, (image - mean) / std), expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert trunk.widths == (24, 40, 112, 320)


def test_a_photograph_is_known_by_its_class(converter: ModuleType, published: dict[str, Tensor]):
    """Rear Admiral Hopper comes with Matplotlib, and "military uniform" is class 652 of ImageNet."""
    photograph = Image.open(matplotlib.get_data_path() + "/sample_data/grace_hopper.jpg").convert("RGB")
    left, top = (photograph.width - 512) // 2, (photograph.height - 512) // 2
    photograph = photograph.crop((left, top, left + 512, top + 512)).resize((224, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None] / 255
    trunk = converter.imagenet_trunk(published)
    with torch.no_grad():
        stage = trunk((pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None])
        x = F.conv2d(stage.last_hidden_state.permute(0, 3, 1, 2), published["_conv_head.weight"])
        tensors = (published[f"_bn1.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.relu6(F.batch_norm(x, *tensors, training=False, eps=1e-3)).mean((2, 3))
        share = F.linear(x, published["_fc.weight"], published["_fc.bias"]).softmax(1)[0]
    assert int(share.argmax()) == 652
    assert share[652] > 4 * share.topk(2).values[1]


def test_the_converter_writes_a_trunk_that_transformers_loads(converter: ModuleType, published, tmp_path, capsys):
    converter.main(converter.Config(out=tmp_path / "lite0"))
    loaded, report = EfficientNetLiteModel.from_pretrained(tmp_path / "lite0", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = converter.imagenet_trunk(published).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert "2.96 M parameters" in capsys.readouterr().out


def test_another_file_is_refused(converter: ModuleType, tmp_path):
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match="is not the published file"):
        converter.read(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        converter.read(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="foreign"):
        converter.renamed({"_blocks.0._depthwise_conv.weight": torch.ones(1), "foreign.weight": torch.ones(1)})


def test_a_sam_on_it_can_be_saved_and_loaded(tiny_lite_sam: Sam, tmp_path):
    tiny_lite_sam.model.save_pretrained(tmp_path)
    loaded = Sam.load(tmp_path)
    expected = tiny_lite_sam.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
