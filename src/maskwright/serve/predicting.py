"""The addresses of a server without a dataset: images are sent, and SAM and the models are asked about them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from maskwright.serve.endpoints import BINARY, Endpoint
from maskwright.serve.json_http import answer, body_of
from maskwright.serve.models import Models, answer_of
from maskwright.serve.pages import page
from maskwright.serve.questions import IMAGE, Questions
from maskwright.serve.safety import MAX_BODY, MAX_UPLOAD
from maskwright.serve.schemas import TEXT, WHOLE, a_list, json_of, or_null, record, ref, request
from maskwright.serve.sent_images import SentImages
from maskwright.serve.wire import MAX_POINTS, WireError
from maskwright.version import __version__

UPLOADS = frozenset({"/api/images"})
"""Where images are sent to as they are."""


class Predicting:
    """Handlers of the addresses.

    Args:
        images: those that were sent.
        models: who answers.
    """

    def __init__(self, images: SentImages, models: Models) -> None:
        self.images, self.models = images, models
        self.questions = Questions(images, models)

    def page_routes(self) -> Sequence[Route]:
        return [Route("/", self.page)]

    async def page(self, request: Request) -> Response:
        """There is nothing to label: the address leads to the description of the API."""
        return page("docs.html")

    async def show_server(self, request: Request) -> Response:
        run, agent = self.models.run, self.models.agent
        proposes = None if run is None else {"recipe": self.models.recipe, "categories": self.models.categories}
        limits = {"points": MAX_POINTS, "body": MAX_BODY, "upload": MAX_UPLOAD}
        about = {"sam": self.models.describe(), "run": proposes, "agent": agent is not None}
        return answer(about | {"limits": limits, "version": __version__})

    async def receive(self, request: Request) -> Response:
        image = await self.images.receive(request.stream())
        return self._described(image)

    async def show_image(self, request: Request) -> Response:
        return self._described(request.path_params["image"])

    async def propose(self, request: Request) -> Response:
        path = self.images.path(request.path_params["image"])
        await body_of(request)
        if self.models.run is None:
            raise WireError("there is no trained run here; start the server with one: maskwright serve RUN", 404)
        objects = await answer_of(self.models.assistant.propose(path, self.models.run, None))
        return answer({"objects": objects, "categories": self.models.categories})

    def _described(self, image: str) -> Response:
        width, height = self.images.size(image)
        return answer({"id": image, "width": width, "height": height})

    def endpoints(self) -> Sequence[Endpoint]:
        image = json_of(record({"id": TEXT, "width": WHOLE, "height": WHOLE}))
        limits = record({"points": WHOLE, "body": WHOLE, "upload": WHOLE})
        run = record({"recipe": TEXT, "categories": a_list(TEXT)})
        server = {
            "sam": ref("Sam"),
            "run": or_null(run),
            "agent": {"type": "boolean"},
            "limits": limits,
            "version": TEXT,
        }
        proposals = record({"objects": a_list(ref("Proposal")), "categories": a_list(TEXT)})
        missing = {404: "there is no such image, or it was dropped for newer ones"}
        return [
            Endpoint("GET", "/api/server", self.show_server, "The models", "Server", json_of(record(server))),
            Endpoint(
                "POST",
                "/api/images",
                self.receive,
                "Send an image",
                "Images",
                image,
                {"image/*": BINARY, "application/octet-stream": BINARY},
                errors={422: "no image that can be read", 503: "too many at once"},
                text="The body is the image file itself. The id is a hash of it: what is sent twice is kept once. The images that have "
                "not been used for longest are dropped when there are many.",
            ),
            Endpoint("GET", IMAGE, self.show_image, "An image that was sent", "Images", image, errors=missing),
            *self.questions.endpoints(),
            Endpoint(
                "POST",
                f"{IMAGE}/propose",
                self.propose,
                "Objects that the trained run sees",
                "Questions",
                json_of(proposals),
                json_of(request({})),
                errors={404: "no such image, or the server has no run", 422: "the image cannot be read"},
            ),
        ]
