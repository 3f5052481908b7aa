"""The table of a node: the steps, in order, for each duty and what it finds.

Each step is idempotent: it is skipped when its effect is seen, so a sequence that
was cut short goes on where it must. The steps' rules are in :mod:`.node_steps`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Duty(StrEnum):
    """What the replicated state wants of this node."""

    FOUND = "found"
    """It founded the cluster and no role was ever assigned."""
    AWAIT = "await"
    """No role was ever assigned; others make the first data directory."""
    HOLD = "hold"
    """It holds the current epoch."""
    FENCED = "fenced"
    """It holds the current epoch, and an operator fenced it by force."""
    GIVE_UP = "give_up"
    """It holds an epoch that was revoked or latched as ended, not yet released."""
    FOLLOW = "follow"
    """Another node is the promoted primary of the current epoch."""
    WAIT = "wait"
    """The current epoch has no promoted primary yet."""


class Found(StrEnum):
    """What is there: the data directory and the server on it."""

    UNUSABLE = "unusable"
    UNMARKED = "unmarked"
    """A PostgreSQL that somebody else made, stopped or running, not under guard."""
    EMPTY = "empty"
    STOPPED = "stopped"
    STARTING = "starting"
    """A server in recovery that has not answered since its start."""
    STANDBY = "standby"
    PROMOTING = "promoting"
    """Asked to promote, or started without standby.signal: may become a primary."""
    PRIMARY = "primary"
    TAKEN_OVER = "taken_over"
    """Found running and under guard, which is not armed for it yet."""


class Step(StrEnum):
    """One step of a transition."""

    REPORT_PROBLEM = "report_problem"
    INITIALISE = "initialise"
    TAKE_OVER = "take_over"
    TAKE_UP = "take_up"
    AWAIT_ASSIGNMENT = "await_assignment"
    REFUSE_EMPTY = "refuse_empty"
    RESUME = "resume"
    HOLD_LEASE = "hold_lease"
    SAY_RUNNING = "say_running"
    AWAIT_LEASE = "await_lease"
    KEEP_LEASE = "keep_lease"
    CHECK_ABLE = "check_able"
    CHECK_SURVEYED = "check_surveyed"
    START_FOR_PROMOTION = "start_for_promotion"
    AWAIT_START = "await_start"
    PROMOTE = "promote"
    AWAIT_PROMOTION = "await_promotion"
    AFTER_CRASH = "after_crash"
    RESTART = "restart"
    END_SLOW_RESTART = "end_slow_restart"
    CHECK_PROMOTED = "check_promoted"
    CHECK_ANSWERS = "check_answers"
    OPEN = "open"
    KEEP_SYNC = "keep_sync"
    KEEP_SLOTS = "keep_slots"
    CHECKPOINT = "checkpoint"
    HAND_OVER = "hand_over"
    RELEASE_FOR_ORDER = "release_for_order"
    STOP_FENCED = "stop_fenced"
    RELEASE_FENCED = "release_fenced"
    SERVE = "serve"
    STOP = "stop"
    RELEASE = "release"
    FENCE = "fence"
    END_OLD_EPOCHS = "end_old_epochs"
    COPY = "copy"
    REJOIN = "rejoin"
    START_STANDBY = "start_standby"
    STAY_STOPPED = "stay_stopped"
    CHECK_HISTORY = "check_history"
    POINT_AT_PRIMARY = "point_at_primary"
    READY_SLOTS = "ready_slots"
    WORK_ON_STANDBY = "work_on_standby"
    WORK_ON_STOPPED = "work_on_stopped"
    WORK_ON_PRIMARY = "work_on_primary"
    END_HUNG_STANDBY = "end_hung_standby"
    STAY_CUT = "stay_cut"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Transition:
    """The steps from a finding to a duty, and why."""

    steps: tuple[Step, ...]
    comment: str


_PROBLEM: Final = Transition(
    (Step.REPORT_PROBLEM,), "the data directory cannot be used: a human looks"
)
_FENCE: Final = Transition((Step.FENCE,), "no lease, no primary: kill it first")
_DATA_GONE: Final = Transition(
    (Step.RELEASE,), "the holder's data is gone: another node may have the role"
)
_NOTHING_RUNS: Final = Transition((Step.RELEASE,), "nothing runs: release the epoch")
_HARMLESS: Final = Transition(
    (Step.RELEASE,), "in recovery and not armed: release the epoch"
)
_FENCED_AT_REST: Final = Transition(
    (Step.RELEASE_FENCED,), "nothing may write: another node may have the role"
)
_FENCED_RUNS: Final = Transition(
    (Step.STOP_FENCED, Step.RELEASE_FENCED),
    "stop what may write, then another node may have the role",
)

TRANSITIONS: Final[Mapping[tuple[Duty, Found], Transition]] = {
    (Duty.FOUND, Found.UNUSABLE): _PROBLEM,
    (Duty.FOUND, Found.UNMARKED): Transition(
        (Step.TAKE_OVER,), "the first node brings its PostgreSQL into the cluster"
    ),
    (Duty.FOUND, Found.EMPTY): Transition(
        (Step.INITIALISE,), "the first node makes the first data directory"
    ),
    (Duty.FOUND, Found.STOPPED): Transition(
        (Step.AWAIT_ASSIGNMENT,), "the data is ready, the role is not assigned yet"
    ),
    (Duty.FOUND, Found.STARTING): _FENCE,
    (Duty.FOUND, Found.STANDBY): _FENCE,
    (Duty.FOUND, Found.PROMOTING): _FENCE,
    (Duty.FOUND, Found.PRIMARY): _FENCE,
    (Duty.FOUND, Found.TAKEN_OVER): Transition(
        (Step.TAKE_OVER, Step.AWAIT_ASSIGNMENT),
        "the server that was found running goes on; the role is not assigned yet",
    ),
    (Duty.AWAIT, Found.UNUSABLE): _PROBLEM,
    (Duty.AWAIT, Found.UNMARKED): _PROBLEM,
    (Duty.AWAIT, Found.EMPTY): Transition(
        (Step.AWAIT_ASSIGNMENT,), "there is no primary to copy from yet"
    ),
    (Duty.AWAIT, Found.STOPPED): Transition(
        (Step.AWAIT_ASSIGNMENT,), "there is no primary to follow yet"
    ),
    (Duty.AWAIT, Found.STARTING): _FENCE,
    (Duty.AWAIT, Found.STANDBY): _FENCE,
    (Duty.AWAIT, Found.PROMOTING): _FENCE,
    (Duty.AWAIT, Found.PRIMARY): _FENCE,
    (Duty.AWAIT, Found.TAKEN_OVER): _FENCE,
    (Duty.HOLD, Found.UNMARKED): _DATA_GONE,
    (Duty.HOLD, Found.UNUSABLE): _DATA_GONE,
    (Duty.HOLD, Found.EMPTY): _DATA_GONE,
    (Duty.HOLD, Found.STOPPED): Transition(
        (
            Step.RESUME,
            Step.RELEASE_FOR_ORDER,
            Step.CHECK_ABLE,
            Step.CHECK_SURVEYED,
            Step.START_FOR_PROMOTION,
            Step.AFTER_CRASH,
            Step.RESTART,
        ),
        "start to be promoted; a crashed primary restarts or releases its epoch",
    ),
    (Duty.HOLD, Found.STARTING): Transition(
        (Step.RESUME, Step.HOLD_LEASE, Step.AWAIT_START),
        "recovery ends before a promotion is asked for",
    ),
    (Duty.HOLD, Found.STANDBY): Transition(
        (
            Step.RESUME,
            Step.HOLD_LEASE,
            Step.AWAIT_LEASE,
            Step.CHECK_ABLE,
            Step.CHECK_SURVEYED,
            Step.PROMOTE,
        ),
        "every new epoch begins with a promotion, the guard armed before it",
    ),
    (Duty.HOLD, Found.PROMOTING): Transition(
        (
            Step.KEEP_LEASE,
            Step.RESUME,
            Step.HOLD_LEASE,
            Step.SAY_RUNNING,
            Step.CHECK_ANSWERS,
            Step.END_SLOW_RESTART,
            Step.AWAIT_PROMOTION,
        ),
        "a promotion or a start as primary is under way",
    ),
    (Duty.HOLD, Found.PRIMARY): Transition(
        (
            Step.KEEP_LEASE,
            Step.RESUME,
            Step.HOLD_LEASE,
            Step.SAY_RUNNING,
            Step.CHECK_PROMOTED,
            Step.CHECK_ANSWERS,
            Step.KEEP_SLOTS,
            Step.OPEN,
            Step.KEEP_SYNC,
            Step.CHECKPOINT,
            Step.HAND_OVER,
            Step.WORK_ON_PRIMARY,
            Step.SERVE,
        ),
        "serve while the lease lasts",
    ),
    (Duty.HOLD, Found.TAKEN_OVER): Transition(
        (Step.RESUME, Step.HOLD_LEASE, Step.AWAIT_LEASE, Step.TAKE_UP),
        "the first epoch of a server that was found running begins when it is armed",
    ),
    (Duty.FENCED, Found.UNMARKED): _FENCED_AT_REST,
    (Duty.FENCED, Found.UNUSABLE): _FENCED_AT_REST,
    (Duty.FENCED, Found.EMPTY): _FENCED_AT_REST,
    (Duty.FENCED, Found.STOPPED): _FENCED_AT_REST,
    (Duty.FENCED, Found.STARTING): _FENCED_AT_REST,
    (Duty.FENCED, Found.STANDBY): _FENCED_AT_REST,
    (Duty.FENCED, Found.PROMOTING): _FENCED_RUNS,
    (Duty.FENCED, Found.PRIMARY): _FENCED_RUNS,
    (Duty.FENCED, Found.TAKEN_OVER): _FENCED_RUNS,
    (Duty.GIVE_UP, Found.UNMARKED): _NOTHING_RUNS,
    (Duty.GIVE_UP, Found.TAKEN_OVER): Transition(
        (Step.STOP, Step.RELEASE), "its epoch ended before it was armed: stop it"
    ),
    (Duty.GIVE_UP, Found.UNUSABLE): _NOTHING_RUNS,
    (Duty.GIVE_UP, Found.EMPTY): _NOTHING_RUNS,
    (Duty.GIVE_UP, Found.STOPPED): _NOTHING_RUNS,
    (Duty.GIVE_UP, Found.STARTING): _HARMLESS,
    (Duty.GIVE_UP, Found.STANDBY): _HARMLESS,
    (Duty.GIVE_UP, Found.PROMOTING): Transition(
        (Step.STOP, Step.RELEASE), "a promotion may finish late: stop it first"
    ),
    (Duty.GIVE_UP, Found.PRIMARY): Transition(
        (Step.STOP, Step.RELEASE), "stop writes, then release the epoch"
    ),
    (Duty.FOLLOW, Found.UNUSABLE): _PROBLEM,
    (Duty.FOLLOW, Found.UNMARKED): _PROBLEM,
    (Duty.FOLLOW, Found.EMPTY): Transition(
        (Step.REFUSE_EMPTY, Step.COPY), "a new node copies the primary"
    ),
    (Duty.FOLLOW, Found.STOPPED): Transition(
        (
            Step.END_OLD_EPOCHS,
            Step.WORK_ON_STOPPED,
            Step.REJOIN,
            Step.START_STANDBY,
        ),
        "recover, rewind or copy as far as needed, then stream",
    ),
    (Duty.FOLLOW, Found.STARTING): Transition(
        (Step.AWAIT_START,), "the standby is starting"
    ),
    (Duty.FOLLOW, Found.STANDBY): Transition(
        (
            Step.END_HUNG_STANDBY,
            Step.CHECK_HISTORY,
            Step.POINT_AT_PRIMARY,
            Step.READY_SLOTS,
            Step.WORK_ON_STANDBY,
            Step.STREAM,
        ),
        "follow the new primary where the history allows it",
    ),
    (Duty.FOLLOW, Found.PROMOTING): _FENCE,
    (Duty.FOLLOW, Found.PRIMARY): _FENCE,
    (Duty.FOLLOW, Found.TAKEN_OVER): _FENCE,
    (Duty.WAIT, Found.UNUSABLE): _PROBLEM,
    (Duty.WAIT, Found.UNMARKED): _PROBLEM,
    (Duty.WAIT, Found.EMPTY): Transition(
        (Step.REFUSE_EMPTY, Step.STAY_STOPPED), "there is no primary to copy from"
    ),
    (Duty.WAIT, Found.STOPPED): Transition(
        (Step.END_OLD_EPOCHS, Step.STAY_STOPPED),
        "a stopped server can be surveyed as it is",
    ),
    (Duty.WAIT, Found.STARTING): Transition(
        (Step.AWAIT_START,), "the standby is starting"
    ),
    (Duty.WAIT, Found.STANDBY): Transition(
        (Step.END_HUNG_STANDBY, Step.STAY_CUT),
        "answer reads, wait for the next primary",
    ),
    (Duty.WAIT, Found.PROMOTING): _FENCE,
    (Duty.WAIT, Found.PRIMARY): _FENCE,
    (Duty.WAIT, Found.TAKEN_OVER): _FENCE,
}
