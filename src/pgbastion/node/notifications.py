"""Tells what happens on a node: to followers, to webhooks, to an operator's program."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from pgbastion.clock import wall_text
from pgbastion.config.model import Config
from pgbastion.config.secrets import strip_line_end
from pgbastion.model.cluster import ClusterState
from pgbastion.node.callbacks import RoleCallback
from pgbastion.node.webhooks import Hook, Webhook
from pgbastion.observe.events import Event, EventKind, Events, Happening
from pgbastion.observe.logging import ROOT_NAME, fields_of, get_logger, part_of
from pgbastion.observe.state_changes import happenings

CONFIRM_S: Final = 2.0
# Who tells must not tell of itself, or a failure would go round for ever.
_OWN_PARTS: Final = frozenset({"webhooks", "callbacks", "notifications"})

log = get_logger("notifications")


class Notifications:
    """The events of one node.

    Args:
        config: The configuration.
        state: Returns the replicated state.
        caught_up: Waits until all that was committed is applied; tells whether it is.
    """

    def __init__(
        self,
        config: Config,
        *,
        state: Callable[[], ClusterState],
        caught_up: Callable[[float], Awaitable[int | None]],
    ) -> None:
        self._config = config
        self._state = state
        self._caught_up = caught_up
        self.events = Events(
            config.node.name, now=wall_text, first=int(time.time()) * 1_000
        )
        self._told: ClusterState | None = None
        self._role: str | None = None
        self._rivals: tuple[str, ...] = ()
        self._hooks: dict[Hook, asyncio.Task[None]] = {}
        self._takers: dict[Hook, Webhook] = {}
        self._callback = RoleCallback(
            program=lambda: self._config.callbacks.on_role_change,
            limit_s=lambda: self._config.callbacks.timeout / 1_000,
            cluster=lambda: self._state().cluster_name,
        )
        self.events.on_event(self._hand_out)

    def note_state(self) -> None:
        """Tell what the newest command of the log changed."""
        if self._told is None:
            return
        before, self._told = self._told, self._state()
        if before is not self._told:
            self.events.note(happenings(before, self._told))

    def note_role(self, role: str, rivals: tuple[str, ...]) -> None:
        """Take what this node is now, and who else says that it takes writes."""
        self._callback.note(role)
        if role != self._role:
            fields = {"role": role, "before": self._role}
            self._role = role
            self._note(EventKind.ROLE, "node_role", fields)
        if rivals != self._rivals:
            what = "begins" if rivals else "ends"
            self._note(EventKind.SPLIT_BRAIN, what, {"rivals": list(rivals)})
            self._rivals = rivals

    def _note(self, kind: EventKind, what: str, fields: Mapping[str, object]) -> None:
        self.events.note([Happening(kind=kind, what=what, fields=fields)])

    async def run(self) -> None:
        """Tell until cancelled."""
        handler = _Warnings(asyncio.get_running_loop(), self._note)
        logging.getLogger(ROOT_NAME).addHandler(handler)
        self.reconfigure(self._config)
        callback = asyncio.create_task(self._callback.run())
        try:
            # What the log held before this daemon's start was told then.
            while await self._caught_up(CONFIRM_S) is None:
                pass
            self._told = self._state()
            await asyncio.Event().wait()
        finally:
            logging.getLogger(ROOT_NAME).removeHandler(handler)
            tasks = [callback, *self._hooks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def reconfigure(self, config: Config) -> None:
        """Send to the addresses that are configured now."""
        self._config = config
        wanted = {_hook(*entry) for entry in config.events.webhooks}
        for gone in set(self._hooks) - wanted:
            self._hooks.pop(gone).cancel()
            del self._takers[gone]
        for new in wanted - set(self._hooks):
            webhook = Webhook(new, config.raft.data_dir)
            self._takers[new] = webhook
            self._hooks[new] = asyncio.create_task(webhook.run())

    def _hand_out(self, event: Event) -> None:
        for webhook in self._takers.values():
            webhook.take(event)


class _Warnings(logging.Handler):
    """Takes what the log warns of; it may be called in any thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        note: Callable[[EventKind, str, Mapping[str, object]], None],
    ) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        """Make an event of a warning."""
        part = part_of(record)
        if part in _OWN_PARTS or self._loop.is_closed():
            return
        fields = {"part": part, "level": record.levelname.lower(), **fields_of(record)}
        shown = {
            name: value if isinstance(value, bool | int | float) else str(value)[:500]
            for name, value in fields.items()
        }
        self._loop.call_soon_threadsafe(
            self._note, EventKind.WARNING, record.getMessage(), shown
        )


def _hook(url: str, secret_file: Path | None) -> Hook:
    secret = None
    if secret_file is not None:
        try:
            secret = strip_line_end(secret_file.read_bytes())
        except OSError as exc:
            log.warning("webhook_secret_not_read", url=url, error=str(exc))
    return Hook(url=url, secret=secret)
