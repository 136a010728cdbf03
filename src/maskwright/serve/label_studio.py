"""Label Studio's protocol for machine learning backends: it connects to this server, and asks for masks of its own tasks.

What a person draws with a smart tool comes with the question and is answered by SAM; a task without it is answered by the trained run.
Nothing is fetched from addresses: a task's image is looked for in folders of this machine, or is part of the task itself.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from maskwright.data.formats.label_studio import names_of_file
from maskwright.data.image_files import IMAGE_SUFFIXES
from maskwright.data.images import image_size
from maskwright.errors import MaskwrightError
from maskwright.serve.endpoints import Endpoint
from maskwright.serve.json_http import answer, body_of
from maskwright.serve.label_studio_tasks import Interface, read_drawn, read_interface, region_of
from maskwright.serve.models import Models, answer_of
from maskwright.serve.schemas import ERROR, NUMBER, TEXT, a_list, json_of, or_null, record
from maskwright.serve.schemas import request as request_of
from maskwright.serve.sent_images import SentImages
from maskwright.serve.wire import Runs, Size, WireError

MAX_TASKS = 500
"""Tasks of one question."""


MAX_LINK = 2_000
"""Characters of a link to an image."""


def _told(handler: Callable[[LabelStudio, Request], Awaitable[Response]]) -> Any:
    """Also say in the terminal what was refused: Label Studio shows its users the status and leaves the sentence out."""

    @wraps(handler)
    async def told(self: LabelStudio, request: Request) -> Response:
        try:
            return await handler(self, request)
        except (MaskwrightError, WireError) as error:
            _warn(error)
            raise

    return told


def _warn(error: Exception) -> None:
    logging.getLogger(__name__).warning("Label Studio: %s", " ".join(str(error).split()))


class LabelStudio:
    """Handlers of the protocol's addresses.

    Args:
        models: SAM, and the run that answers tasks without prompts.
        folders: where images of tasks are looked for.
        sent: keeps the images that are part of a task.
    """

    def __init__(self, models: Models, folders: Sequence[Path], sent: SentImages) -> None:
        self.models, self.sent = models, sent
        self.folders = [folder.resolve() for folder in folders]

    async def health(self, request: Request) -> Response:
        """Whether the server is up; says nothing else, and needs no token."""
        return answer({"status": "UP", "model_class": "maskwright"})

    @_told
    async def set_up(self, request: Request) -> Response:
        body = await body_of(request)
        if body.get("schema"):
            await run_in_threadpool(read_interface, body["schema"])
        return answer({"model_version": await self._version()})

    @_told
    async def versions(self, request: Request) -> Response:
        return answer({"versions": [await self._version()]})

    async def webhook(self, request: Request) -> Response:
        """Label Studio tells of annotations, and asks for trainings: nothing is done, and the answer says so."""
        await body_of(request)
        return answer({"status": "ignored"}, 201)

    @_told
    async def predict_tasks(self, request: Request) -> Response:
        body = await body_of(request)
        tasks, params = body.get("tasks"), body.get("params") or {}
        if not isinstance(tasks, list) or not isinstance(params, dict) or not all(map(_is_task, tasks)):
            raise WireError("tasks must be a list of tasks with data, and params an object")
        if len(tasks) > MAX_TASKS:
            raise WireError(f"at most {MAX_TASKS} tasks at once, not {len(tasks)}")
        interface, context = await run_in_threadpool(read_interface, body.get("label_config")), params.get("context")
        version = await self._version()
        if context is None:
            found = [await self._proposed(task, interface) for task in tasks]
        elif len(tasks) == 1 and isinstance(context, dict):
            found = [await self._asked(tasks[0], context, interface)]
        else:
            raise WireError("params.context must be an object, about one task")
        return answer({"results": [each if "error" in each else each | {"model_version": version} for each in found]})

    async def _asked(self, task: dict[str, Any], context: dict[str, Any], interface: Interface) -> dict[str, Any]:
        """SAM's mask for what was drawn."""
        if not context.get("result"):
            return {"result": [], "score": 0.0}
        path, size = await self._image(task, interface)
        drawn = await run_in_threadpool(read_drawn, context["result"], interface, size)
        assistant = await self.models.loaded()
        question = assistant.predict(path, size, drawn.points, drawn.box, drawn.mask, may_lapse=False)
        best = (await answer_of(question) or {"candidates": []})["candidates"][:1]
        return await run_in_threadpool(_prediction, [(each, drawn.label) for each in best], size, interface)

    async def _proposed(self, task: dict[str, Any], interface: Interface) -> dict[str, Any]:
        """What the trained run sees, or why the image cannot be read."""
        if self.models.run is None:
            raise WireError("only a trained run answers tasks in which nothing was drawn: start the server with one")
        try:
            path, size = await self._image(task, interface)
        except (MaskwrightError, WireError) as error:
            # The other tasks are answered all the same, and Label Studio's own log has the sentence.
            _warn(error)
            return {"error": str(error)}
        categories = ["background", *(name for name in interface.labels if name != "background")]
        assistant = await self.models.loaded()
        objects = await answer_of(assistant.propose(path, self.models.run, categories if interface.labels else None))
        names = categories if interface.labels else self.models.categories
        named = [(each, interface.region_label(names[each["category"]])) for each in objects]
        return await run_in_threadpool(_prediction, named, size, interface)

    async def _version(self) -> str:
        """Changes with the weights that answer: Label Studio asks again for what an older version answered."""
        assistant = await self.models.loaded()
        return f"maskwright-{await answer_of(assistant.version_of(self.models.run))}"

    # -------------------------------------------------------------------------------------------------- images

    async def _image(self, task: dict[str, Any], interface: Interface) -> tuple[Path, Size]:
        """The file of a task's image, and its (width, height)."""
        link = task["data"].get(interface.key)
        if not isinstance(link, str) or not link:
            raise WireError(f"the task has no image in data.{interface.key}")
        if link.startswith("data:"):
            image = await run_in_threadpool(self.sent.add, _content_of(link))
            return self.sent.path(image), self.sent.size(image)
        if len(link) > MAX_LINK:
            raise WireError(f"the link to the image has more than {MAX_LINK} characters")
        path = await run_in_threadpool(self.find, link)
        return path, await run_in_threadpool(image_size, path)

    def find(self, link: str) -> Path:
        """The file in one of the folders that a link means: by its path, by the end of it, or by its name.

        Raises:
            WireError: it is not there.
        """
        # A link with a query names its file there; the end of the whole link would be the file's name alone.
        names = [name for name in names_of_file(link) if name != link or "?" not in link]
        parts = [PurePosixPath(name).parts for name in names]
        ends = sorted((each[start:] for each in parts for start in range(len(each))), key=len, reverse=True)
        for folder in self.folders:
            for end in ends:
                path = _inside(folder, "/".join(end))
                if path is not None:
                    return path
        where = " or ".join(map(str, self.folders))
        name = PurePosixPath(names[-1]).name if names else link
        looked = f"is not in {where}" if where else "cannot be looked for"
        raise WireError(
            f"image {name[:200]!r} {looked}, and nothing is fetched from addresses: start the server with --images FOLDER, the folder of "
            "the files that the tasks name (of Label Studio's own uploads: its media/upload)"
        )

    # -------------------------------------------------------------------------------------------------- description

    def endpoints(self) -> Sequence[Endpoint]:
        group = "Label Studio"
        region = {"id": TEXT, "type": TEXT, "from_name": TEXT, "to_name": TEXT, "value": {"type": "object"}}
        result = record({**region, "score": NUMBER}, more=True)
        prediction = record({"result": a_list(result), "score": NUMBER, "model_version": TEXT})
        drawn = record({"type": TEXT, "value": {"type": "object"}}, more=True)
        context = or_null(request_of({"result": a_list(drawn)}))
        task = request_of({}, {"data": {"type": "object"}})
        question = request_of(
            {"params": request_of({"context": context})},
            {"tasks": a_list(task, maxItems=MAX_TASKS), "label_config": TEXT},
        )
        asked = {
            422: "an interface without BrushLabels, an image that is not there, regions that are no prompts",
            503: "SAM is not there",
        }
        return [
            Endpoint(
                "GET",
                "/health",
                self.health,
                "Whether the server is up",
                group,
                json_of(record({"status": {"const": "UP"}, "model_class": TEXT})),
                is_open=True,
            ),
            Endpoint(
                "POST",
                "/setup",
                self.set_up,
                "A project connects",
                group,
                json_of(record({"model_version": TEXT})),
                json_of(request_of({"schema": TEXT})),
                errors=asked,
            ),
            Endpoint(
                "POST",
                "/predict",
                self.predict_tasks,
                "Masks for tasks, as brush regions",
                group,
                json_of(record({"results": a_list({"anyOf": [prediction, ERROR]})})),
                json_of(question),
                errors=asked,
                text="With params.context.result, key points, rectangles or brushes of one task, SAM answers; without, the trained run. "
                "Of whole tasks, one whose image cannot be read has an error in place of a result.",
            ),
            Endpoint(
                "GET",
                "/versions",
                self.versions,
                "Which weights answer",
                group,
                json_of(record({"versions": a_list(TEXT)})),
                errors={503: "SAM is not there"},
            ),
            Endpoint(
                "POST",
                "/webhook",
                self.webhook,
                "Taken and ignored",
                group,
                json_of(record({"status": {"const": "ignored"}})),
                json_of(request_of({})),
                status=201,
            ),
        ]


def _is_task(task: Any) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict)


def _inside(folder: Path, name: str) -> Path | None:
    """An image file in a folder; None for anything else, and for what only a link or ``..`` leads to."""
    if "\0" in name or PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, ValueError, RuntimeError):
        return None  # a name that this system cannot have


def _content_of(link: str) -> bytes:
    """The bytes of a ``data:`` address."""
    head, comma, content = link.partition(",")
    if not comma or not head.endswith(";base64"):
        raise WireError("an image that is part of a task must be data:image/...;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise WireError("the image that is part of the task is no base64") from None


def _prediction(found: Sequence[tuple[dict[str, Any], str]], size: Size, interface: Interface) -> dict[str, Any]:
    """Objects or candidates, each with its label, as a prediction of Label Studio's."""
    regions = []
    for each, label in found:
        runs = Runs.of_checked(each["mask"])
        regions.append(region_of(runs.whole(size) > 0, label, each["score"], interface))
    scores = [region["score"] for region in regions]
    return {"result": regions, "score": sum(scores) / len(scores) if scores else 0.0}
