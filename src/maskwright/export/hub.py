"""Models on the Hugging Face hub: pushed in one commit, fetched as safetensors and JSON and nothing else.

A repository is a model folder: ``config.json``, ``model.safetensors`` and the like, ``README.md`` with the card. No code is fetched, and no
file but those that the configuration names with their checksums.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from maskwright.data.fields import read_json
from maskwright.engine.model import FORMAT, Model
from maskwright.engine.weights import CHECKSUMS
from maskwright.errors import DataError, MaskwrightError, WeightsError
from maskwright.export.card import card_of, told
from maskwright.export.hub_names import HubName

_TRANSPORT: type[BaseException] = HfHubHTTPError.__mro__[1]
# What the HTTP library of huggingface_hub raises where there is no connection; which library that is has changed with its versions.

_WEIGHTS = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Attributes:
        url: of the commit.
        revision: the commit's hash, for ``hf://OWNER/NAME@REVISION``.
        scores: splits whose scores are on the card.
        notes: what others should know, one line each.
    """

    url: str
    revision: str
    scores: list[str]
    notes: list[str]


def push(model: Model, run: Path, repo: HubName, *, licence: str | None, private: bool, message: str | None) -> Pushed:
    """Make the repository if need be, and bring a model folder there in one commit; see :func:`maskwright.push`.

    Args:
        run: where scores of the model lie, as ``evaluation-*.json``.
        repo: with a branch as its revision, which is made if need be; None: ``main``.
    """
    scores, notes = _scores(model, run)
    notes += _paths_in(model.config)
    if licence is None:
        notes.append("no licence was stated; name one with --licence, such as apache-2.0 or cc-by-nc-4.0")
    card = card_of(model, repo.repo, scores, licence)
    files = sorted(name for name in model.config[CHECKSUMS] if _WEIGHTS.fullmatch(name))
    additions = [
        CommitOperationAdd("README.md", card.encode()),
        *(CommitOperationAdd(name, str(model.folder / name)) for name in ("config.json", *files)),
    ]
    with _told(repo):
        api = HfApi(library_name="maskwright")
        api.create_repo(repo.repo, repo_type="model", private=private or None, exist_ok=True)
        if repo.revision is not None:
            api.create_branch(repo.repo, branch=repo.revision, exist_ok=True)
        there = api.list_repo_files(repo.repo, revision=repo.revision)
        # Weights of an earlier model would be taken for damage.
        gone = [name for name in there if name.endswith(".safetensors") and name not in files]
        commit = api.create_commit(
            repo.repo,
            [*additions, *(CommitOperationDelete(name) for name in gone)],
            commit_message=message or f"maskwright: a model of the recipe {model.recipe}",
            revision=repo.revision,
        )
    return Pushed(commit.commit_url, commit.oid, [str(score["split"]) for score in scores], notes)


def fetch(name: HubName) -> Path:
    """The model folder of a repository, in the cache of ``huggingface_hub``; what is there already is not fetched again.

    Raises:
        WeightsError: no such repository or revision, no access, no connection, or no model of maskwright.
    """
    with _told(name):
        folder = Path(
            snapshot_download(
                name.repo, revision=name.revision, allow_patterns=["config.json"], library_name="maskwright"
            )
        )
        files = _files_of(folder, name)
        commit = folder.name
        return Path(snapshot_download(name.repo, revision=commit, allow_patterns=files, library_name="maskwright"))


def _files_of(folder: Path, name: HubName) -> list[str]:
    """The files that a configuration names. Raises WeightsError where it is none of maskwright's."""
    path = folder / "config.json"
    try:
        config = read_json(path) if path.is_file() else None
    except DataError as error:
        raise WeightsError(f"{name}: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get(CHECKSUMS), dict):
        raise WeightsError(
            f"{name}: holds no model that maskwright made (config.json is missing, or another library's)"
        )
    return ["config.json", "README.md", *(file for file in config[CHECKSUMS] if _WEIGHTS.fullmatch(file))]


def _scores(model: Model, run: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Scores of a model that lie in its run, and a note on each file that is of another model."""
    scores, notes = [], []
    for path in sorted(run.glob("evaluation-*.json")):
        found = json.loads(path.read_text("utf-8"))
        if not told(found):
            continue
        if found.get("model") == model.signature:
            scores.append(found)
        else:
            notes.append(f"{path.name} is of another model and not on the card; give `maskwright evaluate` again")
    if not scores:
        notes.append("there are no scores for the card; `maskwright evaluate RUN DATA` makes them")
    return scores, notes


def _paths_in(config: Mapping[str, Any]) -> list[str]:
    """A note on each path of this machine that a configuration names: others cannot follow it, and read it."""
    found: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, Mapping):
            for inner in value.values():
                visit(inner)
        elif isinstance(value, list):
            for inner in value:
                visit(inner)
        elif isinstance(value, str) and Path(value).is_absolute():
            found.append(value)

    visit(config)
    return [f"config.json names {path}, which others can read and do not have" for path in dict.fromkeys(found)]


@contextmanager
def _told(name: HubName) -> Iterator[None]:
    """Errors of the hub as one line that says what to do."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise WeightsError(f"{name}: there is no such revision; check the branch, tag or commit after @") from error
    except GatedRepoError as error:
        raise WeightsError(
            f"{name}: access has to be asked for; do so on its page, then log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{name}: there is no such model, or it is private; check the name, or log in with `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise MaskwrightError(
                f"{name}: not allowed; log in with `hf auth login`, with a token that may write there"
            ) from error
        raise MaskwrightError(f"{name}: the hub answered {status} ({_first_line(error)}); try again later") from error
    except HFValidationError as error:
        raise MaskwrightError(f"{name}: is no name on the Hugging Face hub ({_first_line(error)})") from error
    except ValueError as error:
        raise MaskwrightError(f"{name}: the hub refuses the card: {' '.join(str(error).split())}") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, _TRANSPORT) as error:
        raise WeightsError(
            f"{name}: the hub cannot be reached, and the model is not in the cache; check the connection"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
