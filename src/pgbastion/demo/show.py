"""The live demonstration: who is what, what to try, until it is interrupted."""

import time
from collections.abc import Callable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from pgbastion.bench.lab.settings import API_PORT, PRIMARY_PORT, REPLICA_PORT
from pgbastion.demo.files import NAMES, SUPERUSER
from pgbastion.demo.pulse import GAP_SHOWN_MS, Beat, Pulse
from pgbastion.demo.stage import READY_S, Picture, Stage

LOOK_EVERY_S: Final = 0.5
# As a service manager would do it, only slower, so that it can be watched.
RESTART_AFTER_S: Final = 2.0
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
        self._events: list[str] = []
        self._ended_at: dict[str, float] = {}
        self._said = ""

    def run(self) -> None:
        """Start the cluster, then show it for ever.

        Raises:
            LabError: It was not ready in time; the message has the logs' ends.
            KeyboardInterrupt: Ctrl-C, which is how it ends.
        """
        began = time.monotonic()
        self._console.print("Starting three nodes ...")
        self._stage.start()
        ready = self._stage.wait_complete(READY_S)
        self._note(f"ready {time.monotonic() - began:.1f} s after the start")
        self._stage.make_tables(str(ready.primary))
        _, proxies = self._stage.write_load
        with Pulse(proxies, self._stage.keys.password) as pulse:
            if self._console.is_terminal:
                self._draw(pulse)
            else:
                self._tell(pulse)

    def _draw(self, pulse: Pulse) -> None:
        with Live(console=self._console, auto_refresh=False, screen=False) as live:
            self._loop(pulse, lambda picture, beat: live.update(
                self._page(picture, beat), refresh=True
            ))  # fmt: skip

    def _tell(self, pulse: Pulse) -> None:
        """Print what to try once, and then a line whenever something changes."""

        def tell(picture: Picture, beat: Beat) -> None:
            del beat
            line = _line(picture)
            if line != self._said:
                if not self._said:
                    self._console.print(self._try_this(picture))
                self._console.print(line, highlight=False, soft_wrap=True)
                self._said = line

        self._loop(pulse, tell)

    def _loop(self, pulse: Pulse, show: Callable[[Picture, Beat], None]) -> None:
        known_gap_ms = 0
        epoch = 0
        while True:
            picture, beat = self._stage.look(), pulse.beat()
            if picture.primary and picture.epoch > epoch:
                if epoch:
                    self._note(
                        f"{picture.primary} became primary in epoch {picture.epoch}"
                    )
                epoch = picture.epoch
            if beat.last_gap_ms != known_gap_ms:
                known_gap_ms = beat.last_gap_ms
                self._note(f"writes stood still for {known_gap_ms} ms and go on")
            self._restart_daemons()
            show(picture, beat)
            time.sleep(LOOK_EVERY_S)

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
        self._events = [*self._events, f"{time.strftime('%H:%M:%S')}  {text}"][-6:]
        if not self._console.is_terminal:
            self._console.print(self._events[-1], highlight=False, soft_wrap=True)

    # The page

    def _page(self, picture: Picture, beat: Beat) -> RenderableType:
        return Group(
            self._table(picture),
            _writes(beat),
            Panel(Text("\n".join(self._events)), title="changes", title_align="left"),
            Panel(self._try_this(picture), title="try this", title_align="left"),
        )

    def _table(self, picture: Picture) -> Table:
        table = Table(
            title=f"pgbastion demo, profile {self._stage.profile}, "
            f"epoch {picture.epoch}",
            title_justify="left",
        )
        for heading in ("node", "address", "role", "PostgreSQL", "commits", "lag",
                        "lease left", "timeline"):  # fmt: skip
            right = heading in ("lag", "lease left", "timeline")
            table.add_column(heading, justify="right" if right else "left")
        for name in NAMES:
            table.add_row(*self._row(picture, name))
        return table

    def _row(self, picture: Picture, name: str) -> list[RenderableType]:
        health, member = picture.health.get(name), picture.member(name)
        address = self._stage.nodes[name].address
        if health is None:
            silent = Text("silent", style="bold red")
            return [name, address, silent, "", "", "", "", ""]
        role, lag = str(health["role"]), member.get("lag")
        leads = " (Raft leader)" if health.get("leader") == name else ""
        lease_ms = int(health["lease_left_ms"])
        return [
            name,
            address,
            Text(role + leads, style=_STYLES.get(role, "")),
            str(health["state"]),
            _confirms(member),
            f"{lag} B" if isinstance(lag, int) else "-",
            f"{lease_ms / 1_000:.1f} s" if lease_ms else "-",
            str(health.get("timeline") or "-"),
        ]

    def _try_this(self, picture: Picture) -> Text:
        stage = self._stage
        any_node = stage.nodes[NAMES[-1]].address
        login = f"user={SUPERUSER} password={stage.keys.password} dbname=postgres"
        token = f'-H "Authorization: Bearer $(cat {stage.keys.token_file})"'
        lines = [
            f'write      psql "host={any_node} port={PRIMARY_PORT} {login}"',
            f'read       psql "host={any_node} port={REPLICA_PORT} {login}"',
            f"API        curl http://{any_node}:{API_PORT}/cluster",
            f"reload     curl -X POST {token} http://{any_node}:{API_PORT}/reload",
        ]
        primary = picture.primary
        if primary is not None:
            node = stage.nodes[primary]
            if (postmaster := node.postmaster()) is not None:
                lines.append(
                    f"kill the primary ({primary})    kill -9 {postmaster.pid}"
                )
            if (daemon := node.daemon()) is not None:
                lines.append(f"kill only its daemon       kill -9 {daemon.pid}")
        lines += [f"logs       {stage.directory}/n*.log", "end        Ctrl-C"]
        return Text("\n".join(lines), no_wrap=True, overflow="fold")


def _writes(beat: Beat) -> Text:
    text = Text(f"one client has {beat.acknowledged} writes confirmed")
    if beat.silent_ms >= GAP_SHOWN_MS:
        text.append(f", none for {beat.silent_ms / 1_000:.1f} s", style="bold red")
    if beat.last_gap_ms:
        text.append(f"; last pause {beat.last_gap_ms} ms")
    return text


def _confirms(member: dict[str, object]) -> str:
    role = member.get("role")
    if role == "leader":
        return "takes them"
    return "confirms" if role in ("sync_standby", "quorum_standby") else "-"


def _line(picture: Picture) -> str:
    """Return who is what in one line, without what changes all the time."""
    parts = []
    for name in NAMES:
        health = picture.health.get(name)
        said = f"{health['role']}, {health['state']}" if health else "silent"
        parts.append(f"{name}: {said}")
    return f"epoch {picture.epoch}  " + "   ".join(parts)
