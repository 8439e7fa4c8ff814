"""An endpoint on the loopback interface that speaks the protocol of the Hugging Face Hub, as far as models are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

__all__ = ["Hub", "Repository", "Request", "point_at", "serving"]

LARGE = (".safetensors", ".bin", ".pt", ".ckpt")
"""Files that the Hub keeps elsewhere: it redirects to a store of another origin, which must not get the token."""


class Request(NamedTuple):
    """What somebody asked for."""

    method: str
    path: str
    token: str | None
    stored: bool


@dataclass
class Repository:
    """A repository of a model.

    Attributes:
        commits: The files of each commit.
        refs: The commit of each branch and tag; ``main`` is the newest unless it is given.
        gated: It needs access.
        private: It needs the token.
    """

    commits: dict[str, Mapping[str, bytes]]
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str | None:
        refs = {"main": list(self.commits)[-1], **self.refs}
        return refs.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Hub:
    """The Hub.

    Attributes:
        token: The only token that it takes.
        repositories: What it holds.
        endpoint: Where it listens.
        store: Where the store of large files listens.
        stored: What is in the store, by name.
        requests: What was asked for.
        status: What everything is answered with, if not 0.
        message: What it says to that.
        drops: How many files are still cut off in the middle.
    """

    token: str = "hf_secretsecretsecret"  # noqa: S105 - of nothing real
    repositories: dict[str, Repository] = field(default_factory=dict)
    endpoint: str = ""
    store: str = ""
    stored: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    status: int = 0
    message: str = ""
    drops: int = 0

    def paths(self, method: str) -> list[str]:
        return [request.path for request in self.requests if request.method == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    stored: bool

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        self.serve()

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def serve(self) -> None:
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, token, self.stored))
        if self.stored:
            self.content(self.hub.stored[path.removeprefix("/")], {})
        elif self.hub.status:
            self.answer(self.hub.status, {"X-Error-Message": self.hub.message})
        elif token not in (None, self.hub.token):
            self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif path.startswith("/api/models/"):
            self.api(path.removeprefix("/api/models/"), token)
        else:
            self.resolve(path.removeprefix("/"), token)

    def find(self, name: str, token: str | None) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and token is None):
            self.answer(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        return found

    def api(self, path: str, token: str | None) -> None:
        owner, name, what, revision, *_ = *path.split("/", 3), "", ""
        repository = self.find(f"{owner}/{name}", token)
        if repository is None:
            return
        if what == "refs":
            refs = [{"name": ref, "ref": ref, "targetCommit": commit} for ref, commit in repository.refs.items()]
            self.json({"branches": refs, "converts": [], "tags": []})
            return
        commit = repository.commit(revision or "main")
        if commit is None:
            self.answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        else:
            self.json(
                {
                    "id": f"{owner}/{name}",
                    "sha": commit,
                    "siblings": [{"rfilename": f} for f in repository.commits[commit]],
                }
            )

    def resolve(self, path: str, token: str | None) -> None:
        owner, name, _, rest = [*path.split("/", 3), "", "", ""][:4]
        repository = self.find(f"{owner}/{name}", token)
        if repository is None:
            return
        known = [*repository.commits, "main", *repository.refs]
        revision = next((known for known in known if rest.startswith(f"{known}/")), "")
        commit = repository.commit(revision)
        if commit is None:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            return
        content = repository.commits[commit].get(rest.removeprefix(f"{revision}/"))
        headers = {"X-Repo-Commit": commit}
        if repository.gated:
            self.answer(403, {**headers, "X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif content is None:
            self.answer(404, {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif rest.endswith(LARGE):
            name = digest(content)
            self.hub.stored[name] = content
            linked = {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": str(len(content))}
            self.answer(302, {**headers, **linked, "Location": f"{self.hub.store}/{name}"})
        else:
            self.content(content, {**headers, "ETag": f'"{digest(content)}"'})

    def json(self, content: object) -> None:
        self.content(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def content(self, content: bytes, headers: Mapping[str, str]) -> None:
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        ranged = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.send_response(206 if start else 200)
        for name, value in {**headers, **ranged, "Content-Length": str(len(content) - start)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        if self.stored and self.hub.drops:
            self.hub.drops -= 1
            content = content[: start + (len(content) - start) // 2]
            self.close_connection = True
        self.wfile.write(content[start:])

    def answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes huggingface_hub, which reads the environment when it is imported, ask another endpoint."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextlib.contextmanager
def serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this process asks as long as the context is open.

    Args:
        cache: The folder of the cache; the file of the token is looked for beside it.
        monkeypatch: Sets what huggingface_hub knows from the environment.
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.parent / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub = Hub()
    with contextlib.ExitStack() as stack:
        addresses = []
        for stored in (False, True):
            handler = type("Handler", (_Handler,), {"hub": hub, "stored": stored})
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            addresses.append(f"http://127.0.0.1:{server.server_address[1]}")
        hub.endpoint, hub.store = addresses
        point_at(hub.endpoint, monkeypatch)
        # The client of an earlier test knows other proxies.
        huggingface_hub.close_session()
        stack.callback(huggingface_hub.close_session)
        yield hub
