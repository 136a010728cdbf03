"""Models of ``transformers`` from folders, hub ids and configurations that strangers wrote.

Safetensors are read and nothing else: no pickle, no code, no file that a configuration points to. Model types come from a closed list of
our own. What goes wrong is said once, by us, in one line that names the source and the remedy; ``transformers`` itself stays quiet.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging as transformers_logging

from maskwright.data.fields import read_json
from maskwright.data.files import is_pickle
from maskwright.errors import BUILD_ERRORS, DataError, WeightsError
from maskwright.sam.config_fields import closed_fields, field_problems
from maskwright.sam.trunks import TRUNK_TYPES

Made = TypeVar("Made")

MODEL_TYPES: dict[str, tuple[str, ...]] = {
    "sam2_video": (
        "sam2_vision_model",
        *TRUNK_TYPES,
        *("sam2_prompt_encoder", "sam2_video_prompt_encoder", "sam2_mask_decoder", "sam2_video_mask_decoder"),
    ),
    "sam2_vision_model": TRUNK_TYPES,
    **dict.fromkeys(TRUNK_TYPES, ()),
    "segformer": (),
    "mask2former": ("swin", "resnet"),  # the backbones of its paper
    "clip": ("clip_text_model", "clip_vision_model"),
}
"""The model types that are loaded, each with those that may stand inside its configuration. No other is built, ever."""

_FOREIGN = {
    "auto_map": "code that comes with weights is never run",
    "quantization_config": "quantised weights are not read",
    "transformers_weights": "weights are read from model.safetensors and from no other file",
    "configuration_files": "the configuration is read from config.json and from no other file",
    "backbone": "a backbone that is fetched by its name is not; describe it in backbone_config",
}
"""Keys by which a configuration would make ``transformers`` run or fetch something else, and what to say of them."""

_TOKENIZERS = (None, "CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of tokenizers that are loaded; None: as the model's type says."""

_ATTENTION = (None, "eager", "sdpa")
"""Ways to attend that are part of ``torch`` and ``transformers``; any other text may name code on a hub."""

_LOADING_ERRORS = (OSError, SafetensorError, StrictDataclassError, *BUILD_ERRORS)
"""What ``transformers`` and ``safetensors`` raise for files that are absent, damaged, or of another model."""

MOST_PARAMETERS = 2_000_000_000
"""Of any network: eight gigabytes of numbers. Every published model of our types has less than half a billion."""


@dataclass(frozen=True)
class Family:
    """A kind of published model, and how messages speak of it.

    Attributes:
        model: its class in ``transformers``.
        noun: as in "these weights are not those of a <noun>".
        remedy: the last sentence of a message: what to give instead.
        replaced: beginnings of the names of tensors that may be missing, unexpected or of another shape (``missing_keys`` and so
            on), because that part is made anew.
    """

    model: type[PreTrainedModel]
    noun: str
    remedy: str
    replaced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return self.model.config_class.model_type  # type: ignore[union-attr]


def load_pretrained(family: Family, source: str | Path, name: str, **changes: Any) -> Any:
    """A model in float32 on the CPU, in evaluation mode.

    Args:
        source: a folder with ``config.json`` and ``model.safetensors``, or a Hugging Face id.
        name: what messages call it.
        changes: settings of the configuration to replace, such as ``num_labels``.

    Raises:
        WeightsError: not found, damaged, a pickle, of another model, not allowed to be built (see :func:`check_config`), or with
            tensors missing, unexpected, of another shape or not finite; all of them are named.
    """
    _refuse_pickle(source, name)
    path = Path(source) / "config.json"
    if path.is_file():
        # Read here: a damaged or hostile file is named with its line, whatever transformers would say of it.
        values = _read(path, name)
    else:
        with _loading(family, name):
            values, _ = PreTrainedConfig.get_config_dict(source)
    config = config_of(values, name, family, **changes)
    _require_memory(family, config, source, name)
    with _loading(family, name):
        loaded: Any = family.model.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            # Other shapes are named below, where transformers would only point at its own log.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        model, report = loaded
    _refuse_misfits(family, report, name)
    broken = [key for key, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise WeightsError(f"{name}: values that are not finite numbers: {listing(broken)}. {family.remedy}")
    return model.eval()


def load_config(family: Family, path: str | Path, name: str, **changes: Any) -> Any:
    """The configuration in a JSON file, with ``changes``; raises WeightsError as :func:`load_pretrained` does."""
    config = config_of(_read(Path(path), name), name, family, **changes)
    _require_memory(family, config, None, name)
    return config


def _read(path: Path, name: str) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise WeightsError(f"{name}: {error}") from error


def _require_memory(family: Family, config: Any, source: str | Path | None, name: str) -> None:
    """Raise WeightsError where a configuration asks for a network that cannot be built, or for one far larger than its weights."""
    with _loading(family, name), torch.device("meta"):
        asked = sum(tensor.numel() for tensor in family.model(config).state_dict().values())
    most = MOST_PARAMETERS
    weights = None if source is None else Path(source) / "model.safetensors"
    if weights is not None and weights.is_file():
        with _loading(family, name), safe_open(weights, framework="pt") as file:
            # Parts that are made anew may come on top.
            most = 2 * sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys()) + 20_000_000  # noqa: SIM118
    if asked > most:
        raise WeightsError(
            f"{name}: config.json asks for a network of {asked:,} numbers, far more than the weights have. {family.remedy}"
        )


def config_of(values: Mapping[str, Any], name: str, family: Family, **changes: Any) -> Any:
    """A family's configuration from plain values; raises WeightsError as :func:`load_pretrained` does."""
    if not isinstance(values, Mapping) or values.get("model_type") != family.model_type:
        stated = values.get("model_type") if isinstance(values, Mapping) else None
        raise WeightsError(
            f"{name}: config.json says model_type {stated!r}: these weights are not those of a {family.noun}. {family.remedy}"
        )
    check_config(values, name)
    with _loading(family, name):
        return family.model.config_class.from_dict({**values, **changes})  # type: ignore[union-attr]


def load_tokenizer(family: Family, source: str | Path, name: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model's weights. Raises WeightsError where there is none, or one with code or a class of its own."""
    with _loading(family, name):
        settings = get_tokenizer_config(source)
    kind = settings.get("tokenizer_class")
    if "auto_map" in settings or kind not in _TOKENIZERS:
        problem = (
            f"auto_map: {_FOREIGN['auto_map']}" if "auto_map" in settings else f"tokenizer_class {kind!r} is not known"
        )
        raise WeightsError(f"{name}: tokenizer_config.json is refused: {problem}. {family.remedy}")
    with _loading(family, name):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def build_model(values: Mapping[str, Any], name: str, types: Sequence[str]) -> Any:
    """A float32 model with random weights from plain values, such as an exported model keeps of its encoder.

    Args:
        values: a configuration with its ``model_type``.
        name: what messages call it.
        types: model types that will do; each must be in ``MODEL_TYPES``.

    Raises:
        WeightsError: another model type, or not allowed to be built (see :func:`check_config`).
    """
    return _made_from(
        values,
        name,
        types,
        lambda config: AutoModel.from_config(config, trust_remote_code=False, dtype=torch.float32),
    )


def written_out(values: Mapping[str, Any], name: str, types: tuple[str, ...]) -> dict[str, Any]:
    """A configuration that leaves out its defaults, with all that decides what the network computes; see ``closed_fields``.

    Raises:
        WeightsError: another model type, or not allowed to be built (see :func:`check_config`).
    """
    return _made_from(values, name, types, closed)


def _made_from(values: Mapping[str, Any], name: str, types: Sequence[str], make: Callable[[Any], Made]) -> Made:
    """What ``make`` makes of a configuration in plain values, which is checked first; see :func:`build_model`."""
    if not isinstance(values, Mapping) or values.get("model_type") not in types:
        stated = values.get("model_type") if isinstance(values, Mapping) else values
        raise WeightsError(f"{name}: model_type {stated!r}; this version knows: {', '.join(types)}")
    check_config(values, name)
    try:
        with quiet_transformers():
            return make(CONFIG_MAPPING[values["model_type"]].from_dict(dict(values)))
    except (StrictDataclassError, *BUILD_ERRORS) as error:
        raise WeightsError(f"{name}: no network can be built from this: {reason_of(error)}") from error


def closed(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration as JSON with every field that decides what the network computes, defaults written out."""
    return json.loads(json.dumps(closed_fields(config.to_dict())))


def check_config(values: Mapping[str, Any], name: str) -> None:
    """Raise one WeightsError unless a configuration is of a known model and names nothing to run or to fetch.

    Args:
        values: with ``model_type``; configurations inside it are checked as well.
        name: what the message calls it.
    """
    outer = values.get("model_type")
    if outer not in MODEL_TYPES:
        raise WeightsError(f"{name}: model_type {outer!r}; this version knows: {', '.join(sorted(MODEL_TYPES))}")
    problems = dict.fromkeys([*_problems(values, "", MODEL_TYPES[outer]), *field_problems(values)])
    if problems:
        raise WeightsError(
            f"{name}: this configuration is refused: {'; '.join(problems)}. Correct it, or give another."
        )


def _problems(values: Any, place: str, inner: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with the values at a place (``vision_config.``, say), whose model types must be among ``inner``."""
    if isinstance(values, list | tuple):
        for value in values:
            yield from _problems(value, place, inner)
    if not isinstance(values, Mapping):
        return
    for key, value in values.items():
        if key in _FOREIGN and value is not None:
            yield f"{place}{key}: {_FOREIGN[key]}"
        elif key.lstrip("_") == "attn_implementation" and value not in _ATTENTION:
            yield f"{place}{key} {value!r}: only {', '.join(filter(None, _ATTENTION))} will do"
        # Files of transformers 4 leave the type empty where only one is possible.
        elif key == "model_type" and place and value not in ("", *inner):
            yield f"{place}{key} {value!r}: must be one of {', '.join(inner) or 'none'}"
        else:
            yield from _problems(value, f"{place}{key}.", inner)


def _refuse_misfits(family: Family, report: Mapping[str, Any], name: str) -> None:
    """Raise one WeightsError that names the tensors of transformers' loading report that do not fit the model."""
    wrong = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        # A mismatched one comes with its shapes.
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in report.get(kind) or ())
        keys = [key for key in keys if not key.startswith(family.replaced.get(kind, ()))]
        if keys:
            wrong.append(f"{kind.replace('_', ' ')}: {listing(keys)}")
    if wrong:
        raise WeightsError(
            f"{name}: these weights are not those of a {family.noun}: {'; '.join(wrong)}. {family.remedy}"
        )


def _refuse_pickle(source: str | Path, name: str) -> None:
    """Raise WeightsError where a folder's ``model.safetensors`` is a pickle under a false name."""
    path = Path(source) / "model.safetensors"
    if not path.is_file():
        return
    with open(path, "rb") as file:
        head = file.read(9)
    if is_pickle(head):
        raise WeightsError(
            f"{name}: {path.name} is a pickle, and pickles are never loaded because they can run code; turn an official .pt file into "
            "safetensors with `maskwright sam convert`"
        )


@contextmanager
def _loading(family: Family, name: str) -> Iterator[None]:
    """Quiet, and with one WeightsError for whatever is raised inside."""
    try:
        with quiet_transformers():
            yield
    except Exception as error:
        # The library of tokenizers, which is no Python, raises Exception itself.
        if not isinstance(error, _LOADING_ERRORS) and type(error) is not Exception:
            raise
        raise WeightsError(f"{name}: cannot load this {family.noun}: {reason_of(error)}. {family.remedy}") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' and the hub's progress bars, reports and retries off the screen."""
    hub = logging.getLogger("huggingface_hub")
    level, verbosity = hub.level, transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    hub.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def reason_of(error: Exception) -> str:
    """The first line of an error, in our words where safetensors' own say nothing to a user."""
    if isinstance(error, SafetensorError):
        return f"model.safetensors is damaged or cut off ({error}); copy or download it again"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def listing(names: Iterable[str], limit: int = 10) -> str:
    """Names in one line, the first ``limit`` of them."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
