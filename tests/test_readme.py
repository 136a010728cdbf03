"""What the README and the pages of docs/ tell users to type: every command is parsed, the main ones and the snippets are run."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskwright
from maskwright import api, cli
from maskwright.data.dataset import Dataset

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
README, GETTING_STARTED = ROOT / "README.md", ROOT / "docs" / "getting-started.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def command_lines(page: Path) -> list[str]:
    """Indented lines that begin with ``maskwright``, or have it after ``&&``."""
    lines = re.findall(r"^ {4}(?:.* && )?(maskwright .*)$", page.read_text("utf-8"), re.MULTILINE)
    return [line.split("  #")[0].strip() for line in lines]


def commands_in_text(page: Path) -> list[str]:
    """Commands between backticks, but for those that are cut short."""
    spans = re.findall(r"`(maskwright [^`]+)`", page.read_text("utf-8"))
    return [" ".join(span.split()) for span in spans if " | " not in span and "..." not in span]


def snippets(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


ALL_COMMANDS = sorted({line for page in PAGES for line in command_lines(page) + commands_in_text(page)})


def test_commands_and_snippets_are_found():
    assert len(command_lines(README)) >= 6
    assert len(command_lines(GETTING_STARTED)) >= 7
    assert len(ALL_COMMANDS) > 30
    assert len(snippets(README)) == 1


@pytest.mark.parametrize("line", ALL_COMMANDS)
def test_every_command_is_one(line: str, capsys: pytest.CaptureFixture[str]):
    words = shlex.split(line)[1:]
    if "--help" in words or words == ["--version"]:
        with pytest.raises(SystemExit) as caught:
            cli.parse(words)
        assert caught.value.code == 0
    else:
        assert cli.parse(words) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_snippets_import_is_there(page: Path):
    for text in snippets(page):
        imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), str(page), "exec"), {})


# ----------------------------------------------------------------------------------------------------------- running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene_folder: Path) -> Path:
    """A working directory with the files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scene_folder, tmp_path / "mydata")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    (tmp_path / "new_images").mkdir()
    for name in ("a.jpg", "b.tif", "new_images/a.jpg", "new_images/c.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def tiny(sam: Path) -> dict[str, object]:
    """Settings that make the trainings of the pages short."""
    return {"steps": 2, "warm_up": 1, "size": 64, "batch": 4, "sam": str(sam), "device": "cpu"}


def run_commands(page: Path, sam: Path) -> None:
    """Run the commands of a page in their order, the trainings for a few steps, but for the demo, what serves until it is stopped, and
    what needs more images than are here (``test_curate_commands`` runs those)."""
    length = [word for name, value in tiny(sam).items() for word in (f"--{name.replace('_', '-')}", str(value))]
    for line in command_lines(page):
        words = shlex.split(line)[1:]
        if words[0] in ("demo", "label", "serve", "budget", "audit"):
            continue
        if words[0] == "train":
            at = words.index("--minutes")
            words[at : at + 2] = length
        assert cli.main(words) == 0, line


def run_snippets(page: Path, sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the snippets of a page as they stand there; ``train`` gets other settings for its length."""

    def train(recipe: str, *, minutes: float, **settings: object) -> Path:
        assert minutes > 0
        return api.train(recipe, **settings, **tiny(sam))

    monkeypatch.setattr(maskwright, "train", train)
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    names: dict[str, object] = {}
    for text in snippets(page):
        exec(compile(text, str(page), "exec"), names)


def test_the_readme_from_check_to_predict(here: Path, tiny_sam_folder: Path, capsys: pytest.CaptureFixture[str]):
    run_commands(README, tiny_sam_folder)
    told = capsys.readouterr().out
    for text in (
        "18 images",
        "no problems",
        "written: mydata-fixed",
        "images by split",
        "trained: runs/mine",
        "Dice",
        "2 images predicted: predictions",
    ):
        assert text in told
    assert (here / "runs/mine/report.html").is_file()
    assert (here / "runs/mine/evaluation-test.json").is_file()
    assert sorted(path.name for path in (here / "predictions/masks").iterdir()) == ["a.png", "c.png"]


def test_the_readme_in_python(here: Path, tiny_sam_folder: Path, monkeypatch: pytest.MonkeyPatch):
    run_snippets(README, tiny_sam_folder, monkeypatch)
    for name in ("predictions/masks/a.png", "predictions/predictions.json", "singly/masks/a.png", "singly/masks/b.png"):
        assert (here / name).is_file()


def test_getting_started(here: Path, tiny_sam_folder: Path, monkeypatch: pytest.MonkeyPatch):
    run_commands(GETTING_STARTED, tiny_sam_folder)
    run_snippets(GETTING_STARTED, tiny_sam_folder, monkeypatch)
    for name in ("config.json", "metrics.jsonl", "last", "pseudo", "model/model.safetensors", "report.html"):
        assert (here / "runs/mine" / name).exists()


@pytest.mark.slow
def test_the_demo_of_both_pages(here: Path):
    for page in (README, GETTING_STARTED):
        (line,) = (line for line in command_lines(page) if line == "maskwright demo")
        assert cli.main([*shlex.split(line)[1:], "--minutes", "0.34"]) == 0
    text = GETTING_STARTED.read_text("utf-8")
    for name in re.findall(
        r"^ {4}  (\S+)/? {2,}\S", text[text.index("maskwright-demo/\n") : text.index("Open `")], re.M
    ):
        assert (here / "maskwright-demo" / name).exists(), name


def test_the_readmes_manifest_is_one(here: Path):
    text = README.read_text("utf-8")
    manifest = json.loads(re.search(r'^ {4}\{\n {6}"version".*?^ {4}\}$', text, re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    folder = here / "own"
    generator = np.random.default_rng(0)
    for name in [sample["image"] for sample in manifest["samples"]] + ["masks/a.png"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        side = generator.integers(0, 2, (64, 64), dtype=np.uint8)
        Image.fromarray(side if name.startswith("masks") else np.dstack([side * 200] * 3)).save(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    result = maskwright.check(folder)
    assert result.problems == []
    assert [str(sample.labels.kind) for sample in Dataset.load(folder)] == ["mask", "box", "tag", "none"]
