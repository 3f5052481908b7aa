"""Whether the primary on this node takes clients."""

from pgbastion.control.node_sync import has_caught_up
from pgbastion.model.views import NodeView


class ClientAdmission:
    """Remembers which server has caught up: it may lose its standbys afterwards."""

    def __init__(self) -> None:
        self._caught_up_ms: int | None = None

    def accepts(self, view: NodeView) -> bool:
        """Tell whether clients may come to the primary of the current epoch.

        The set that was declared is in the server, and what the server had when it was
        started is confirmed.
        """
        opened, held = view.state.opened, view.state.assignment
        if opened is None or held is None or opened.epoch != held.epoch:
            return False
        started_ms = view.postgres.started_ms
        if has_caught_up(view):
            self._caught_up_ms = started_ms
        own = held.member_id == view.member_id and held.live
        in_force = view.postgres.server_sync is not None
        return own and in_force and self._caught_up_ms == started_ms
