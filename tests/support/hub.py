"""A model hub on loopback: as much of the hub's protocol as pushing and pulling a small model takes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

TOKEN = "hf_of_a_test"
COMMIT = "c" * 40


@dataclass
class Hub:
    """What was asked and kept.

    Attributes:
        endpoint: its address.
        files: by model, content by name.
        private: by model, as it was created.
        requests: methods and paths.
    """

    endpoint: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def environment(self, **others: str) -> dict[str, str]:
        """For a process that is to use this hub."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", **others}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    """A hub until the end of the block. It gives to anybody, and takes from who has `TOKEN`."""
    kept = Hub()
    handler = type("Handler", (_Handler,), {"hub": kept})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    kept.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._asked()
        if "/resolve/" in path:
            repo, _, rest = path.lstrip("/").partition("/resolve/")
            return self._file(repo, rest.partition("/")[2])
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if repo not in self.hub.files:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        files = self.hub.files[repo]
        if "/tree/" in path:
            return self._json([self._entry(name, content) for name, content in files.items()])
        return self._json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    def do_POST(self) -> None:
        path, body = self._asked(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if path.endswith("/paths-info/main") or "/paths-info/" in path:
            asked = json.loads(body)["paths"]
            files = self.hub.files.get(repo, {})
            return self._json([self._entry(name, files[name]) for name in asked if name in files])
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid credentials")
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.hub.files.setdefault(repo, {})
            self.hub.private.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
            return self._json({"url": f"{self.hub.endpoint}/{repo}"})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]}
            )
        if "/commit/" in path:
            for line in body.splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    self.hub.files[repo][each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            return self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})
        return self._refuse(404, "", path)

    def _asked(self) -> str:
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        return path

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def _file(self, repo: str, name: str) -> None:
        content = self.hub.files.get(repo, {}).get(name)
        if content is None:
            return self._refuse(404, "EntryNotFound" if repo in self.hub.files else "RepoNotFound", name)
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        start = 0
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else len(content)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            content = content[start:stop]
        return self._send(206 if wanted else 200, content, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
