"""The live demonstration: who is what, what to try, until it is interrupted."""

import time
from collections.abc import Callable
from typing import Final

import psycopg
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT, REPLICA_PORT
from pgbastion.demo.files import NAMES, SUPERUSER
from pgbastion.demo.pulse import GAP_SHOWN_MS, Beat, Pulse
from pgbastion.demo.stage import READY_S, Picture, Stage

LOOK_EVERY_S: Final = 0.5
# As a service manager would do it, only slower, so that it can be watched.
RESTART_AFTER_S: Final = 2.0
_EVENTS_MAX: Final = 8
# Of the page, beside the changes.
_OTHER_LINES: Final = 20
# Health's words, in the order in which colours are of use.
_STYLES: Final = {
    "primary": "bold green",
    "standby": "cyan",
    "starting": "yellow",
    "fenced": "bold red",
}


class Show:
    """Draws the state of a stage until it is interrupted."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._began = time.monotonic()
        self._events: list[str] = []
        self._ended_at: dict[str, float] = {}
        self._pulse: Pulse | None = None
        self._complete = False
        self._epoch = 0
        self._gap_ms = 0
        self._said = ""
        self._tried = False

    def run(self) -> None:
        """Start the cluster and show it until a signal comes.

        Raises:
            LabError: There was no primary in time.
            KeyboardInterrupt: Ctrl-C, which is how it ends.
        """
        self._stage.start()
        try:
            if self._console.is_terminal:
                self._draw()
            else:
                self._loop(self._tell)
        finally:
            if self._pulse is not None:
                self._pulse.stop()

    def _draw(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            self._loop(lambda picture: live.update(self._page(picture), refresh=True))

    def _tell(self, picture: Picture) -> None:
        """Print a line whenever something changes, and once what to try."""
        if self._complete and not self._tried:
            self._tried = True
            self._print(self._try_this(picture))
        line = _line(picture)
        if line == self._said:
            return
        self._print(line)
        self._said = line

    def _loop(self, show: Callable[[Picture], None]) -> None:
        while True:
            picture = self._stage.look()
            if self._pulse is None:
                self._begin_pulse(picture)
            else:
                self._restart_daemons()
            self._note_changes(picture)
            show(picture)
            time.sleep(LOOK_EVERY_S)

    def _begin_pulse(self, picture: Picture) -> None:
        """Write as soon as somebody takes writes."""
        if picture.primary is None:
            self._stage.expect_start(within_s=READY_S - self._age_s())
            return
        try:
            self._stage.make_tables(picture.primary)
        except psycopg.Error:
            return  # not ready for clients yet, or not any more: the next look tells
        _, proxies = self._stage.write_load
        self._pulse = Pulse(proxies, self._stage.keys.password)
        self._pulse.start()
        self._note(f"writes are accepted, {self._age_s():.1f} s after the start")

    def _note_changes(self, picture: Picture) -> None:
        if picture.primary and picture.epoch > self._epoch:
            self._note(f"{picture.primary} is primary of epoch {picture.epoch}")
            self._epoch = picture.epoch
        if picture.complete and not self._complete:
            self._note(f"both standbys confirm, {self._age_s():.1f} s after the start")
            self._complete = True
        gap_ms = self._pulse.beat().last_gap_ms if self._pulse else 0
        if gap_ms != self._gap_ms and self._complete:
            self._note(f"writes stood still for {gap_ms} ms and go on")
        self._gap_ms = gap_ms

    def _age_s(self) -> float:
        return time.monotonic() - self._began

    def _restart_daemons(self) -> None:
        for node in self._stage.nodes.values():
            if node.daemon() is not None:
                self._ended_at.pop(node.name, None)
                continue
            ended = self._ended_at.setdefault(node.name, time.monotonic())
            if time.monotonic() - ended >= RESTART_AFTER_S:
                node.start()
                self._note(f"{node.name}'s daemon had ended and was started again")

    def _note(self, text: str) -> None:
        self._events = [*self._events, f"{time.strftime('%H:%M:%S')}  {text}"][
            -_EVENTS_MAX:
        ]
        if not self._console.is_terminal:
            self._print(self._events[-1])

    def _print(self, what: RenderableType) -> None:
        # A command that is to be copied is never broken into two lines.
        self._console.print(what, highlight=False, soft_wrap=True)

    # The page

    def _page(self, picture: Picture) -> RenderableType:
        beat = self._pulse.beat() if self._pulse else None
        return Group(
            self._table(picture),
            _writes(beat) if beat else Text("no writes are accepted yet"),
            Rule("changes", align="left"),
            Text("\n".join(self._events[-self._events_shown() :])),
            Rule("try this", align="left"),
            self._try_this(picture),
        )

    def _events_shown(self) -> int:
        """Return how many changes fit: what is below the terminal's end is cut off."""
        return min(max(self._console.height - _OTHER_LINES, 1), _EVENTS_MAX)

    def _table(self, picture: Picture) -> Table:
        table = Table(
            title=f"pgbastion demo, profile {self._stage.profile}, "
            f"epoch {picture.epoch}",
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        for heading in ("node", "address", "role", "PostgreSQL", "lag", "lease"):
            right = heading in ("lag", "lease")
            table.add_column(heading, justify="right" if right else "left")
        for name in NAMES:
            table.add_row(*self._row(picture, name))
        return table

    def _row(self, picture: Picture, name: str) -> list[RenderableType]:
        health, member = picture.health.get(name), picture.member(name)
        address = self._stage.nodes[name].address
        if health is None:
            return [name, address, Text("silent", style="bold red"), "", "", ""]
        role, lag = str(health["role"]), member.get("lag")
        leads = ", Raft leader" if health.get("leader") == name else ""
        lease_ms = int(health["lease_left_ms"])
        return [
            name,
            address,
            Text(f"{_described(role, member)}{leads}", style=_STYLES.get(role, "")),
            str(health["state"]),
            f"{lag} B" if isinstance(lag, int) else "-",
            f"{lease_ms / 1_000:.1f} s" if lease_ms else "-",
        ]

    def _try_this(self, picture: Picture) -> Text:
        stage = self._stage
        node = stage.nodes[NAMES[-1]].address
        # Short enough for a narrow terminal: what is wrapped cannot be copied.
        server = f"postgresql://{SUPERUSER}:{stage.keys.password}@{node}"
        lines = {
            "write": f"psql {server}:{PRIMARY_PORT}",
            "read": f"psql {server}:{REPLICA_PORT}",
            "dashboard": f"http://{node}:{API_PORT}/ui",
            "API": f"curl http://{node}:{API_PORT}/cluster",
            "API token": str(stage.keys.token_file),
            "logs": f"{stage.directory}/n*.log",
            "end": "Ctrl-C",
        }
        primary = stage.nodes.get(picture.primary or "")
        if primary is not None:
            if (postmaster := primary.postmaster()) is not None:
                lines["kill the primary"] = f"kill -9 {postmaster.pid}"
            if (daemon := primary.daemon()) is not None:
                lines["kill its daemon"] = f"kill -9 {daemon.pid}"
        text = "\n".join(f"{what:<18}{how}" for what, how in lines.items())
        return Text(text, overflow="fold")


def _writes(beat: Beat) -> Text:
    text = Text(f"one client has {beat.acknowledged} writes confirmed")
    if beat.silent_ms >= GAP_SHOWN_MS:
        text.append(f", none for {beat.silent_ms / 1_000:.1f} s", style="bold red")
    if beat.last_gap_ms:
        text.append(f"; last pause {beat.last_gap_ms} ms")
    return text


def _described(role: str, member: dict[str, object]) -> str:
    """Return a role, for a standby with whether commits wait for it."""
    confirms = member.get("role") in ("sync_standby", "quorum_standby")
    return f"{role}, confirms" if role == "standby" and confirms else role


def _line(picture: Picture) -> str:
    """Return who is what in one line, without what changes all the time."""
    parts = []
    for name in NAMES:
        health = picture.health.get(name)
        said = f"{health['role']}, {health['state']}" if health else "silent"
        parts.append(f"{name}: {said}")
    return f"epoch {picture.epoch}  " + "   ".join(parts)
