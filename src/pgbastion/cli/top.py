"""``pgbastion top``: the cluster as it is, on one screen, until a key ends it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from pgbastion.cli.client import Client
from pgbastion.cli.problems import CommandError
from pgbastion.cli.status import HEADINGS, member_row

EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Screenful:
    """What is shown at one instant."""

    headline: str
    rows: Sequence[Sequence[object]]
    details: Sequence[str]


def look(client: Client) -> Screenful:
    """Ask a node for all that is shown; a silent cluster is shown as such."""
    try:
        cluster: Mapping[str, Any] = client.get("/cluster")
        explanation: Mapping[str, Any] = client.get("/cluster/explain")
    except CommandError as exc:
        return Screenful(headline=str(exc), rows=(), details=())
    first, *details = explanation["lines"]
    rows = [member_row(member) for member in cluster["members"]]
    return Screenful(headline=first, rows=rows, details=details)


class Top(App[None]):
    """The screen: state and next step, the members, and on a key the explanation."""

    CSS = "#headline { padding: 1 1; text-style: bold; } #details { padding: 1 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("e", "details", "Explanation"),
        Binding("r", "look", "Look now"),
    ]

    def __init__(self, client: Client, *, every_s: float = EVERY_S) -> None:
        super().__init__()
        self._client = client
        self._every_s = every_s
        self._explains = True

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static("asking ...", id="headline", markup=False)
        yield DataTable(id="members", cursor_type="none", show_cursor=False)
        yield Static("", id="details", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look, again and again."""
        self.query_one(DataTable).add_columns(*HEADINGS)
        self.set_interval(self._every_s, self.action_look)
        self.action_look()

    def action_look(self) -> None:
        """Ask in a thread of its own: a node that hangs must not stop the keys."""
        self.run_worker(self._ask, thread=True, exclusive=True, group="look")

    def action_details(self) -> None:
        """Show the explanation, or hide it."""
        self._explains = not self._explains
        self.query_one("#details").display = self._explains

    def _ask(self) -> None:
        seen = look(self._client)
        self.call_from_thread(self._show, seen)

    def _show(self, seen: Screenful) -> None:
        self.query_one("#headline", Static).update(seen.headline)
        self.query_one("#details", Static).update("\n".join(seen.details))
        table: DataTable[str] = self.query_one(DataTable)
        table.clear()
        for row in seen.rows:
            table.add_row(*("-" if value is None else str(value) for value in row))
