"""The ASGI application: addresses, their description, and the guard around both."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from maskwright.serve.endpoints import BINARY, Endpoint, openapi
from maskwright.serve.json_http import ERRORS, answer
from maskwright.serve.label_studio import LabelStudio
from maskwright.serve.labelling import Labelling
from maskwright.serve.labelling_endpoints import labelling_endpoints
from maskwright.serve.pages import STATIC, page
from maskwright.serve.predicting import UPLOADS, Predicting
from maskwright.serve.safety import Guard
from maskwright.serve.schemas import json_of


@dataclass(frozen=True)
class Access:
    """Who is answered, see :class:`maskwright.serve.safety.Guard`."""

    token: str
    port: int
    hosts: Container[str]


def labelling_app(labelling: Labelling, label_studio: LabelStudio, access: Access) -> Starlette:
    """The labelling page, its API, and Label Studio's protocol."""
    endpoints = [*labelling_endpoints(labelling), *label_studio.endpoints()]
    return _app(endpoints, labelling.page_routes(), "maskwright label", access, ())


def predicting_app(predicting: Predicting, label_studio: LabelStudio, access: Access) -> Starlette:
    """The API for images that are sent, and Label Studio's protocol."""
    endpoints = [*predicting.endpoints(), *label_studio.endpoints()]
    return _app(endpoints, predicting.page_routes(), "maskwright serve", access, UPLOADS)


class Description:
    """Handlers of the API's description.

    Args:
        endpoints: all that it tells of, besides itself.
        title: of the description.
    """

    def __init__(self, endpoints: Sequence[Endpoint], title: str) -> None:
        self.all = [*endpoints, *self.endpoints()]
        self.document = openapi(self.all, title)

    def endpoints(self) -> Sequence[Endpoint]:
        path, document, page = "/api/openapi.json", json_of({"type": "object"}), {"text/html": BINARY}
        return [
            Endpoint("GET", path, self.show, "This description, OpenAPI 3.1", "Description", document),
            Endpoint("GET", "/api/docs", self.page, "This description as a page", "Description", page),
        ]

    async def show(self, request: Request) -> Response:
        return answer(self.document)

    async def page(self, request: Request) -> Response:
        return page("docs.html")


def _app(
    endpoints: Sequence[Endpoint], pages: Sequence[BaseRoute], title: str, access: Access, uploads: Container[str]
) -> Starlette:
    described = Description(endpoints, title)
    routes = [*pages, *(each.route() for each in described.all), Mount("/static", StaticFiles(directory=STATIC))]
    guard = Middleware(Guard, token=access.token, port=access.port, hosts=access.hosts, uploads=uploads)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=ERRORS)
