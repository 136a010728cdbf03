"""Made masks are kept in the dataset, or elsewhere: where it is read-only, where a link leads out, where the user says."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskwright.data import cache
from maskwright.data.check import check
from maskwright.data.dataset import Dataset
from maskwright.data.formats import convert
from maskwright.data.items import read_item
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.errors import DataError


@pytest.fixture
def white(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two images whose masks are 0 and 255, of which copies with 1 are made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    root = tmp_path / "white"
    for i, name in enumerate("ab"):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 40 * i, np.uint8)).save(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png", np.eye(6, 8, k=i, dtype=np.uint8) * 255)
    return root


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_read(root: Path) -> Dataset:
    dataset = Dataset.load(root)
    assert check(dataset) == []
    for i, sample in enumerate(dataset):
        path = dataset.mask_path(sample)
        assert path is not None
        assert (read_mask(path) == np.eye(6, 8, k=i)).all()
        item = read_item(dataset, sample)
        assert item.mask is not None
        assert (item.mask == np.eye(6, 8, k=i)).all()
    return dataset


def test_in_the_datasets_own_folder(white: Path, tmp_path: Path) -> None:
    dataset = assert_read(white)
    assert all(s.labels.mask and s.labels.mask.path.startswith(".maskwright/masks/") for s in dataset)
    assert not (tmp_path / "user").exists()


def test_in_the_folder_that_the_user_names(white: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, "")
    cache.use(tmp_path / "chosen")
    before = files(white)
    dataset = assert_read(white)
    assert files(white) == before
    assert len(files(tmp_path / "chosen")) == 2
    with pytest.raises(DataError, match="data convert --to manifest"):
        dataset.save()
    convert(dataset, tmp_path / "copy", "manifest")
    assert_read(tmp_path / "copy")
    times = [os.stat(tmp_path / "chosen" / name).st_mtime_ns for name in files(tmp_path / "chosen")]
    assert_read(white)  # Made once.
    assert [os.stat(tmp_path / "chosen" / name).st_mtime_ns for name in files(tmp_path / "chosen")] == times


@pytest.mark.parametrize("where", ["folder", "masks"])
def test_a_link_never_makes_reading_write_outside(white: Path, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    if where == "folder":
        (white / ".maskwright").symlink_to(outside)
    else:
        (white / ".maskwright").mkdir()
        (white / ".maskwright" / "masks").symlink_to(outside)
    assert_read(white)
    assert files(outside) == []
    assert len(files(tmp_path / "user" / "maskwright")) == 2


READ_ONLY = """
import os, sys
from maskwright.cli import main
main(["data", "check", sys.argv[2]])  # Imports all that is needed: the other user may not enter Python's own folder.
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
sys.exit(main(["data", "check", sys.argv[1]]))
"""


def test_a_read_only_dataset_is_read(white: Path) -> None:
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        data, user = shutil.copytree(white, place / "data"), place / "user"
        user.mkdir()
        user.chmod(0o777)
        for path in (data, *data.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = files(data)
        environment = {**os.environ, "XDG_CACHE_HOME": str(user)}
        command = [sys.executable, "-c", READ_ONLY, data, white]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        after = files(data), len(files(user)), len(files(white))
        for path in (data, *data.rglob("*")):
            path.chmod(0o755)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("no problems") == 2
    assert after == (before, 2, 6)


def test_two_datasets_of_one_name_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "chosen"))
    folders = {cache.mask_folder(tmp_path / name / "data") for name in ("one", "two")}
    assert len(folders) == 2
    assert all(cache.holds(str(folder / "a.png")) for folder in folders)
    assert not cache.holds("/etc/passwd")
    assert not cache.holds("masks/a.png")
