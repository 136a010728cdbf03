"""Pushing to the hub and loading from it, against a fake of it on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

import maskwright
from maskwright import cli
from maskwright.data.mask_files import read_mask
from maskwright.errors import MaskwrightError, WeightsError
from maskwright.export.hub_names import HubName, hub_name, is_hub_name
from maskwright.export.onnx_models import picture
from tests.export.fake_hub import TOKEN, FakeHub
from tests.tiny_model import save_run, seal, tiny_segmenter

torch.set_num_threads(1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The fake, which everybody asks instead of the real one, with a token that may write and an empty cache."""
    with FakeHub() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield fake


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a model and scores: of this model on one split, of another on a second one."""
    run = save_run(tmp_path / "run")
    scores = {"dataset": "/home/me/polyps/manifest.json", "images": 7, "dice": 0.8125, "iou": 0.75, "pooled": {}}
    mine = maskwright.load(run).signature
    for split, model in (("test", mine), ("val", "0" * 16)):
        (run / f"evaluation-{split}.json").write_text(json.dumps(scores | {"split": split, "model": model}))
    return run


def test_what_is_pushed_is_what_is_loaded(hub: FakeHub, run: Path, tmp_path: Path):
    pushed = maskwright.push(run, "me/polyps", licence="apache-2.0")
    repo = hub.repos["me/polyps"]
    assert repo.branches["main"] == pushed.revision
    files = repo.commits[pushed.revision]
    assert sorted(files) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert files[name] == (run / "model" / name).read_bytes()
    ours, theirs = maskwright.load(run, device="cpu"), maskwright.load("hf://me/polyps", device="cpu")
    assert ours.signature == theirs.signature
    image = picture((40, 50))
    np.testing.assert_array_equal(next(ours.predict(image)).mask, next(theirs.predict(image)).mask)


def test_the_card_tells_licence_task_and_scores(hub: FakeHub, run: Path):
    pushed = maskwright.push(run, "me/polyps", licence="cc-by-4.0")
    card = hub.repos["me/polyps"].commits[pushed.revision]["README.md"].decode()
    _, head, body = card.split("---\n", 2)
    told = yaml.safe_load(head)
    assert (told["library_name"], told["pipeline_tag"]) == ("maskwright", "image-segmentation")
    assert told["license"] == "cc-by-4.0"
    assert "samix" in told["tags"]
    (model,) = told["model-index"]
    metrics = {metric["type"]: metric["value"] for result in model["results"] for metric in result["metrics"]}
    assert metrics == {"dice": 0.8125, "iou": 0.75}
    assert {result["dataset"]["name"] for result in model["results"]} == {"polyps"}
    assert "| 0.8125 | 0.7500 |" in body
    assert body.lstrip().startswith("# card")
    assert "/home/me" not in card
    assert pushed.scores == ["test"]
    assert [note for note in pushed.notes if "evaluation-val.json is of another model" in note]


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: FakeHub, run: Path):
    first = maskwright.push(run, "me/polyps", licence="mit")
    save_run(run, tiny_segmenter(seed=1))
    second = maskwright.push(run, "me/polyps", licence="mit", revision="better", message="seed 1")
    assert hub.repos["me/polyps"].messages[-1] == "seed 1"
    assert hub.repos["me/polyps"].branches == {"main": first.revision, "better": second.revision}
    old, new = maskwright.load("hf://me/polyps"), maskwright.load("hf://me/polyps", revision="better")
    assert old.signature != new.signature
    assert maskwright.load(f"hf://me/polyps@{second.revision}").signature == new.signature
    with pytest.raises(WeightsError, match="no such revision"):
        maskwright.load("hf://me/polyps@gone")
    with pytest.raises(MaskwrightError, match="one of the two"):
        maskwright.load("hf://me/polyps@better", revision="main")
    with pytest.raises(MaskwrightError, match="only models on the hub"):
        maskwright.load(run, revision="main")


def test_weights_that_a_new_model_does_not_have_are_deleted(hub: FakeHub, run: Path):
    maskwright.push(run, "me/polyps", licence="mit")
    repo = hub.repos["me/polyps"]
    repo.add(
        "main", repo.commits[repo.branches["main"]] | {"selector.safetensors": b"", "notes.txt": b"mine"}, "by hand"
    )
    pushed = maskwright.push(run, "me/polyps", licence="mit")
    assert "selector.safetensors" not in repo.commits[pushed.revision]
    assert repo.commits[pushed.revision]["notes.txt"] == b"mine"


def test_nothing_but_safetensors_and_json_is_fetched(hub: FakeHub, run: Path):
    pushed = maskwright.push(run, "me/polyps", licence="mit")
    repo = hub.repos["me/polyps"]
    repo.add(
        "main", repo.commits[pushed.revision] | {"model.py": b"boom", "x.bin": b"\x80", "big.safetensors": b""}, "more"
    )
    folder = maskwright.load("hf://me/polyps").folder
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_changed_model_and_a_foreign_one_are_refused(hub: FakeHub, run: Path):
    pushed = maskwright.push(run, "me/polyps", licence="mit")
    repo = hub.repos["me/polyps"]
    files = repo.commits[pushed.revision]
    repo.add("main", files | {"model.safetensors": files["model.safetensors"][:-1] + b"\0"}, "a bit")
    with pytest.raises(WeightsError, match=r"model\.safetensors changed"):
        maskwright.load("hf://me/polyps")
    for config in (b'{"model_type": "bert", "auto_map": {"AutoModel": "model.py"}}', b"[]", b"{"):
        repo.add("main", files | {"config.json": config}, "another library's")
        with pytest.raises(WeightsError, match="hf://me/polyps"):
            maskwright.load("hf://me/polyps")


def test_a_configuration_cannot_name_files_elsewhere(hub: FakeHub, run: Path):
    pushed = maskwright.push(run, "me/polyps", licence="mit")
    repo = hub.repos["me/polyps"]
    files = repo.commits[pushed.revision]
    config = json.loads(files["config.json"])
    config["checksums"] |= {"../../evil.safetensors": "0" * 64, "*.py": "0" * 64}
    repo.add("main", files | {"config.json": json.dumps(config).encode(), "model.py": b"boom"}, "evil")
    with pytest.raises(WeightsError, match="missing"):
        maskwright.load("hf://me/polyps")
    assert not [path for path in hub.requests if path.endswith((".py", "evil.safetensors"))]


def test_who_may_not(hub: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch):
    maskwright.push(run, "me/secret", licence="mit", private=True)
    assert hub.repos["me/secret"].private
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(WeightsError, match="hf auth login"):
        maskwright.load("hf://me/secret")
    with pytest.raises(MaskwrightError, match="hf auth login"):
        maskwright.push(run, "me/other", licence="mit")
    with pytest.raises(WeightsError, match="no such model"):
        maskwright.load("hf://nobody/nothing")


def test_what_was_fetched_once_is_there_without_a_connection(hub: FakeHub, run: Path, monkeypatch: pytest.MonkeyPatch):
    maskwright.push(run, "me/polyps", licence="mit")
    signature = maskwright.load("hf://me/polyps").signature
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert maskwright.load("hf://me/polyps").signature == signature
    with pytest.raises(WeightsError, match="cannot be reached"):
        maskwright.load("hf://me/other")


def test_a_licence_that_the_hub_does_not_know(hub: FakeHub, run: Path):
    with pytest.raises(MaskwrightError, match=r'refuses the card: .*"license" must be one of'):
        maskwright.push(run, "me/polyps", licence="nonsense")
    assert hub.repos["me/polyps"].messages == ["initial commit"]


def test_without_a_connection(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="cannot be reached"):
        maskwright.push(run, "me/polyps", licence="mit")


def test_paths_of_this_machine_are_told(hub: FakeHub, run: Path):
    config = json.loads((run / "model" / "config.json").read_text())
    seal(run / "model", config | {"in_context": {"sam": "/home/me/sam", "list": ["/home/me/sam"]}})
    (run / "model" / "README.md").write_text("# card\n\nSAM weights `/home/me/models/sam`, on `C:\\me\\sam`.\n")
    pushed = maskwright.push(run, "me/polyps")
    assert [note for note in pushed.notes if "config.json names /home/me/sam" in note]
    assert "weights `sam`" in hub.repos["me/polyps"].commits[pushed.revision]["README.md"].decode()
    assert [note for note in pushed.notes if "no licence was stated" in note]
    assert "license" not in hub.repos["me/polyps"].commits[pushed.revision]["README.md"].decode()


def test_the_commands(hub: FakeHub, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture((30, 40))).save(tmp_path / "photos" / "a.png")
    assert cli.main(["push", str(run), "me/polyps", "--licence", "apache-2.0"]) == 0
    told = capsys.readouterr().out
    assert f"pushed: {hub.url}/me/polyps/commit/" in told
    assert "with the scores of: test" in told
    for place in ("hf://me/polyps", str(run)):
        out = tmp_path / place.replace("/", "_").replace(":", "_")
        assert cli.main(["predict", place, str(tmp_path / "photos"), "--out", str(out), "--device", "cpu"]) == 0
    first, second = (read_mask(path) for path in tmp_path.glob("*/masks/a.png"))
    np.testing.assert_array_equal(first, second)
    assert cli.main(["push", str(run), "polyps"]) == 1
    assert "OWNER/NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://me/polyps", HubName("me/polyps")),
        ("hf:/me/polyps@v1.0", HubName("me/polyps", "v1.0")),
        ("me/a.b-c_d@refs/pr/1", HubName("me/a.b-c_d", "refs/pr/1")),
    ],
)
def test_names(text: str, name: HubName):
    assert hub_name(text) == name
    assert is_hub_name(text) == text.startswith("hf:")
    assert hub_name(str(name)) == name


@pytest.mark.parametrize(
    "text", ["polyps", "hf://polyps", "hf://a/b/c", "hf://a/b@", "hf://../b", "hf://a/..", "a b/c", ""]
)
def test_what_is_no_name(text: str):
    with pytest.raises(MaskwrightError, match="no name on the Hugging Face hub"):
        hub_name(text)
