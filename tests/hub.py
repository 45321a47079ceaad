"""A stand-in for the Hugging Face Hub, on this machine: repositories of files, with commits, branches and tags."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    url: str = ""
    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)  # files by repository and commit
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # commits by repository and branch or tag
    asked: list[str] = field(default_factory=list)
    status: int = 200  # another one is the answer to everything

    def push(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files, all there are then; the commit's hash."""
        commit = hashlib.sha1(repr((repository, sorted(files.items()))).encode()).hexdigest()
        self.commits[repository, commit] = files
        self.names[repository, branch] = commit
        return commit


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that listens on a free port until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.status != 200:
            self._answer(self.hub.status)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^/]+))?", path):
            self._about(match[1], match[2] or "main", tree="/tree/" in path)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._answer(404)

    do_HEAD = do_GET  # noqa: N815

    def _commit(self, repository: str, revision: str) -> str | None:
        if not any(known == repository for known, _ in self.hub.commits):
            self._answer(404, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = self.hub.names.get((repository, revision), revision)
        if (repository, commit) not in self.hub.commits:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _about(self, repository: str, revision: str, *, tree: bool) -> None:
        if commit := self._commit(repository, revision):
            files = self.hub.commits[repository, commit]
            entries: Any = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            about = {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(entries if tree else about).encode())

    def _file(self, repository: str, revision: str, name: str) -> None:
        if commit := self._commit(repository, revision):
            data = self.hub.commits[repository, commit].get(name)
            if data is None:
                self._answer(404, {"X-Error-Code": "EntryNotFound"})
            else:
                self._answer(200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data)

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Nothing: what was asked for stands in the hub."""
