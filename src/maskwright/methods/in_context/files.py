"""The files of a model folder for segmentation in context: the trained part of SAM, the reference pool, and the policy, if there is one.

::

    model/
      config.json           "in_context": the SAM's source and signature, the selector, the names of the references
      sam.safetensors       the trained parameters of SAM (adapters, decoder ...), in float16; absent where nothing was trained
      pool.safetensors      memories in float16, pooled vectors, and a small picture of each reference
      selector.safetensors  the policy, with the selector "policy"

The frozen part of SAM is not copied: it is loaded again from its source, and its signature must be the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from maskwright.data.labels import Kind
from maskwright.data.schema import Fields, Items, Maybe, OneOf, Text, Truth, Whole
from maskwright.engine.model import Model
from maskwright.engine.origin import Origin
from maskwright.engine.weights import key_problems, load_tensors, raise_weights
from maskwright.errors import MaskwrightError, WeightsError
from maskwright.methods.in_context.answerer import Answerer
from maskwright.methods.in_context.pool import ReferencePool
from maskwright.methods.in_context.predictor import InContextPredictor, InContextSegmenter
from maskwright.methods.in_context.selection import PolicySettings, ReferencePolicy, load_policy
from maskwright.methods.semantic.predictor import load_segmenter
from maskwright.nets.selector_names import SelectorName
from maskwright.sam.adapter import add_adapters
from maskwright.sam.sam import Sam
from maskwright.sam.sources import BUNDLED
from maskwright.sam.store import tensors_signature

POOL_BYTES = 32 << 20
"""Most bytes of the memories in a model folder; of a larger pool some references are kept, finest labels first."""

_POLICY = Fields(
    {
        "channels": Whole(1, 16_384),
        "memory_channels": Whole(1, 16_384),
        "references": Whole(1, 1000),
        "shortlist": Whole(1, 10_000),
        "looks": Whole(0, 1000),
    }
)
_IN_CONTEXT = Fields(
    {
        "sam": Text(),
        "frozen": Text(64),
        "adapters": Truth(),
        "selector": OneOf(get_args(SelectorName)),
        "references": Whole(1, 1000),
        "names": Items(Text(), 1, 10_000_000),
        "entries": Whole(1, 10_000_000),
        "entries_of_the_run": Whole(1, 10_000_000),
        "policy": _POLICY,
        "data": Maybe(Text(200)),
    },
    optional=frozenset(["policy", "data"]),
)
_PICTURES = ("pictures", "picture_ends")


def pack(
    answerer: Answerer,
    source: str,
    trained: Sequence[nn.Parameter],
    name_of: Callable[[int], str],
    picture: Callable[[int, int], bytes],
    limit: int = POOL_BYTES,
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Describe what segments in context, to be written beside a model.

    Args:
        answerer: with a pool that is not empty.
        source: what its SAM was loaded from.
        trained: the parameters of SAM that were trained; its adapters are among them, if it has any.
        name_of: ``sample`` of the pool → name of the image.
        picture: (sample, category) → a small JPEG file of the image with its mask.
        limit: bytes that the memories may take; every category keeps one reference at least.

    Returns:
        ``config["in_context"]``, and tensors by the name of their file.
    """
    entries = answerer.pool.state_dict()
    places = _places_within(entries, limit)
    tensors = {name: value[places].cpu() for name, value in entries.items()}
    samples, tensors["sample"] = tensors["sample"].unique(return_inverse=True)
    keys = zip(samples[tensors["sample"]].tolist(), tensors["category"].tolist())
    pictures = [picture(*key) for key in keys]
    tensors["pictures"] = torch.frombuffer(bytearray(b"".join(pictures)), dtype=torch.uint8)
    tensors["picture_ends"] = torch.tensor([len(data) for data in pictures]).cumsum(0)
    identities = {id(parameter) for parameter in trained}
    names = [name for name, parameter in answerer.sam.named_parameters() if id(parameter) in identities]
    state = answerer.sam.state_dict()
    description = {
        "sam": str(Path(source).resolve()) if source not in BUNDLED and Path(source).exists() else source,
        "frozen": _frozen_signature(state, names, answerer.sam.architecture()),
        "adapters": any(".adapter." in name for name in names),
        "selector": answerer.selector,
        "references": answerer.references,
        "names": [name_of(sample) for sample in samples.tolist()],
        "entries": len(places),
        "entries_of_the_run": len(answerer.pool),
    }
    beside = {"pool": tensors}
    if names:
        beside["sam"] = {name: state[name].half() for name in names}
    if answerer.policy is not None:
        description["policy"] = answerer.policy.description()
        beside["selector"] = answerer.policy.net.state_dict()
    return description, beside


def start_from(origin: Origin, sam: Sam, trained: Sequence[nn.Parameter], source: str) -> None:
    """Take over the trained part of an earlier run's SAM, in place.

    Args:
        sam: with adapters, if it has any, as its own training would start.
        trained: its parameters that are trained.
        source: what it was loaded from.

    Raises:
        WeightsError: the earlier one is another SAM, or other parts of it were trained.
    """
    identities = {id(parameter) for parameter in trained}
    names = [name for name, parameter in sam.named_parameters() if id(parameter) in identities]
    state, earlier = sam.state_dict(), origin.tensors["sam"]
    # A model folder holds the trained part alone, and the signature of the rest; a checkpoint holds all of it.
    frozen = origin.config.get("in_context", {}).get("frozen")
    context = sam.architecture() if origin.config.get("version", 1) > 1 else ""
    if frozen is None:
        frozen = _frozen_signature(earlier, names, context)
        earlier = {name: earlier[name] for name in names if name in earlier}
    expected = {name: state[name] for name in names}
    values = origin.take(expected, "sam", flags="--adapters, --tune-decoder", earlier=earlier)
    origin.require_sam(source, _frozen_signature(state, names, context), frozen)
    sam.load_state_dict(values, strict=False)


def load(model: Model, references: int | None = None, looks: int | None = None) -> InContextPredictor:
    """The in-context side of a model folder, on the CPU.

    Args:
        model: made by the recipe ``samix``.
        references: T, how many to show; left out, as many as in training.
        looks: see ``PolicySettings``; left out, as the training decided. Where the model was trained with a heuristic: left out, none;
            else an untrained policy draws the sets that are compared.

    Raises:
        MaskwrightError: the model has no pool, ``references`` is below 1 or ``looks`` below 0.
        WeightsError: files or settings are damaged or do not fit, or SAM's weights are not those that the run started from.
    """
    if references is not None and references < 1:
        raise MaskwrightError(f"--references {references}: must be at least 1")
    if looks is not None and looks < 0:
        raise MaskwrightError(f"--looks {looks}: must be 0 or more")
    folder, config = model.folder, model.config
    if "in_context" not in config:
        raise MaskwrightError(
            f"{folder}: this model has no reference pool, so it cannot segment in context: it was trained by an older "
            "maskwright, without SAM (--no-sam, --pseudo, --labels masks-only), or without any label to refer to; train it "
            "again with SAM, or leave out --in-context"
        )
    settings = config["in_context"]
    problems = list(_IN_CONTEXT.problems(settings, "in_context"))
    if not problems and (settings["selector"] == "policy") != ("policy" in settings):
        problems = ["in_context.policy: must be there with the selector 'policy', and with no other"]
    if problems:
        model.refuse(problems)
    segmenter = load_segmenter(model).network
    sam = _load_sam(model, settings)
    pool, pictures = _load_pool(folder, len(settings["names"]), len(model.categories))
    count: int = settings["references"] if references is None else references
    policy = None
    if settings["selector"] == "policy":
        policy = _load_policy(folder, settings, count, looks)
    elif looks:
        # A policy has to draw the sets that are compared: an untrained one prefers similar references.
        channels, memory_channels = pool.tensors["whole"].shape[1], pool.tensors["memory"].shape[1]
        policy = ReferencePolicy(channels, memory_channels, PolicySettings(references=count, looks=looks))
    answerer = Answerer(
        sam.eval().requires_grad_(False),
        len(config["categories"]),
        selector="policy" if policy else settings["selector"],
        references=count,
        policy=policy,
        pool=pool,
    )
    context = InContextSegmenter(answerer, segmenter, settings["names"], pictures)
    return InContextPredictor(model, segmenter, context)


def _places_within(pool: Mapping[str, Tensor], limit: int) -> Tensor:
    """Places of the entries that fit into ``limit`` bytes, in order: of every category as many, finest labels first."""
    most = max(1, limit // max(1, pool["features"][0].nbytes))
    groups: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    columns = (pool[name].tolist() for name in ("category", "kind", "sample"))
    for place, (category, kind, sample) in enumerate(zip(*columns)):
        groups[category].append((-kind, sample, place))
    ranked = [(rank, place) for group in groups.values() for rank, (*_, place) in enumerate(sorted(group))]
    return torch.tensor(sorted(place for _, place in sorted(ranked)[: max(most, len(groups))]))


def _frozen_signature(state: Mapping[str, Tensor], trained: Collection[str], architecture: str) -> str:
    """Of what was not trained, and of ``Sam.architecture``, which version 1 of the model format left out."""
    return tensors_signature({name: tensor for name, tensor in state.items() if name not in trained}, architecture)


def _load_sam(model: Model, settings: Mapping[str, Any]) -> Sam:
    folder = model.folder
    sam = Sam.load(settings["sam"], size=model.size)
    if settings["adapters"]:
        add_adapters(sam)
    state, path = sam.state_dict(), folder / "sam.safetensors"
    tensors = load_tensors(path) if settings["adapters"] or path.is_file() else {}
    absent = [name for name in state if ".adapter." in name and name not in tensors]
    problems = key_problems(absent, ()) + key_problems((), tensors.keys() - state.keys())
    problems += [
        f"{name}: another shape" for name, t in tensors.items() if name in state and t.shape != state[name].shape
    ]
    bundled = settings["sam"] in BUNDLED
    if not bundled:
        raise_weights(str(path), problems)
    if (
        problems
        or _frozen_signature(state, tensors.keys(), sam.architecture() if model.version > 1 else "")
        != settings["frozen"]
    ):
        why = ": maskwright 0.1.0 brought other weights of that name" if bundled else ""
        remedy = "install that version" if bundled else "give it back the weights that it had"
        raise WeightsError(
            f"{folder}: the SAM {settings['sam']} is not the one that this model was trained with{why}; {remedy}, or train the model "
            "again. Without references (--in-context) its segmenter predicts as before."
        )
    sam.load_state_dict(tensors, strict=False)
    return sam


def _load_policy(folder: Path, settings: Mapping[str, Any], references: int, looks: int | None) -> ReferencePolicy:
    changes = {"references": references} if looks is None else {"references": references, "looks": looks}
    try:
        return load_policy({**settings["policy"], **changes}, folder / "selector.safetensors")
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: in_context: no policy can be built from this ({error}); "
            "restore the file from the run that made it"
        ) from error


def _is_pool(tensors: Mapping[str, Tensor], below: Mapping[str, int]) -> bool:
    """Whether tensors are of one length, which is not 0, and the whole numbers among them lie in 0..``below`` - 1."""
    numbers = [tensors.get(name) for name in below]
    if any(number is None or number.ndim != 1 or number.is_floating_point() or not len(number) for number in numbers):
        return False
    in_bounds = all(int(tensors[name].min()) >= 0 and int(tensors[name].max()) < most for name, most in below.items())
    return in_bounds and len({len(tensor) if tensor.ndim else 0 for tensor in tensors.values()}) == 1


def _load_pool(folder: Path, images: int, categories: int) -> tuple[ReferencePool, list[bytes]]:
    path = folder / "pool.safetensors"
    tensors = load_tensors(path)
    raise_weights(str(path), key_problems(_PICTURES, [name for name in tensors if name in _PICTURES]))
    data, ends = (tensors.pop(name) for name in _PICTURES)
    pool = ReferencePool()
    if (
        not _is_pool(tensors, {"sample": images, "category": categories, "kind": len(Kind)})
        or data.dtype != torch.uint8
    ):
        raise WeightsError(f"{path}: does not fit to config.json; restore the model folder from the run that made it")
    pool.load_state_dict(tensors)
    bounds = [0, *ends.tolist()]
    if len(bounds) - 1 != len(pool) or bounds[-1] != len(data) or bounds != sorted(bounds):
        raise WeightsError(f"{path}: does not fit to config.json; restore the model folder from the run that made it")
    whole = data.numpy().tobytes()
    return pool, [whole[start:end] for start, end in pairwise(bounds)]
