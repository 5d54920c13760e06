"""A stand-in for the Hugging Face hub on this machine: the requests by which a model is uploaded and downloaded."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"
LARGE = ".safetensors"  # files that take the way of Git LFS


class Hub:
    """The repositories of a hub.

    Attributes:
        address: of the server.
        files: {repository: {path: bytes}}.
        private: {repository: whether it is private}.
        requests: `METHOD path` of each request.
    """

    def __init__(self, address: str):
        self.address = address
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.large: dict[str, bytes] = {}

    def sha(self, name: str) -> str:
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files[name].items())
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.large[value["oid"]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, code: int, value: Any = None, data: bytes | None = None, **headers: str) -> None:
        body = json.dumps(value).encode() if data is None else data
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json" if data is None else "application/octet-stream")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _missing(self, name: str) -> bool:
        there = name in self.hub.files and (self._allowed or not self.hub.private[name])
        if not there:
            self._answer(401 if not self._allowed else 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        return not there

    def do_POST(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._allowed and not path.endswith("validate-yaml"):
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in hub.files
            hub.files.setdefault(name, {})
            hub.private.setdefault(name, asked.get("visibility") == "private")
            self._answer(409 if known else 200, {"url": f"{hub.address}/{name}", "error": "You already created this model repo"})
        elif path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            self._answer(200 if content.startswith("---\n") else 400, {"warnings": [], "errors": []})
        elif "/preupload/" in path:
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": f, "uploadMode": "lfs" if f.endswith(LARGE) else "regular", "shouldIgnore": False} for f in files]
            self._answer(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            ways = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}", "header": {}}}} for o in objects]
            self._answer(200, {"transfer": "basic", "objects": ways})
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            hub.commit(name, [json.loads(line) for line in body.splitlines()])
            sha = hub.sha(name)
            self._answer(200, {"success": True, "commitUrl": f"{hub.address}/{name}/commit/{sha}", "commitOid": sha})
        else:
            self._answer(404, {"error": "no such request"})

    def do_PUT(self) -> None:
        self.hub.requests.append(f"PUT {self.path}")
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        oid = self.path.rpartition("/")[2]
        right = hashlib.sha256(data).hexdigest() == oid
        if right:
            self.hub.large[oid] = data
        self._answer(200 if right else 400, {})

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if path.startswith("/api/models/"):
            name = "/".join(path.split("/")[3:5])
            if self._missing(name):
                return
            files = hub.files[name]
            if "/tree/" in path:
                rows = [{"type": "file", "path": f, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for f, d in files.items()]
                self._answer(200, rows)
            else:
                self._answer(200, {"id": name, "sha": hub.sha(name), "siblings": [{"rfilename": f} for f in files]})
            return
        name, _, rest = path.lstrip("/").partition("/resolve/")
        if self._missing(name):
            return
        file = rest.partition("/")[2]
        data = hub.files[name].get(file)
        sha = hub.sha(name)
        if data is None:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        else:
            self._answer(200, data=data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=sha)

    do_HEAD = do_GET


@contextmanager
def standing_in() -> Iterator[Hub]:
    """Yield a hub that serves on loopback within the context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
