"""What all tests share. Every fixture is small: a test that needs more makes its own."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
import torch
from filelock import FileLock

from maskwright import cli
from maskwright.data.labels import Kind
from maskwright.data.scene_dataset import write_scenes
from maskwright.sam.sam import Sam
from tests.helpers import tiny_config, tiny_lite_config

# Tests run side by side, on machines with few cores: more threads would only get into each other's way.
torch.set_num_threads(1)

# A machine that is busy is slow, and no test of what is computed may fail for that.
hypothesis.settings.register_profile("maskwright", deadline=None)
hypothesis.settings.load_profile("maskwright")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """A recipe that ran in this process leaves them flushed to zero, which the next test's hypothesis refuses to work with."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C, also where pytest was started in the background and was given none."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """A module of a folder beside the package: ``script("benchmarks", "click_env")``."""

    def load(folder: str, name: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / folder))
        return importlib.import_module(name)

    return load


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """What takes long is made once for all processes of a test run: ``made_once(name, make)`` is the folder that ``make`` filled."""
    base = tmp_path_factory.getbasetemp()
    # The workers of pytest-xdist share the folder above their own.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared / name, shared / f"{name}.made"
        with FileLock(f"{folder}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed on the way
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def _tiny_sam() -> Sam:
    return Sam.from_config(tiny_config())


@pytest.fixture
def tiny_sam(_tiny_sam: Sam) -> Sam:
    """A SAM of random weights at 64 pixels, the same in every test; a test may change its own."""
    return copy.deepcopy(_tiny_sam)


@pytest.fixture(scope="session")
def tiny_sam_folder(_tiny_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights on disk, for ``Sam.load`` and the recipes' ``--sam``. Leave it as it is."""
    folder = tmp_path_factory.mktemp("tiny-sam")
    _tiny_sam.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sam_onnx(tiny_sam_folder: Path, made_once: Callable[..., Path]) -> Path:
    """The same in ONNX; the decoder takes a while to be traced. Leave it as it is."""

    def export(folder: Path) -> None:
        assert cli.main(["sam", "export", str(tiny_sam_folder), "--out", str(folder)]) == 0

    return made_once("tiny-sam-onnx", export)


@pytest.fixture(scope="session")
def _tiny_lite_sam() -> Sam:
    return Sam.from_config(tiny_lite_config())


@pytest.fixture
def tiny_lite_sam(_tiny_lite_sam: Sam) -> Sam:
    """The same on an EfficientNet-Lite."""
    return copy.deepcopy(_tiny_lite_sam)


@pytest.fixture(scope="session")
def tiny_lite_sam_folder(_tiny_lite_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights on disk."""
    folder = tmp_path_factory.mktemp("tiny-lite-sam")
    _tiny_lite_sam.model.save_pretrained(folder)
    return folder


@pytest.fixture(params=["hiera", "lite"])
def any_sam(request: pytest.FixtureRequest, tiny_sam: Sam, tiny_lite_sam: Sam) -> Sam:
    """Each of the trunks that a SAM 2 can stand on, in turn."""
    return tiny_sam if request.param == "hiera" else tiny_lite_sam


@pytest.fixture(scope="session")
def scene_folder(made_once: Callable[..., Path]) -> Path:
    """Procedural scenes at 64 pixels, categories disc and figure. Leave it as it is; copy it to change it.

    12 training images (3 with masks, 2 each with boxes, scribbles, points and tags, 1 without labels; all masks in
    ``full.json``), 2 for validation and 4 for testing, with masks.
    """
    shares = {Kind.MASK: 3, Kind.BOX: 2, Kind.SCRIBBLE: 2, Kind.POINT: 2, Kind.TAG: 2, Kind.NONE: 1}
    return made_once(
        "scenes",
        lambda folder: write_scenes(
            folder,
            train=12,
            val=2,
            test=4,
            size=64,
            categories=("disc", "figure"),
            difficulty=0.3,
            shares={kind: count / 12 for kind, count in shares.items()},
        ),
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets for measuring, beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real data sets ({SHARED_DATA}) are not here")
    return SHARED_DATA
