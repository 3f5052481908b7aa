"""What ends each wait: a decision that neither acts nor looks again by itself.

Every one of them waits for something that is told: a report, an entry of the log, the
guard's word, the server's answer. The enumeration of the state machine refuses a
decision that rests for a reason without an end.
"""

from collections.abc import Mapping
from typing import Final

from pgbastion.model.reasons import Reason

_LEADER = "the Raft leader's next entry in the log"
_SERVER = "the server's next answer, or the limit for a start"
_HUMAN = "a human"
_PRIMARY = "a report of the primary"
_LEASE = "an answer to a renewal, or the end of the lease"

ENDS: Final[Mapping[Reason, str]] = {
    Reason.NOT_A_MEMBER: _LEADER,
    Reason.WITNESS: "nothing: there is no PostgreSQL here",
    Reason.JOB_RUNNING: "the end of the step, within its own deadline",
    Reason.PAUSED: "the end of the pause",
    Reason.WAITING_FOR_ASSIGNMENT: _LEADER,
    Reason.WAITING_FOR_LEASE: _LEASE,
    Reason.PROMOTION_RUNNING: _SERVER,
    Reason.WAITING_FOR_SYNC_STANDBY: "a standby that has flushed the promotion",
    Reason.CHECKPOINT_AFTER_PROMOTION: "the end of the checkpoint",
    Reason.PRIMARY_RUNNING: "the watch over lease and server, which looks again",
    Reason.HANDOVER_WAITS: "the order's validity, or a candidate that is ready",
    Reason.PREPARING_HANDOVER: "the end of the drain and the checkpoint",
    Reason.HOLDING_CLIENTS: "the proxies' word that clients wait",
    Reason.NO_PRIMARY_TO_FOLLOW: _PRIMARY,
    Reason.DATA_DIRECTORY_MISSING: _HUMAN,
    Reason.FOREIGN_DATA: _HUMAN,
    Reason.WAITING_FOR_CHECKPOINT: _PRIMARY,
    Reason.PRIMARY_NOT_OPEN: _PRIMARY,
    Reason.FOLLOWING: "a new epoch, or a history that differs",
    Reason.STOPPING_AS_REVOKED: "the lease waited out by the Raft leader",
}
