"""The addresses of a dataset that is labelled: the page, images, labels, proposals, trainings."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from maskwright.serve import tiles
from maskwright.serve.annotations import Conflict
from maskwright.serve.jobs import Jobs
from maskwright.serve.json_http import answer, body_of, whole_of
from maskwright.serve.label_conversion import masks_by_category
from maskwright.serve.models import Models, answer_of
from maskwright.serve.pages import page
from maskwright.serve.project import Project
from maskwright.serve.questions import Questions
from maskwright.serve.safety import MAX_BODY
from maskwright.serve.wire import MAX_OBJECTS, MAX_POINTS, WireError, checked_id
from maskwright.version import __version__

PAGE = 1_000
"""Images of one piece of the list."""

GIVEN = "given"
"""The id of the run that the server was started with."""


class Labelling:
    """Handlers of a dataset's addresses.

    Args:
        project: what is labelled.
        models: SAM, and what proposes and corrects besides what is trained here.
        jobs: trainings.
    """

    def __init__(self, project: Project, models: Models, jobs: Jobs) -> None:
        self.project, self.models, self.jobs = project, models, jobs
        self.pictures, self.questions = models.pictures, Questions(project, models)

    def page_routes(self) -> Sequence[Route]:
        return [Route("/", self.page)]

    async def page(self, request: Request) -> Response:
        return page("index.html")

    # -------------------------------------------------------------------------------------------------- dataset

    async def show_project(self, request: Request) -> Response:
        jobs = await run_in_threadpool(self.jobs.all)
        runs = [
            {"id": job["id"], "recipe": job["recipe"], "score": job["score"]} for job in reversed(jobs) if job["run"]
        ]
        given = [{"id": GIVEN, "recipe": self.models.recipe, "score": None}] if self.models.run else []
        agent = {"id": GIVEN, "recipe": "clicks", "score": None} if self.models.agent else None
        limits = {"objects": MAX_OBJECTS, "points": MAX_POINTS, "body": MAX_BODY}
        about = {"sam": self.models.describe(), "runs": given + runs, "agent": agent}
        summary = await run_in_threadpool(self.project.summary)
        return answer(summary | about | {"limits": limits, "version": __version__})

    async def add_category(self, request: Request) -> Response:
        body = await body_of(request)
        number = await run_in_threadpool(self.project.add_category, body.get("name"))
        return answer(self.project.summary()["categories"][number])

    async def list_images(self, request: Request) -> Response:
        start, limit = whole_of(request, "cursor", 0), min(PAGE, whole_of(request, "limit", PAGE))
        ids = self.project.ids
        some = ids[start : start + max(1, limit)]
        after = start + len(some)
        images = [self.project.listed(image) for image in some]
        return answer({"images": images, "next": after if after < len(ids) else None, "total": len(ids)})

    async def show_image(self, request: Request) -> Response:
        image = self._image(request)
        size = await run_in_threadpool(self.project.size, image)
        return answer({"id": image, "name": self.project.path(image).name} | tiles.describe(size))

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
        return answer(found.as_json())

    async def change(self, request: Request) -> Response:
        image, body = self._image(request), await body_of(request)
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
            return answer({"error": str(conflict), "theirs": theirs, "conflicts": conflict.targets}, 409)
        return answer({"rev": after.rev, "applied": applied, "annotations": after.as_json()})

    async def propose(self, request: Request) -> Response:
        image, body = self._image(request), await body_of(request)
        path, source = self.project.path(image), body.get("from")
        if source == "run":
            name = body.get("run")
            run = self.models.run if name == GIVEN and self.models.run else self.jobs.run(str(name))
            future = self.models.assistant.propose(path, run, self.project.categories)
        elif source == "example":
            example = self.project.sample(str(body.get("image"))).id
            size = await run_in_threadpool(self.project.size, example)
            objects = self.project.annotations(example).objects
            masks = await run_in_threadpool(masks_by_category, objects, size, len(self.project.categories))
            if not masks:
                raise WireError("the example has no mask to carry over; draw one there first")
            size = await run_in_threadpool(self.project.size, image)
            future = self.models.assistant.carry_over(self.project.path(example), masks, path, size)
        else:
            raise WireError("from must be 'run' or 'example'")
        return answer({"objects": await answer_of(future)})

    # -------------------------------------------------------------------------------------------------- trainings

    async def list_jobs(self, request: Request) -> Response:
        return answer({"jobs": await run_in_threadpool(self.jobs.all)})

    async def start_job(self, request: Request) -> Response:
        body = await body_of(request)
        return answer(await run_in_threadpool(self.jobs.start, body.get("recipe"), body.get("minutes")))

    async def stop_job(self, request: Request) -> Response:
        await body_of(request)
        return answer(await run_in_threadpool(self.jobs.stop, request.path_params["job"]))

    async def job_log(self, request: Request) -> Response:
        start = whole_of(request, "from", 0)
        return answer(await run_in_threadpool(self.jobs.log, request.path_params["job"], start))

    def _image(self, request: Request) -> str:
        """The id of the image that an address names. Raises WireError where there is none."""
        return self.project.sample(request.path_params["image"]).id
