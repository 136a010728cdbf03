"""A training that diverges ends with an error, in every recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from maskwright import cli
from maskwright.data.labels import Kind
from maskwright.engine.run import read_metrics
from tests.recipes.instance_training import instance_scenes
from tests.recipes.interrupting import arguments
from tests.recipes.training import binary_scenes

slow = pytest.mark.slow
RATES = [
    ("samix", "lr"),
    pytest.param("samix", "adapter-lr", marks=slow),
    pytest.param("s4m", "lr", marks=slow),
    ("alignsam", "lr"),
    pytest.param("alignsam", "srm-lr", marks=slow),
    pytest.param("clicks", "lr", marks=slow),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trust")
    masks = binary_scenes(folder / "masks", shares={Kind.MASK: 1.0}, train=10, val=3)
    return {
        "samix": binary_scenes(folder / "scenes"),
        "s4m": instance_scenes(folder / "instances"),
        "alignsam": masks,
        "clicks": masks,
    }


@pytest.mark.parametrize(("recipe", "rate"), RATES)
def test_a_rate_beyond_all_bounds_ends_with_an_error(
    recipe: str,
    rate: str,
    data: dict[str, Path],
    tiny_sam_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    run = tmp_path / "run"
    # The policy's rate is one of the preset "paper" alone.
    preset = ["--preset", "paper"] if (recipe, rate) == ("alignsam", "lr") else []
    assert cli.main([*arguments(recipe, data[recipe], run, tiny_sam_folder), *preset, f"--{rate}", "1e30"]) == 1
    told = capsys.readouterr()
    (error,) = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert "the training has diverged" in error
    assert f"--{rate} (now 1e+30)" in error
    assert "trained:" not in told.out
    assert not (run / "model").exists()
    for path in run.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    read_metrics(run)
