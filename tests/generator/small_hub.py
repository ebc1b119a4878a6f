"""A hub on 127.0.0.1 that speaks as much of the hub's HTTP as a download needs, and fails on order.

`repositories` maps a name to its files; `cut_after` breaks connections, `gated` asks for a token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_test"
LARGE = ".safetensors"


class SmallHub:
    """Serve until `close`. Every request is kept in `requests` as (method, path, Range header)."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.licences: dict[str, dict[str, str]] = {}
        self.gated: set[str] = set()
        self.lies: dict[str, str] = {}  # file name → the sha256 that the listing claims
        self.cut_after: dict[str, list[int]] = {}  # file name → bytes until each next break
        self.requests: list[tuple[str, str, str | None]] = []
        self.commit = COMMIT
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_folder(self, repository: str, folder: Path, under: str = "") -> None:
        files = self.repositories.setdefault(repository, {})
        for file in sorted(folder.iterdir()):
            files[f"{under}/{file.name}" if under else file.name] = file.read_bytes()

    def fetched(self, part: str = "/resolve/") -> list[str]:
        """The files that were asked for, in order."""
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for _, path, _ in self.requests
            if part in path and "/resolve/" in path
        ]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.split("?")[0]
        self.requests.append((request.command, path, request.headers.get("Range")))
        listing = re.fullmatch(r"/api/models/(.+?/.+?)/revision/(.+)", path)
        file = re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", path)
        match = listing or file
        if match is None or match[1] not in self.repositories:
            return _send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        allowed = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if match[1] in self.gated and not allowed:
            return _send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        if listing:
            return _send(request, 200, json.dumps(self._listing(match[1])).encode())
        return self._send_file(request, match[3], self.repositories[match[1]][match[3]])

    def _listing(self, repository: str) -> dict[str, Any]:
        siblings = []
        for name, content in self.repositories[repository].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            git = hashlib.sha1(b"blob %d\0" % len(content) + content)
            entry["blobId"] = git.hexdigest()
            if name.endswith(LARGE):
                sha256 = self.lies.get(name) or hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        card = self.licences.get(repository, {"license": "other", "license_name": "small-hub"})
        return {"id": repository, "sha": self.commit, "siblings": siblings, "cardData": card}

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, content: bytes) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
        body, headers = content[start:], {}
        if request.headers.get("Range"):
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cuts = self.cut_after.get(name)
        cut = cuts.pop(0) if cuts else None
        _send(request, 206 if headers else 200, body, headers, cut=cut)


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    cut: int | None = None,
) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body[:cut])
    request.close_connection = request.close_connection or cut is not None
