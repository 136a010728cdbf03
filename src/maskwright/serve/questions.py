"""Questions about an image, whatever it comes from: SAM's masks for prompts, and the click agent's corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from maskwright.serve.endpoints import Endpoint
from maskwright.serve.json_http import answer, body_of
from maskwright.serve.models import Models, answer_of
from maskwright.serve.schemas import ANSWER, CORRECTED, CORRECTION, PROMPTS, json_of, one_of, record, request
from maskwright.serve.wire import Runs, Size, WireError, checked_box, checked_points

IMAGE = "/api/images/{image}"


class Images(Protocol):
    """Where images come from."""

    def path(self, image: str) -> Path:
        """The file of an image. Raises WireError for an id that is not known."""
        ...

    def size(self, image: str) -> Size:
        """(width, height) as it is displayed. Raises WireError for an id that is not known, DataError where it cannot be read."""
        ...


class Questions:
    """Handlers of what SAM and the agent are asked about one image.

    Args:
        images: which ones there are.
        models: who answers.
    """

    def __init__(self, images: Images, models: Models) -> None:
        self.images, self.models = images, models

    def endpoints(self) -> Sequence[Endpoint]:
        missing = {404: "there is no such image", 422: "prompts that make no sense", 503: "SAM is not there"}
        return [
            Endpoint(
                "POST",
                f"{IMAGE}/embedding",
                self.embed,
                "Encode an image ahead of the first question",
                "Questions",
                json_of(record({"state": one_of("ready", "working")})),
                json_of(request({})),
                errors=missing | {422: "an image that cannot be read"},
                text="Answers at once; ask again until the state is ready. A question about an image encodes it where that has not "
                "been done.",
            ),
            Endpoint(
                "POST",
                f"{IMAGE}/predict",
                self.predict,
                "SAM's masks for clicks, a box or a mask",
                "Questions",
                json_of(ANSWER),
                json_of(PROMPTS),
                errors=missing,
            ),
            Endpoint(
                "POST",
                f"{IMAGE}/correct",
                self.correct,
                "The click agent's answer to clicks or a box, or a mask that it corrects",
                "Questions",
                json_of(CORRECTION),
                json_of(CORRECTED),
                errors=missing | {404: "no such image, or the server has no agent (--agent)"},
                text="Of a mask the agent keeps a click of its own only where it expects a better one; without such clicks the mask is "
                "the one that was sent. Clicks and a box it answers as it has learnt to.",
            ),
        ]

    async def embed(self, request: Request) -> Response:
        await body_of(request)
        path = self.images.path(request.path_params["image"])
        if self.models.is_loading:
            return answer({"state": "working"})
        return answer({"state": "ready" if self.models.assistant.encode(path) else "working"})

    async def predict(self, request: Request) -> Response:
        image, body = request.path_params["image"], await body_of(request)
        path, size = self.images.path(image), await run_in_threadpool(self.images.size, image)
        found = await answer_of(
            self.models.assistant.predict(
                path,
                size,
                *_prompts_of(body, size),
                several=body.get("all") is True,
                closer=body.get("closer"),
                may_lapse="seq" in body,
            )
        )
        if found is None:
            return answer({"seq": body.get("seq"), "superseded": True, "candidates": []})
        return answer({"seq": body.get("seq")} | found)

    async def correct(self, request: Request) -> Response:
        image, body = request.path_params["image"], await body_of(request)
        path, size = self.images.path(image), await run_in_threadpool(self.images.size, image)
        if self.models.agent is None:
            raise WireError("there is no click agent here; start the server with --agent RUN", 404)
        question = self.models.assistant.correct(path, size, *_prompts_of(body, size), self.models.agent)
        return answer(await answer_of(question))


def _prompts_of(
    body: Mapping[str, Any], size: Size
) -> tuple[Sequence[Sequence[float]], Sequence[float] | None, Runs | None]:
    """Points, box and mask of a question about an image of ``size``, checked."""
    box, mask = body.get("box"), body.get("mask")
    return (
        checked_points(body.get("points", []), size, "points", 3),
        None if box is None else checked_box(box, size, "box"),
        None if mask is None else Runs.of_json(mask, size),
    )
