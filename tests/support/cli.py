"""The command line as a user runs it, and an API that answers it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

COMMAND = [sys.executable, "-c", "from pgbastion.cli.main import main; main()"]
MEMBERS = [
    {
        "name": "n1",
        "role": "leader",
        "state": "running",
        "host": "127.32.0.1",
        "port": 5442,
        "timeline": 3,
        "lag": None,
    },
    {
        "name": "n2",
        "role": "quorum_standby",
        "state": "streaming",
        "host": "127.32.0.2",
        "port": 5442,
        "timeline": 3,
        "lag": 1024,
    },
]


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PGBASTION_") or name == "PGBASTION_TEST_RUN"
    }
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**own, "COLUMNS": "100", **environment},
    )


class Api(BaseHTTPRequestHandler):
    """Answers as a node does."""

    cluster: ClassVar[dict[str, Any]] = {}
    answers: ClassVar[dict[str, Any]] = {}
    """By path: the answer, or a pair of its status (None: none comes) and it."""
    changed: ClassVar[dict[str, Any]] = {}
    """The same of what is to be changed, where that differs."""
    tokens: ClassVar[list[str | None]] = []
    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    """What was to be changed."""

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        health = {"node": "n1", "role": "primary", "state": "running", "paused": False}
        self._answer({"/health": health, "/cluster": self.cluster})

    def do_POST(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        length = int(self.headers["Content-Length"] or 0)
        self.asked.append((self.path, json.loads(self.rfile.read(length) or b"{}")))
        self._answer({}, **self.changed)

    do_PATCH = do_PUT = do_DELETE = do_POST  # noqa: N815 - as http.server wants it

    def _answer(self, usual: dict[str, Any], **first: Any) -> None:
        found = {**usual, **self.answers, **first}.get(self.path)
        status, content = found if isinstance(found, tuple) else (200, found)
        if status is None:
            # It took the request and says nothing to it.
            self.close_connection = True
            return
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def answering(host: str = "127.32.0.1", port: int = 0) -> Iterator[str]:
    """Serve the API and give its address."""
    Api.cluster = {"scope": "lab", "members": MEMBERS, "primary": "n1", "epoch": 7}
    Api.answers, Api.changed = {}, {}
    Api.tokens.clear()
    Api.asked.clear()
    server = ThreadingHTTPServer((host, port), Api)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
