"""The server's addresses: the page, and the JSON API that it calls. ``docs/label.md`` describes both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from maskwright.errors import MaskwrightError
from maskwright.serve import tiles
from maskwright.serve.annotations import Annotations, Conflict
from maskwright.serve.jobs import Jobs
from maskwright.serve.project import Project
from maskwright.serve.safety import MAX_BODY, Guard, TooLarge
from maskwright.serve.tiles import Pictures
from maskwright.serve.wire import (
    MAX_OBJECTS,
    MAX_POINTS,
    Runs,
    WireError,
    checked_box,
    checked_id,
    checked_points,
)
from maskwright.version import __version__

if TYPE_CHECKING:
    from maskwright.serve.assistant import Assistant

STATIC = Path(__file__).parent / "static"

PAGE = 1_000
"""Images of one piece of the list."""

PATIENCE = 120.0
"""Seconds that an answer of the networks may take, encoding included."""


class Server:
    """The handlers of all addresses; see ``routes``.

    Args:
        project: what is labelled.
        pictures: of its images.
        jobs: trainings.
        sam: what :meth:`maskwright.Sam.load` takes.
        run: a trained run that proposes masks, besides those that are trained here.
    """

    def __init__(self, project: Project, pictures: Pictures, jobs: Jobs, sam: str, run: Path | None = None) -> None:
        self.project, self.pictures, self.jobs, self.sam, self.given = project, pictures, jobs, sam, run
        self._assistant: Assistant | None = None

    def load_assistant(self) -> None:
        """Get SAM ready; the page is served meanwhile, as PyTorch alone takes seconds to import."""
        from maskwright.serve.assistant import Assistant

        self._assistant = Assistant(self.sam, self.pictures)

    @property
    def assistant(self) -> Assistant:
        """Raises WireError while it is being loaded."""
        if self._assistant is None:
            raise WireError("SAM is still loading; try again in a few seconds", 503)
        return self._assistant

    def close(self) -> None:
        if self._assistant is not None:
            self._assistant.close()

    def routes(self) -> list[Route | Mount]:
        image = "/api/images/{image}"
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/api/project", self.show_project),
            Route("/api/categories", self.add_category, methods=["POST"]),
            Route("/api/images", self.list_images),
            Route(image, self.show_image),
            Route(f"{image}/tiles/{{level:int}}/{{column:int}}/{{row:int}}", self.tile),
            Route(f"{image}/thumbnail", self.thumbnail),
            Route(f"{image}/annotations", self.annotations),
            Route(f"{image}/operations", self.change, methods=["POST"]),
            Route(f"{image}/embedding", self.embed, methods=["POST"]),
            Route(f"{image}/predict", self.predict, methods=["POST"]),
            Route(f"{image}/propose", self.propose, methods=["POST"]),
            Route("/api/jobs", self.list_jobs),
            Route("/api/jobs", self.start_job, methods=["POST"]),
            Route("/api/jobs/{job}/stop", self.stop_job, methods=["POST"]),
            Route("/api/jobs/{job}/log", self.job_log),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

    # -------------------------------------------------------------------------------------------------- the page

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-store"})

    async def health(self, request: Request) -> Response:
        """Whether the server is up; says nothing else, and needs no token."""
        return JSONResponse({"status": "UP"})

    # -------------------------------------------------------------------------------------------------- dataset

    async def show_project(self, request: Request) -> Response:
        runs = [
            {"id": job["id"], "recipe": job["recipe"], "score": job["score"]} for job in self.jobs.all() if job["run"]
        ]
        given = [{"id": "given", "recipe": "", "score": None}] if self.given else []
        ready = self._assistant
        sam = {"id": self.sam, "state": ready.state if ready else "loading", "message": ready.message if ready else ""}
        limits = {"objects": MAX_OBJECTS, "points": MAX_POINTS, "body": MAX_BODY}
        summary = await run_in_threadpool(self.project.summary)
        return _answer(
            summary | {"sam": sam, "runs": given + runs, "agent": None, "limits": limits, "version": __version__}
        )

    async def add_category(self, request: Request) -> Response:
        body = await _body(request)
        number = await run_in_threadpool(self.project.add_category, body.get("name"))
        return _answer(self.project.summary()["categories"][number])

    async def list_images(self, request: Request) -> Response:
        start, limit = _whole(request, "cursor", 0), min(PAGE, _whole(request, "limit", PAGE))
        ids = self.project.ids
        some = ids[start : start + max(1, limit)]
        after = start + len(some)
        images = [self.project.listed(image) for image in some]
        return _answer({"images": images, "next": after if after < len(ids) else None, "total": len(ids)})

    async def show_image(self, request: Request) -> Response:
        image = self._image(request)
        size = await run_in_threadpool(self.project.size, image)
        return _answer({"id": image, "name": self.project.path(image).name} | tiles.describe(size))

    async def tile(self, request: Request) -> Response:
        path, place = self.project.path(self._image(request)), request.path_params
        content, kind = await run_in_threadpool(self.pictures.tile, path, place["level"], place["column"], place["row"])
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    async def thumbnail(self, request: Request) -> Response:
        content, kind = await run_in_threadpool(self.pictures.thumbnail, self.project.path(self._image(request)))
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    # -------------------------------------------------------------------------------------------------- labels

    async def annotations(self, request: Request) -> Response:
        found = await run_in_threadpool(self.project.annotations, self._image(request))
        return _answer(found.as_json())

    async def change(self, request: Request) -> Response:
        image, body = self._image(request), await _body(request)
        base, operations = body.get("base_rev"), body.get("operations")
        if base is None:
            raise WireError("base_rev is missing: say which revision you have seen", 428)
        if not isinstance(base, int) or isinstance(base, bool) or base < 0 or not isinstance(operations, list):
            raise WireError("base_rev must be a whole number, and operations a list")
        client = checked_id(body.get("client_id"))
        try:
            after, applied = await run_in_threadpool(self.project.apply, image, operations, base, client)
        except Conflict as conflict:
            theirs = self.project.annotations(image).as_json()
            told = {"error": str(conflict), "theirs": theirs, "conflicts": conflict.targets}
            return _answer(told, 409)
        return _answer({"rev": after.rev, "applied": applied, "annotations": after.as_json()})

    # -------------------------------------------------------------------------------------------------- networks

    async def embed(self, request: Request) -> Response:
        path = self.project.path(self._image(request))
        if self._assistant is None:
            return _answer({"state": "working"})
        if not self.assistant.is_encoded(path):
            self.assistant.encode(path)
        return _answer({"state": "ready" if self.assistant.is_encoded(path) else "working"})

    async def predict(self, request: Request) -> Response:
        image, body = self._image(request), await _body(request)
        size = await run_in_threadpool(self.project.size, image)
        points = checked_points(body.get("points", []), size, "points", 3)
        box, mask = body.get("box"), body.get("mask")
        box = None if box is None else checked_box(box, size, "box")
        runs = None if mask is None else Runs.of_json(mask, size)
        found = await _patient(
            self.assistant.predict(
                self.project.path(image),
                size,
                points,
                box,
                runs,
                several=body.get("all") is True,
                closer=body.get("closer"),
            )
        )
        if found is None:
            return _answer({"seq": body.get("seq"), "superseded": True, "candidates": []})
        return _answer({"seq": body.get("seq")} | found)

    async def propose(self, request: Request) -> Response:
        image, body = self._image(request), await _body(request)
        source = body.get("from")
        if source == "run":
            name = body.get("run")
            model = self.given if name == "given" and self.given else self.jobs.run(str(name))
            future = self.assistant.propose(self.project.path(image), model, self.project.categories)
        elif source == "example":
            example = str(body.get("image"))
            masks = await run_in_threadpool(self._masks, example)
            size = await run_in_threadpool(self.project.size, image)
            path = self.project.path(image)
            future = self.assistant.carry_over(self.project.path(example), masks, path, size)
        else:
            raise WireError("from must be 'run' or 'example'")
        return _answer({"objects": await _patient(future)})

    def _masks(self, example: str) -> dict[int, np.ndarray]:
        """The masks of an example by category."""
        made, (width, height) = self.project.annotations(example), self.project.size(example)
        masks: dict[int, np.ndarray] = {}
        for each in _mask_objects(made, len(self.project.categories)):
            canvas = masks.setdefault(each["category"], np.zeros((height, width), bool))
            Runs(tuple(each["mask"]["box"]), tuple(each["mask"]["counts"])).paint(canvas, True)
        if not masks:
            raise WireError("the example has no mask to carry over; draw one there first")
        return masks

    # -------------------------------------------------------------------------------------------------- trainings

    async def list_jobs(self, request: Request) -> Response:
        return _answer({"jobs": await run_in_threadpool(self.jobs.all)})

    async def start_job(self, request: Request) -> Response:
        body = await _body(request)
        return _answer(await run_in_threadpool(self.jobs.start, body.get("recipe"), body.get("minutes")))

    async def stop_job(self, request: Request) -> Response:
        await _body(request)
        return _answer(await run_in_threadpool(self.jobs.stop, request.path_params["job"]))

    async def job_log(self, request: Request) -> Response:
        start = _whole(request, "from", 0)
        return _answer(await run_in_threadpool(self.jobs.log, request.path_params["job"], start))

    def _image(self, request: Request) -> str:
        """The id of the image that an address names. Raises WireError where there is none."""
        return self.project.sample(request.path_params["image"]).id


def make_app(server: Server, token: str, port: int, hosts: frozenset[str]) -> Starlette:
    """The ASGI application, guarded (see :mod:`maskwright.serve.safety`)."""
    return Starlette(
        routes=server.routes(),
        middleware=[Middleware(Guard, token=token, port=port, hosts=hosts)],
        exception_handlers={
            WireError: _wrong,
            MaskwrightError: _failed,
            TooLarge: _too_large,
            ClientDisconnect: _gone,
            404: _unknown,
            405: _unknown,
        },
    )


def _mask_objects(made: Annotations, categories: int) -> list[dict[str, Any]]:
    return [each for each in made.objects if each["kind"] == "mask" and 0 < each["category"] < categories]


async def _patient(future: Any) -> Any:
    """What the networks answer, or that they take too long."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)
    except TimeoutError:
        raise WireError("the answer took too long; try again", 503) from None


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request carries."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise WireError("the body is not JSON", 400) from None
    if not isinstance(body, dict):
        raise WireError("the body must be a JSON object", 400)
    return body


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise WireError(f"{name} must be a whole number", 400)
    return int(text)


def _answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(content, status, {"cache-control": "no-store", **(headers or {})})


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _wrong(request: Request, error: Exception) -> Response:
    assert isinstance(error, WireError)
    return _answer({"error": str(error)}, error.status)


async def _failed(request: Request, error: Exception) -> Response:
    return _answer({"error": str(error)}, 422)


async def _too_large(request: Request, error: Exception) -> Response:
    # The rest of the body is not waited for.
    return _answer({"error": f"a request may have {MAX_BODY // 2**20} MiB"}, 413, {"connection": "close"})


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


async def _unknown(request: Request, error: Exception) -> Response:
    return _answer({"error": "there is nothing at this address"}, getattr(error, "status_code", 404))
