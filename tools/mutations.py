"""Damage model folders and runs in every way that comes to mind, and see that nothing of it goes unnoticed.

Each trial copies a folder, changes one thing in it by a seeded generator, and uses it: a model predicts, a run is resumed. What comes of
it is one of

    equal        the same numbers as without the change
    refused      one error that names the file
    different    other numbers without a word: a fault, but for configurations whose checksums were made anew (``sealed``)
    traceback    any other exception: a fault
    hang         longer than ``--seconds``: a fault

    python tools/mutations.py --models 500 --runs 300 --seed 0
"""

from __future__ import annotations

import json
import logging
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from safetensors.torch import load, save
from transformers import Sam2VideoConfig

import maskwright
from maskwright.data.dataset import Dataset
from maskwright.data.image_reading import PLAIN, ImageReading
from maskwright.data.labels import Kind, Labels, Mask, Sample
from maskwright.data.mask_files import read_mask, write_mask
from maskwright.data.scene_dataset import write_scenes
from maskwright.engine.budget import Budget
from maskwright.engine.origin import Origin
from maskwright.engine.run import read_metrics
from maskwright.engine.session import Session, Trainable
from maskwright.engine.timer import Part
from maskwright.engine.weights import CHECKSUMS, checksums
from maskwright.errors import MaskwrightError
from maskwright.nets.clip_surgery import NANO_CLIP
from maskwright.sam.sam import Sam

FAULTS = ("different", "traceback", "hang")


@dataclass
class Tally:
    """How often each outcome came, by kind of change, and the faults in full."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, kind: str, outcome: str, told: str) -> None:
        self.outcomes.setdefault(kind, Counter())[outcome] += 1
        if outcome in FAULTS and not (outcome == "different" and kind.startswith("sealed")):
            self.faults.append(f"{kind}: {outcome}: {told}")

    def __str__(self) -> str:
        total: Counter[str] = sum(self.outcomes.values(), Counter())
        rows = [
            f"{kind:42} " + ", ".join(f"{n} {o}" for o, n in sorted(c.items()))
            for kind, c in sorted(self.outcomes.items())
        ]
        rows.append(f"{'all':42} " + ", ".join(f"{n} {o}" for o, n in sorted(total.items())))
        return "\n".join([*rows, *(f"FAULT {fault}" for fault in self.faults)])


class TooLong(BaseException):
    """A trial that takes longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(use: Callable[[], Any], expected: Any, seconds: float) -> tuple[str, str]:
    """What comes of using a damaged folder, and what was said."""
    try:
        with limited(seconds):
            return ("equal", "") if use() == expected else ("different", "")
    except MaskwrightError as error:
        return "refused", str(error)
    except TooLong:
        return "hang", ""
    except Exception as error:  # the tool's purpose is to find them
        return "traceback", "".join(traceback.format_exception_only(error)) + str(
            traceback.extract_tb(error.__traceback__)[-1]
        )


# ----------------------------------------------------------------------------------------------------------- changes

VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "gelu", 0, -1, 1, 2, 7, 1.5, 1e-30, 1e300, 10**9, 10**400),
    *(float("nan"), float("inf"), [], [1], [[]], {}, {"a": 1}, [10**9] * 4, "9" * 5000, "../../etc/passwd"),
)
CODE = {"auto_map": {"AutoModel": "evil--evil.Evil", "AutoConfig": "evil.Config"}}


def places(values: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything inside parsed JSON."""
    entries = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def change_json(text: str, chance: random.Random) -> tuple[str, str]:
    """One field of a JSON text removed, renamed, replaced, scaled, added or swapped; the text, and what was done."""
    values = json.loads(text)
    path = chance.choice(list(places(values)))
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    key, value = path[-1], parent[path[-1]]
    kind = chance.choice(("remove", "rename", "replace", "replace", "scale", "scale", "add", "code", "swap"))
    if kind == "remove":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[f"{key}z"] = parent.pop(key)
    elif kind == "scale" and isinstance(value, int | float) and not isinstance(value, bool):
        parent[key] = chance.choice((value * 2, value + 1, -value, value / 2, value * 1000, value * 10**6))
    elif kind == "add" and isinstance(parent, dict):
        parent["further"] = chance.choice(VALUES)
    elif kind == "code" and isinstance(parent, dict):
        parent |= CODE
    elif kind == "swap":
        other = chance.choice(list(parent.keys() if isinstance(parent, dict) else range(len(parent))))
        parent[key], parent[other] = parent[other], value
    else:
        kind = "replace"
        parent[key] = chance.choice(VALUES)
    return json.dumps(values), f"{kind} {'.'.join(map(str, path))} (was {str(value)[:40]})"


def change_text(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A JSON file cut off, with a byte changed, a key twice, or no JSON at all."""
    kind = chance.choice(("cut", "byte", "twice", "empty", "utf-16", "deep"))
    at = chance.randrange(len(content))
    if kind == "cut":
        return content[:at], f"cut at {at}"
    if kind == "byte":
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :], f"bit at {at}"
    if kind == "twice":
        return content.replace(b"{", b'{"size": 1, "size": 2, ', 1), kind
    changed = {"empty": b"", "utf-16": content.decode().encode("utf-16"), "deep": b"[" * 100_000}
    return changed[kind], kind


def change_tensors(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A safetensors file with a flipped bit, a NaN, another set of tensors, or that is none."""
    kind = chance.choice(
        ("bit", "bit", "bit", "nan", "infinity", "cut", "drop", "rename", "shape", "dtype", "pickle", "empty", "zero")
    )
    if kind == "bit":
        at = chance.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :], f"bit at {at}"
    if kind == "cut":
        return content[: chance.randrange(len(content))], kind
    if kind in ("pickle", "empty"):
        return (pickle.dumps(print) if kind == "pickle" else b""), kind
    tensors = load(content)
    name = chance.choice(sorted(tensors))
    tensor = tensors[name].clone()
    if kind in ("nan", "infinity", "zero") and tensor.is_floating_point() and tensor.numel():
        tensor.view(-1)[chance.randrange(tensor.numel())] = {"nan": torch.nan, "infinity": torch.inf, "zero": 1e30}[
            kind
        ]
        tensors[name] = tensor
    elif kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[f"{name}z"] = tensors.pop(name)
    elif kind == "shape":
        tensors[name] = torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
    else:
        kind, tensors[name] = "dtype", tensor.double()
    return save(tensors), f"{kind} of {name}"


def damage(path: Path, chance: random.Random) -> str:
    """Change one file; says how."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content, told = change_tensors(content, chance)
    elif path.suffix == ".json" and chance.random() < 0.75:
        text, told = change_json(content.decode(), chance)
        content = text.encode()
    else:
        content, told = change_text(content, chance)
    path.write_bytes(content)
    return told


def seal(folder: Path) -> None:
    """Make the checksums anew, as somebody with bad intent would."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
        config[CHECKSUMS] = checksums(folder, config)
        path.write_text(json.dumps(config))
    except (ValueError, TypeError, RecursionError):
        return


# ------------------------------------------------------------------------------------------------------------ models


def tiny_sam(folder: Path) -> Path:
    """A SAM 2 of random weights at 64 pixels."""
    trunk = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [3],
    }
    width = 64
    config = Sam2VideoConfig(
        image_size=64,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": trunk,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": 64},
        mask_decoder_config={"hidden_size": width, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        memory_attention_hidden_size=width,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=width,
        mask_downsampler_embed_dim=width,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=64,
    )
    Sam.from_config(config).model.save_pretrained(folder)
    return folder


SETTINGS: dict[str, dict[str, Any]] = {
    "samix": {
        "size": 64,
        "steps": 4,
        "warm_up": 1,
        "policy_warm_up": 1,
        "selector": "policy",
        "batch": 4,
        "references": 2,
    },
    "clicks": {"steps": 3, "batch": 3, "tries": 6, "looks": 3, "clicks": 2, "groups": 2},
    "alignsam": {
        "shots": 0,
        "epochs": 1,
        "clicks": 2,
        "grid": 4,
        "text": ("disc",),
        "srm_updates": 1,
        "views": 1,
        "srm_batch": 4,
    },
    "s4m": {"size": 64, "steps": 2, "batch": 2, "queries": 10, "points": 8, "warm_up": 1},
}


def predictions(folder: Path, images: list[Path], **options: Any) -> list[Any]:
    """Masks and scores of a model, comparable."""
    loading = {"in_context": options.pop("in_context")} if "in_context" in options else {}
    model = maskwright.load(folder, device="cpu", **loading)
    # Rounded: a file's layout decides where tensors lie in memory, and that decides in which order a CPU adds.
    return [
        (one.mask.tobytes(), one.mask.shape, {name: round(score, 4) for name, score in one.scores.items()})
        for one in model.predict(images, **options)
    ]


def instances_of(data: Path, folder: Path) -> Path:
    """The same images, with each one's mask as a single object."""
    dataset = Dataset.load(data)
    samples = []
    (folder / "images").mkdir(parents=True)
    for sample in dataset:
        name = dataset.image_path(sample).name
        shutil.copy(dataset.image_path(sample), folder / "images" / name)
        labels = Labels()
        if sample.labels.mask is not None:
            mask = read_mask(dataset.root / sample.labels.mask.path)
            write_mask(folder / "masks" / name, (mask == 1).astype(np.uint16))
            labels = Labels(Mask(f"masks/{name}", "instance", {1: 1}))
        samples.append(Sample(sample.id, f"images/{name}", sample.split, labels))
    Dataset(folder, dataset.categories, tuple(samples)).save()
    return folder


@dataclass(frozen=True)
class Subject:
    """A model to be damaged.

    Attributes:
        name: of its kind.
        folder: holds ``model`` and what the model needs beside it: ``sam``, ``clip``.
        options: with which it predicts.
    """

    name: str
    folder: Path
    options: dict[str, Any]


def make_subjects(
    work: Path, only: tuple[str, ...] = ("samix", "in context", "clicks", "alignsam", "s4m")
) -> list[Subject]:
    """Train the smallest model of each kind. Each one's SAM (and CLIP) lies beside it at a path that stays the same in all trials."""
    data = work / "data"
    kinds = {Kind.MASK: 5, Kind.BOX: 2, Kind.POINT: 1}
    shares = {kind: count / 8 for kind, count in kinds.items()}
    write_scenes(data, train=8, val=2, test=2, size=64, categories=("disc",), difficulty=0.0, shares=shares)
    subjects = []
    for name in only:
        recipe = "samix" if name == "in context" else name
        home = work / recipe
        if not home.exists():
            home.mkdir()
            settings = SETTINGS[recipe] | {
                "sam": str(tiny_sam(home / "sam")),
                "device": "cpu",
                "out": home / "run",
                "data": data,
            }
            if recipe == "s4m":
                settings["data"] = instances_of(data, home / "data")
            if recipe == "alignsam":
                settings["clip"] = str(shutil.copytree(NANO_CLIP, home / "clip"))
            maskwright.train(recipe, **settings)
        options: dict[str, Any] = {"clicks": {"click": [(30, 30)]}, "in context": {"in_context": True}}.get(name, {})
        subjects.append(Subject(name, home, options))
    return subjects


def try_models(work: Path, count: int, seed: int, seconds: float, subjects: list[Subject]) -> Tally:
    """Damage ``count`` models, one at a time, in place, and mend them again."""
    tally, chance = Tally(), random.Random(seed)
    images = sorted((work / "data").rglob("*.png"))[:2]
    expected = {
        subject.name: predictions(subject.folder / "run" / "model", images, **dict(subject.options))
        for subject in subjects
    }
    for number in range(count):
        subject = subjects[number % len(subjects)]
        model = subject.folder / "run" / "model"
        files = [*model.glob("*.json"), *model.glob("*.json"), *model.glob("*.safetensors")]
        beside = [
            path
            for part in ("sam", "clip")
            for path in (subject.folder / part).glob("*")
            if path.suffix in (".json", ".safetensors")
        ]
        # The segmenter alone needs neither; a generation_config and the like are not read.
        beside = [
            path
            for path in beside
            if path.name in ("config.json", "model.safetensors", "tokenizer.json", "templates.json")
        ]
        path = chance.choice(
            beside if beside and subject.name != "samix" and subject.name != "s4m" and number % 3 == 0 else files
        )
        before = {file: file.read_bytes() for file in (path, model / "config.json")}
        told = damage(path, chance)
        sealed = path.parent == model and number % 4 == 0
        if sealed:
            seal(model)
        outcome, said = outcome_of(
            partial(predictions, model, images, **subject.options), expected[subject.name], seconds
        )
        for file, content in before.items():
            file.write_bytes(content)
        kind = f"{'sealed ' if sealed else ''}{subject.name}: {path.parent.name}/{path.name}"
        tally.add(kind, outcome, f"{told}; {said}")
        if said.count("\n") > 30:
            tally.faults.append(f"{kind}: {told}: a message of {said.count(chr(10))} lines")
    return tally


# -------------------------------------------------------------------------------------------------------------- runs


@dataclass
class Descending:
    """Settings of the smallest training there is."""

    data: Path
    out: Path
    format: str | None = None
    image_reading: ImageReading = PLAIN
    sam: str = "nano"
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    checkpoint_seconds: float = 0.0
    lr: float = 0.1
    init: Path | None = None
    resume: bool = False
    overwrite: bool = False
    keep: str = "last"


class Descent(Trainable):
    """Two layers that learn to give nothing."""

    recipe = "descent"
    networks = {"model": "net"}  # noqa: RUF012

    def __init__(self, session: Session) -> None:
        self.session = session
        (self.stage,) = session.plan(Budget(steps=6), Part("fit", "descending"))
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.1)

    def parts(self) -> dict[str, Any]:
        return {"net": self.net, "optimizer": self.optimizer}

    def start_from(self, origin: Origin) -> None:
        raise NotImplementedError

    def fit(self, until: float = 1.0) -> None:
        for step in self.session.steps(self.stage, log_every=1, until=until):
            loss = self.net(torch.randn(4, 8, generator=self.session.generator(1, step))).square().mean()
            self.session.descend(loss, self.optimizer, self.net.parameters())
            self.session.average(loss=loss)


def descend(config: Descending, until: float = 1.0) -> tuple[dict[str, bytes], list[Any]]:
    """A training, or one that ends early; its weights and its log."""
    with Session.open(config, {"lr": config.lr}) as session:  # type: ignore[arg-type]
        trainer = Descent(session)
        session.begin(trainer)
        trainer.fit(until)
        session.finish()
    weights = {name: tensor.detach().numpy().tobytes() for name, tensor in trainer.net.state_dict().items()}
    return weights, read_metrics(config.out)


def try_runs(work: Path, count: int, seed: int, seconds: float) -> Tally:
    """Damage the state of ``count`` runs that were stopped half-way, and resume them."""
    tally, chance = Tally(), random.Random(seed)
    data, run = work / "data", work / "half"
    if not data.exists():
        write_scenes(data, train=4, val=1, test=1, size=64, categories=("disc",), difficulty=0.0)
    expected = descend(Descending(data, work / "whole"))
    descend(Descending(data, run), until=0.5)
    for number in range(count):
        trial = Path(shutil.copytree(run, work / "trial"))
        files = [
            path
            for path in trial.rglob("*")
            if path.suffix in (".json", ".jsonl", ".safetensors") and path.parent.name != "tb"
        ]
        path = sorted(files)[number % len(files)]
        told = damage(path, chance)
        outcome, said = outcome_of(partial(descend, Descending(data, trial, resume=True)), expected, seconds)
        if outcome == "different" and path.name == "metrics.jsonl" and heard:
            outcome = "said"
        heard.clear()
        tally.add(path.name, outcome, f"{told}; {said}")
        shutil.rmtree(trial)
    return tally


heard: list[str] = []
"""Warnings since the last trial."""


class Heard(logging.Handler):
    """Keeps warnings for the trial that they belong to."""

    def emit(self, record: logging.LogRecord) -> None:
        heard.append(record.getMessage())


@dataclass
class Options:
    """How much to try."""

    models: int = 500
    runs: int = 300
    seed: int = 0
    seconds: float = 60.0
    """After so many seconds a trial counts as hanging."""


def main(options: Options) -> int:
    logging.getLogger("maskwright").addHandler(Heard())
    sys.stderr.flush()
    faults = 0
    with tempfile.TemporaryDirectory(prefix="maskwright-mutations-") as folder:
        work, started = Path(folder), time.monotonic()
        if options.runs:
            tally = try_runs(work, options.runs, options.seed, options.seconds)
            print(f"{options.runs} runs, {time.monotonic() - started:.0f} s\n{tally}\n", flush=True)
            faults += len(tally.faults)
            shutil.rmtree(work / "data")
        if options.models:
            print("training the models", flush=True)
            tally = try_models(work, options.models, options.seed, options.seconds, make_subjects(work))
            print(f"{options.models} models, {time.monotonic() - started:.0f} s\n{tally}", flush=True)
            faults += len(tally.faults)
    return min(1, faults)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
