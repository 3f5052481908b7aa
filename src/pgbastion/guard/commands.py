"""What a client may ask of the guard, checked and handed to the part that does it."""

import signal

from pgbastion.guard.addresses import Removals
from pgbastion.guard.kill import Identity
from pgbastion.guard.latches import Latches, Refused
from pgbastion.guard.launch import Launch
from pgbastion.guard.supervisor import KILL_DEADLINE_MS, Supervisor
from pgbastion.guard.watchdog import Watchdog
from pgbastion.guard.wire import VERSION, Connection
from pgbastion.guard.writer_lock import WriterLock
from pgbastion.platform.interface import Account

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pgbastion.guard.wire import Message

SIGNALS = {
    "INT": signal.SIGINT,
    "QUIT": signal.SIGQUIT,
    "TERM": signal.SIGTERM,
    "HUP": signal.SIGHUP,
}
# Whoever may connect may look and may end PostgreSQL; the rest is the writer's.
OPEN_TO_ALL = ("hello", "status", "kill", "quit")


class Commands:
    """Answers requests.

    Args:
        supervisor: Does what concerns PostgreSQL.
        latches: Does what concerns epochs.
        lock: Knows the writer.
        removals: The addresses that go when the lease ends.
        watchdog: Is armed before anything becomes a primary.
        watch: Called with the writer's new pidfd.
    """

    __slots__ = (
        "_latches",
        "_lock",
        "_removals",
        "_supervisor",
        "_watch",
        "_watchdog",
        "wants_quit",
    )

    def __init__(
        self,
        supervisor: Supervisor,
        latches: Latches,
        lock: WriterLock,
        removals: Removals,
        watchdog: Watchdog,
        *,
        watch: "Callable[[int], None]",
    ) -> None:
        self._supervisor = supervisor
        self._removals = removals
        self._watchdog = watchdog
        self._latches = latches
        self._lock = lock
        self._watch = watch
        self.wants_quit = False

    def answer(self, request: "Message", client: Connection, now_ns: int) -> "Message":
        """Do what ``request`` asks and return the answer without id and status."""
        try:
            do = self._found(request, client)
            return {"ok": True, **do(request, client, now_ns)}
        except Refused as exc:
            return {"ok": False, "reason": exc.reason, "message": str(exc)}
        except (ValueError, OSError) as exc:
            return {"ok": False, "reason": "failed", "message": str(exc)}

    def _found(
        self, request: "Message", client: Connection
    ) -> "Callable[[Message, Connection, int], Message]":
        if request.get("v") != VERSION:
            raise Refused("version", f"this guard speaks version {VERSION}")
        name = _text(request, "do")
        do: Callable[[Message, Connection, int], Message] | None = getattr(
            self, f"_do_{name}", None
        )
        if do is None:
            raise Refused("unknown", f"{name}: no such command")
        if name not in OPEN_TO_ALL and client.pid != self._lock.holder:
            raise Refused("writer", f"the writer is {self._lock.holder}")
        return do

    def _do_hello(self, request: "Message", client: Connection, _: int) -> "Message":
        client.wants_events = True
        if not _flag(request, "write"):
            return {"generation": None}
        before = self._lock.pidfd
        if not self._lock.acquire(client.pid, client.pidfd()):
            return {"generation": None}
        if self._lock.pidfd != before:
            self._watch(self._lock.pidfd)
        return {"generation": self._lock.generation}

    def _do_status(self, _r: "Message", _c: Connection, _n: int) -> "Message":
        return {}

    def _do_start(self, request: "Message", _: Connection, now_ns: int) -> "Message":
        launch = Launch(
            _texts(request, "argv"),
            user=Account(
                _text(request, "user"),
                uid=_number(request, "uid"),
                gid=_number(request, "gid"),
                home=_text(request, "home"),
            ),
            pgdata=_text(request, "pgdata"),
            log=_text(request, "log"),
            environment=_mapping(request, "environment"),
        )
        is_primary = _flag(request, "primary")
        epoch = _number(request, "epoch") if is_primary else 0
        if is_primary:
            # It was disarmed when nothing ran.
            self._watchdog.start(now_ns)
        pid = self._supervisor.start(
            launch, primary=is_primary, epoch=epoch, now_ns=now_ns
        )
        return {"pid": pid}

    def _do_adopt(self, request: "Message", _c: Connection, _n: int) -> "Message":
        self._supervisor.adopt(
            Identity(_number(request, "pid"), _number(request, "start")),
            pgdata=_text(request, "pgdata"),
            primary=_flag(request, "primary"),
        )
        return {}

    def _do_signal(self, request: "Message", _c: Connection, _n: int) -> "Message":
        number = SIGNALS.get(_text(request, "signal"))
        if number is None:
            raise Refused("invalid", f"signal: must be one of {', '.join(SIGNALS)}")
        self._supervisor.signal(number)
        return {}

    def _do_kill(self, request: "Message", _: Connection, now_ns: int) -> "Message":
        deadline_ms = KILL_DEADLINE_MS
        if "deadline_ms" in request:
            deadline_ms = _number(request, "deadline_ms")
        if "pgdata" not in request:
            self._supervisor.kill(now_ns, deadline_ms)
            return {}
        self._supervisor.kill_directory(
            _text(request, "pgdata"),
            _number(request, "uid"),
            now_ns=now_ns,
            deadline_ms=deadline_ms,
        )
        return {}

    def _do_arm(self, request: "Message", _: Connection, now_ns: int) -> "Message":
        epoch = _number(request, "epoch")
        self._watchdog.start(now_ns)
        self._supervisor.arm(epoch, now_ns)
        return {}

    def _do_watchdog(self, request: "Message", _c: Connection, _n: int) -> "Message":
        device = request.get("device")
        self._watchdog.configure(
            _text(request, "device") if device else "",
            timeout_s=_number(request, "timeout_s"),
            least_s=_number(request, "least_s"),
            required=_flag(request, "required"),
        )
        return {}

    def _do_disarm(self, _r: "Message", _c: Connection, _n: int) -> "Message":
        self._supervisor.disarm()
        return {}

    def _do_end_epoch(self, request: "Message", _c: Connection, _n: int) -> "Message":
        self._supervisor.end_epoch(_number(request, "epoch"))
        return {}

    def _do_asked(self, request: "Message", _: Connection, now_ns: int) -> "Message":
        if _flag(request, "on"):
            self._supervisor.ask(_number(request, "epoch"), now_ns)
        else:
            self._latches.answer()
        return {}

    def _do_removals(self, request: "Message", _c: Connection, _n: int) -> "Message":
        self._removals.set(_texts(request, "addresses"))
        return {}

    def _do_keep(self, request: "Message", _c: Connection, _n: int) -> "Message":
        self._removals.keep(_text(request, "address"), _number(request, "until_ns"))
        return {}

    def _do_quit(self, _r: "Message", _c: Connection, _n: int) -> "Message":
        if not self._supervisor.is_idle:
            raise Refused("running", "PostgreSQL runs or is not stopped")
        self.wants_quit = True
        return {}


def _text(request: "Message", key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused("invalid", f"{key}: must be a text")
    return value


def _texts(request: "Message", key: str) -> list[str]:
    value = request.get(key)
    if not isinstance(value, list):
        raise Refused("invalid", f"{key}: must be a list of texts")
    if not all(isinstance(item, str) and "\0" not in item for item in value):
        raise Refused("invalid", f"{key}: must be a list of texts")
    return value


def _mapping(request: "Message", key: str) -> dict[str, str]:
    value = request.get(key, {})
    if not isinstance(value, dict):
        raise Refused("invalid", f"{key}: must map names to texts")
    for name, text in value.items():
        if not isinstance(text, str) or "\0" in name + text or "=" in name:
            raise Refused("invalid", f"{key}: must map names to texts")
    return value


def _number(request: "Message", key: str) -> int:
    value = request.get(key)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 0 <= value < 1 << 62
    ):
        raise Refused("invalid", f"{key}: must be a number")
    return value


def _flag(request: "Message", key: str) -> bool:
    value = request.get(key)
    if not isinstance(value, bool):
        raise Refused("invalid", f"{key}: must be true or false")
    return value
