"""As much of the Hugging Face hub as a model needs: repositories with branches, commits, large files, access, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_letmein"


@dataclass
class Repo:
    """Files of each commit, and the commit of each branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def add(self, branch: str, files: dict[str, bytes], message: str) -> str:
        content = repr(sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items()))
        commit = hashlib.sha1(f"{content}{len(self.messages)}".encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        self.messages.append(message)
        return commit

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class FakeHub:
    """A server in a thread. ``repos`` may be read and changed; ``requests`` are the paths that were asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        api = "/api/models/{owner}/{name}"
        app = Starlette(
            routes=[
                Route("/api/validate-yaml", self.validate, methods=["POST"]),
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route(f"{api}/branch/{{branch:path}}", self.branch, methods=["POST"]),
                Route(f"{api}/preupload/{{revision:path}}", self.preupload, methods=["POST"]),
                Route(f"{api}/commit/{{revision:path}}", self.commit, methods=["POST"]),
                Route(f"{api}/revision/{{revision:path}}", self.info),
                Route(f"{api}/tree/{{revision:path}}", self.tree),
                Route(api, self.info),
                Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/large/{oid}", self.put, methods=["PUT"]),
                Route("/{owner}/{name}/resolve/{revision}/{file:path}", self.resolve),
            ]
        )
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> FakeHub:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    def _repo(self, request: Request) -> tuple[Repo | None, str]:
        self.requests.append(request.url.path)
        name = "/".join(request.path_params[part] for part in ("owner", "name"))
        repo = self.repos.get(name)
        return (None if repo and repo.private and not _is_known(request) else repo), name

    async def create(self, request: Request) -> Response:
        body = await request.json()
        name = f"{body['organization']}/{body['name']}" if body.get("organization") else f"me/{body['name']}"
        if not _is_known(request):
            return _refused(401)
        if name in self.repos:
            return JSONResponse({"url": f"{self.url}/{name}"}, 409)
        self.repos[name] = Repo(private=bool(body.get("private")) or body.get("visibility") == "private")
        self.repos[name].add("main", {".gitattributes": b""}, "initial commit")
        return JSONResponse({"url": f"{self.url}/{name}"})

    async def validate(self, request: Request) -> Response:
        refused = "license: nonsense" in (await request.json())["content"]
        errors = [{"message": '"license" must be one of [apache-2.0, ...]'}] if refused else []
        return JSONResponse({"warnings": [], "errors": errors}, 400 if refused else 200)

    async def branch(self, request: Request) -> Response:
        repo, _ = self._repo(request)
        if repo is None:
            return _missing("RepoNotFound")
        name = request.path_params["branch"]
        if name in repo.branches:
            return Response(status_code=409)
        repo.branches[name] = repo.branches["main"]
        return Response(status_code=200)

    async def preupload(self, request: Request) -> Response:
        self._repo(request)
        files = (await request.json())["files"]
        modes = {True: "lfs", False: "regular"}
        told = [
            {"path": one["path"], "uploadMode": modes[one["path"].endswith(".safetensors")], "shouldIgnore": False}
            for one in files
        ]
        return JSONResponse({"files": told})

    async def batch(self, request: Request) -> Response:
        self._repo(request)
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}
            for one in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def put(self, request: Request) -> Response:
        self.large[request.path_params["oid"]] = await request.body()
        return Response()

    async def commit(self, request: Request) -> Response:
        repo, name = self._repo(request)
        if repo is None or not _is_known(request):
            return _refused(403)
        branch = request.path_params["revision"]
        files, message = dict(repo.commits[repo.branches[branch]]), ""
        for line in (await request.body()).decode().splitlines():
            entry = json.loads(line)
            value: dict[str, Any] = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.add(branch, files, message)
        return JSONResponse({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})

    async def info(self, request: Request) -> Response:
        repo, name = self._repo(request)
        if repo is None:
            return _missing("RepoNotFound")
        commit = repo.commit_of(request.path_params.get("revision", "main"))
        if commit is None:
            return _missing("RevisionNotFound")
        siblings = [{"rfilename": file} for file in sorted(repo.commits[commit])]
        return JSONResponse({"id": name, "sha": commit, "siblings": siblings, "private": repo.private, "tags": []})

    async def tree(self, request: Request) -> Response:
        repo, _ = self._repo(request)
        commit = repo.commit_of(request.path_params["revision"]) if repo else None
        if repo is None or commit is None:
            return _missing("RepoNotFound" if repo is None else "RevisionNotFound")
        rows = [
            {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for file, data in sorted(repo.commits[commit].items())
        ]
        return JSONResponse(rows)

    async def resolve(self, request: Request) -> Response:
        repo, _ = self._repo(request)
        if repo is None:
            return _missing("RepoNotFound")
        commit = repo.commit_of(request.path_params["revision"])
        if commit is None:
            return _missing("RevisionNotFound")
        data = repo.commits[commit].get(request.path_params["file"])
        if data is None:
            return _missing("EntryNotFound")
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(data))})
        return Response(data, headers=headers)


def _is_known(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def _refused(status: int) -> Response:
    return JSONResponse({"error": "Invalid credentials"}, status)


def _missing(code: str) -> Response:
    return JSONResponse({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})
