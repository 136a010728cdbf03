"""What is delivered: wheel and source distribution, an installation in an empty environment, the container's files, the citation."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from maskwright import __version__
from tests.tiny_model import save_run

ROOT = Path(__file__).parents[1]
NO_NETWORK = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Standard output of a program that must end well."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources() -> set[str]:
    """Files of the package that git knows, from ``maskwright/`` on."""
    return {name.removeprefix("src/") for name in run("git", "ls-files", "src", cwd=ROOT).splitlines()}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "title", "message", "authors", "license"} <= citation.keys()


@pytest.mark.parametrize(("program", "file"), [("hadolint", "Dockerfile"), ("shellcheck", "docker/entrypoint.sh")])
def test_the_containers_files_have_nothing_that_a_linter_minds(program: str, file: str) -> None:
    if not (found := shutil.which(program)):
        pytest.skip(f"{program} is not here; the extra `test` brings it")
    run(found, ROOT / file, cwd=ROOT)


def test_the_container_copies_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    ignored = (ROOT / ".dockerignore").read_text("utf-8")
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists()
        assert f"!{name.split('/')[0]}\n" in ignored


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built by what is installed here."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder, **NO_NETWORK)
    return folder


@pytest.mark.slow
def test_both_distributions_hold_the_whole_package(built: Path) -> None:
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("maskwright/")}
    assert inside == sources()
    with tarfile.open(archive) as file:
        names = {name.split("/", 1)[-1] for name in file.getnames()}
    assert {f"src/{name}" for name in sources()} <= names
    assert {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "pyproject.toml",
        "tests/test_packaging.py",
    } <= names
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, archive, cwd=built)


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_without_a_network(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=tmp_path, **NO_NETWORK)
    # What it depends on is gigabytes; that is taken from here, behind everything that the new environment has itself.
    own = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip()
    Path(own, "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    where = run(python, "-c", "import maskwright; print(maskwright.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(environment))

    command, image = environment / "bin" / "maskwright", tmp_path / "photos" / "a.png"
    assert run(command, "--version", cwd=tmp_path) == f"maskwright {__version__}\n"
    image.parent.mkdir()
    shutil.copy(next((ROOT / "docs" / "images").glob("*.png")), image)
    save_run(tmp_path / "run")
    told = run(command, "predict", "run", "photos", "--out", "out", "--device", "cpu", cwd=tmp_path, **NO_NETWORK)
    assert "1 images predicted" in told
    assert "nano" in run(command, "sam", "info", "nano", "--device", "cpu", cwd=tmp_path, **NO_NETWORK)
    assert (tmp_path / "out" / "masks" / "a.png").is_file()
