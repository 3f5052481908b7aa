"""Takes an operator's word on who confirms commits."""

from typing import Final, Literal

from pgbastion.api.ports import Outcome, Refused
from pgbastion.control.sync_standbys import automatic_count
from pgbastion.model.cluster import ClusterState, ReplicationMode
from pgbastion.model.commands import SetReplication
from pgbastion.node.proposing import Log, OperatorCommand, happened, submit
from pgbastion.observe.logging import get_logger

LOOK: Final = "look at /cluster/state, then repeat"

log = get_logger("api")


async def change_replication(
    host: Log,
    *,
    mode: ReplicationMode | None,
    sync_count: int | Literal["auto"] | None,
    strict: bool | None,
    at: str,
) -> Outcome:
    """Put the change into the log; the primary's node carries it out step by step."""
    state = host.state
    count = state.sync_count if sync_count is None else sync_count
    command = SetReplication(
        replication_revision=state.replication_revision + 1,
        mode=state.mode if mode is None else mode,
        sync_count=None if count == "auto" else count,
        strict=state.strict if strict is None else strict,
        at=at,
    )
    never = waits_for_ever(state, command)
    if never is not None:
        return Refused(
            code="never_satisfied",
            message=f"commits would wait for ever: {never}",
            remedy="lower sync_count, or add nodes with a PostgreSQL first",
        )
    facts = {
        "mode": command.mode,
        "sync_count": "auto" if command.sync_count is None else command.sync_count,
        "strict": command.strict,
    }
    asked = OperatorCommand(
        command=command,
        done="it counts",
        refused="nothing was changed",
        look=LOOK,
        facts=lambda changed: {**facts, "changed": changed},
    )
    answer = await submit(host, asked)
    if happened(answer, host) and answer.facts["changed"]:
        log.info("replication_set", **facts)
    return answer


def waits_for_ever(state: ClusterState, command: SetReplication) -> str | None:
    """Return why strict commits could never be confirmed; None: they could."""
    if not command.strict or command.mode is ReplicationMode.ASYNC:
        return None
    able = [m for m in state.servers if not m.nosync]
    held = state.assignment
    others = [m for m in able if held is None or m.member_id != held.member_id]
    count = command.sync_count
    if count is None:
        count = automatic_count(len(state.servers))
    if count <= len(others):
        return None
    return f"{count} standbys are to confirm, and there are {len(others)} that may"
