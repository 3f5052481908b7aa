"""A process with one engine, driven by JSON lines: ``python _engine_worker.py ARGS``.

A command carries ``id`` and ``do``; its answer carries the same ``id``. The first line
says that the engine listens, or why it cannot. The process ends with its input.
"""

import ctypes
import json
import resource
import sys
import threading
from typing import Any

from pgbastion.consensus import _engine
from pgbastion.consensus.certificates import Authority, Credentials, Files
from pgbastion.guard.page import EVIDENCE_NS, Page

FILLER = b"filler"
"""What begins with it takes room in the log, and is not kept in the state."""


def credentials_of(secret: bytes, host: str) -> Credentials:
    """Return the credentials that a node of this secret makes for itself."""
    return own_files(secret, host).load()


def own_files(secret: bytes, host: str) -> Files:
    """Return a certificate and a key that were never used before."""
    authority = Authority.of_secret(secret)
    issued = authority.issue("engine", [host], 1)
    return Files(
        certificate=issued.certificate.encode(),
        key=issued.key.encode(),
        authority=authority.certificate.encode(),
    )


class Worker:
    """One engine and what it has told so far."""

    def __init__(self, options: dict[str, Any]) -> None:
        if "file_bytes_max" in options:
            limit = options.pop("file_bytes_max")
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        self.compacts = options.pop("compacts", True)
        options["secret"] = bytes.fromhex(options["secret"])
        self.secret = options["secret"]
        self.host = options["listen"].rpartition(":")[0].strip("[]")
        if not options.pop("plain", False):
            options["credentials"] = credentials_of(options["secret"], self.host)
        self.credentials = options.get("credentials")
        self.node = _engine.Node(**options)
        self.page = Page(options["page_path"]) if options["page_path"] else None
        self.log: list[str] = []
        self.applied: set[bytes] = set()
        self.lines: list[Any] = []
        self.grants: list[int] = []
        self.waiting: dict[int, int] = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        """Take the engine's events for ever."""
        while True:
            for event in self.node.events(1_000, 256):
                self.take(event)

    def take(self, event: tuple[Any, ...]) -> None:
        """Apply an entry, answer a question, pass an outcome on."""
        match event:
            case ("committed", index, _, proposal_id, data):
                # What a leader may have lost was proposed anew under the same id.
                if proposal_id not in self.applied:
                    self.applied.add(proposal_id)
                    self.apply(data)
                self.node.applied(index)
            case ("base_wanted",) if self.compacts:
                self.compact()
            case ("snapshot", index, data):
                self.log = json.loads(data)
                self.node.applied(index)
            case ("request", request_id, member_id, kind, payload):
                self.lines.append(["request", member_id, kind])
                if request_id:
                    self.node.answer(request_id, b"re: " + payload)
            case ("granted", _, expiry_ns):
                self.grants.append(expiry_ns)
            case ("log", _, name, fields):
                self.lines.append([name, fields])
            case ("done", token, status, payload):
                self.done(token, status, payload)

    def compact(self) -> None:
        """Let the log go: what was kept of it takes its place."""
        self.node.compact(self.node.status()["applied"], json.dumps(self.log).encode())

    def apply(self, data: bytes) -> None:
        """Keep an entry; one that assigns a holder opens its lease."""
        if data and not data.startswith(FILLER):
            self.log.append(data.decode())
        if data.startswith(b"assign "):
            self.node.lease(int(data.split()[1]), 1, 7, 2_000)

    def done(self, token: int, status: str, payload: Any) -> None:
        """Pass the outcome of a command on."""
        with self.lock:
            asked = self.waiting.pop(token)
        if isinstance(payload, bytes):
            payload = payload.decode()
        say({"id": asked, "status": status, "payload": payload})

    def ask(self, asked: int, what: Any, *arguments: Any) -> None:
        """Start a command whose outcome comes as an event."""
        with self.lock:
            self.waiting[what(*arguments)] = asked

    def command(self, line: dict[str, Any]) -> None:
        """Carry out one line."""
        asked, node = line["id"], self.node
        timeout_ms = line.get("timeout_ms", 5_000)
        match line["do"]:
            case "propose":
                self.ask(asked, node.propose, line["data"].encode(), timeout_ms)
            case "read_index":
                self.ask(asked, node.read_index, timeout_ms)
            case "change":
                change = (line["op"], line["member_id"], line.get("address", ""))
                self.ask(asked, node.change, *change, timeout_ms)
            case "transfer":
                self.ask(asked, node.transfer, line["member_id"], timeout_ms)
            case "ages":
                self.ask(asked, node.ages, timeout_ms)
            case "request":
                payload = line["payload"].encode()
                self.ask(asked, node.request, line["member_id"], 7, payload, timeout_ms)
            case _:
                say({"id": asked, "payload": self.at_once(line)})

    def at_once(self, line: dict[str, Any]) -> Any:
        """Carry out what has its answer at once."""
        match line["do"]:
            case "status":
                return self.node.status() | {"cluster_id": None}
            case "log":
                return self.log
            case "has":
                return line["data"] in self.log
            case "lines":
                return self.lines
            case "grants":
                return self.grants
            case "form" | "join":
                return self.become_member(line)
            case "hold":
                return self.hold()
            case _:
                return self.act(line)

    def become_member(self, line: dict[str, Any]) -> str | None:
        """Form or join a cluster; return why that failed."""
        try:
            if line["do"] == "form":
                address = self.node.address()
                self.node.form(b"cluster", line["member_id"], address)
            else:
                peers = [(member_id, address) for member_id, address in line["peers"]]
                self.node.join(b"cluster", line["member_id"], peers)
        except _engine.EngineError as exc:
            return str(exc)
        return None

    def hold(self) -> None:
        """Renew from now on; the evidence of this instant is good for a minute."""
        assert self.page is not None
        self.page[EVIDENCE_NS] = _engine.boottime_ns()
        timings = {
            "renew_ms": 100,
            "deadline_ms": 200,
            "evidence_max_ms": 60_000,
            "asked_max_ms": 0,
        }
        self.node.hold(1, 7, **timings)

    def renew_certificate(self) -> None:
        """Show another certificate of the same authority from now on."""
        assert self.credentials is not None
        own_files(self.secret, self.host).replace(self.credentials)

    def act(self, line: dict[str, Any]) -> None:
        """Do something to this process or its log."""
        match line["do"]:
            case "compact":
                self.compact()
            case "block_interpreter":
                # PyDLL, other than CDLL, keeps the interpreter's lock in the call.
                ctypes.PyDLL(None).usleep(ctypes.c_uint(line["ms"] * 1_000))
            case "forbid_writes":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            case "renew_certificate":
                self.renew_certificate()
            case other:
                raise ValueError(other)


def say(line: dict[str, Any]) -> None:
    """Write one line to the test."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until the input ends."""
    try:
        worker = Worker(json.loads(sys.argv[1]))
    except _engine.EngineError as exc:
        say({"failed": str(exc)})
        return
    say({"address": worker.node.address()})
    for line in sys.stdin:
        worker.command(json.loads(line))


if __name__ == "__main__":
    main()
