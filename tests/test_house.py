"""Who imports whom: the contract in `pyproject.toml` holds, and turns red for each kind of import it forbids."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = {
    "rooms": "Rooms import downwards only",
    "commands": "The commands call the API and nothing below it",
    "engine": "The engine imports data alone",
    "below": "The engine is used by methods and above",
    "recipes": "A recipe imports no other recipe",
    "methods": "A method imports no other method",
    "circles": "No circles",
}
IN_A_FUNCTION = "def late():\n    import {module}\n"
FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {module}\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package, without its weights, and of the contract."""
    code = shutil.copytree(ROOT / "src", tmp_path / "src", ignore=_without_code)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return code / "maskwright"


def _without_code(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder, name).is_dir() or name.endswith(".py"))]


def broken(folder: Path) -> set[str]:
    """The names of the contracts that `lint-imports` finds broken in a tree."""
    program = Path(sys.executable).parent / "lint-imports"
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "COLUMNS": "200"}
    result = subprocess.run([program, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True)
    states = dict(re.findall(r"^(.+?) (KEPT|BROKEN)", result.stdout, re.MULTILINE))
    assert states.keys() == set(CONTRACTS.values()), result.stdout + result.stderr
    names = {name for name, state in states.items() if state == "BROKEN"}
    assert result.returncode == (1 if names else 0), result.stdout + result.stderr
    return names


def test_the_contract_holds() -> None:
    assert broken(ROOT) == set()


@pytest.mark.parametrize(
    ("importer", "module", "how", "contracts"),
    [
        ("sam/prompts.py", "nets.losses", "import {module}\n", {"rooms", "circles"}),
        ("version.py", "errors", FOR_TYPES, {"rooms"}),
        ("recipes/__init__.py", "api", IN_A_FUNCTION, {"rooms", "circles"}),
        ("cli/data.py", "data.check", IN_A_FUNCTION, {"commands"}),
        ("engine/ema.py", "sam.prompts", IN_A_FUNCTION, {"engine"}),
        ("rl/rewards.py", "engine.ema", FOR_TYPES, {"below"}),
        ("recipes/s4m/trainer.py", "recipes.samix.trainer", IN_A_FUNCTION, {"recipes"}),
        ("methods/semantic/scores.py", "methods.instances.paste", FOR_TYPES, {"methods"}),
        ("methods/semantic/scores.py", "export.onnx_file", FOR_TYPES, {"rooms", "circles"}),
        ("data/labels.py", "data.manifest", IN_A_FUNCTION, {"circles"}),
    ],
)
def test_a_forbidden_import_turns_it_red(tree: Path, importer: str, module: str, how: str, contracts: set[str]) -> None:
    with (tree / importer).open("a") as file:
        file.write("\n" + how.format(module=f"maskwright.{module}"))
    assert broken(tree.parents[1]) == {CONTRACTS[name] for name in contracts}


def test_a_new_room_needs_a_place(tree: Path) -> None:
    (tree / "attic.py").touch()
    assert broken(tree.parents[1]) == {CONTRACTS["rooms"]}


def test_optional_packages_are_imported_in_one_place_each() -> None:
    graph = grimp.build_graph("maskwright", include_external_packages=True, cache_dir=None)
    assert graph.find_modules_that_directly_import("stable_baselines3") == {"maskwright.rl.sb3"}
    users = {"maskwright.methods.clicks.pixel_agent", "maskwright.recipes.clicks.sb3"}
    assert graph.find_modules_that_directly_import("maskwright.rl.sb3") == users
    assert "tensorboard" not in graph.modules
    assert graph.find_modules_that_directly_import("onnxruntime") == {"maskwright.export.onnx_file"}
    for package in ("tifffile", "imagecodecs", "zarr", "rasterio"):
        assert graph.find_modules_that_directly_import(package) == {"maskwright.data.large.packages"}
    assert graph.find_modules_that_directly_import("onnxscript") == {"maskwright.export.onnx_writer"}


def test_no_package_is_in_a_circle_with_a_module_of_its_own() -> None:
    """The contract compares siblings alone; here all modules count, those of a package and the package itself too."""
    graph = grimp.build_graph("maskwright", cache_dir=None)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for row in next(c for c in contracts if c["name"] == CONTRACTS["circles"]).get("ignore_imports", []):
        importer, imported = row.split(" -> ")
        graph.remove_import(importer=importer, imported=imported)
    remaining = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := [module for module, imports in remaining.items() if not imports & remaining.keys()]:
        for module in leaves:
            del remaining[module]
    assert not remaining, f"these modules are in circles, or import such: {sorted(remaining)}"
