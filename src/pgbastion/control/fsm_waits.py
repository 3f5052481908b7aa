"""What ends each wait: a decision that neither acts nor looks again by itself.

Every one of them waits for something that is told: a report, an entry of the log, the
guard's word, the server's answer. The enumeration of the state machine refuses a
decision that rests for a reason without an end. A holder never rests while its server
may write: it watches over lease and server, and looks again.
"""

from collections.abc import Mapping
from typing import Final

from pgbastion.model.reasons import Reason

_LEADER = "the Raft leader's next entry in the log"
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
    Reason.NO_PRIMARY_TO_FOLLOW: _PRIMARY,
    Reason.DATA_DIRECTORY_MISSING: _HUMAN,
    Reason.FOREIGN_DATA: _HUMAN,
    Reason.WAITING_FOR_CHECKPOINT: _PRIMARY,
    Reason.PRIMARY_NOT_OPEN: _PRIMARY,
    Reason.FOLLOWING: "a new epoch, or a history that differs",
    Reason.STOPPING_AS_REVOKED: "the lease waited out by the Raft leader",
}
