"""The closed list of reasons. Every decision has one, also the decision to wait."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a decision is what it is; each value's sentence is in ``SENTENCES``."""

    # Decisions of the Raft leader for the cluster
    NOT_LEADER = "not_leader"
    TERM_NOT_STARTED = "term_not_started"
    NOT_FOUNDED = "not_founded"
    PAUSED = "paused"
    PAUSE_MAY_LAST_THERE = "pause_may_last_there"
    FIRST_PRIMARY_NOT_READY = "first_primary_not_ready"
    FIRST_PRIMARY = "first_primary"
    PRIMARY_HAS_LEASE = "primary_has_lease"
    LEASE_MAY_RUN = "lease_may_run"
    AGES_UNKNOWN = "ages_unknown"
    FENCING_HOLDER = "fencing_holder"
    LEASE_RAN_OUT = "lease_ran_out"
    HOLDER_RELEASED = "holder_released"
    SURVEYING = "surveying"
    COMMITS_MAY_BE_MISSING = "commits_may_be_missing"
    NO_CANDIDATE = "no_candidate"
    CATCHING_UP = "catching_up"
    LAG_TOO_LARGE = "lag_too_large"
    FURTHEST_CHOSEN = "furthest_chosen"
    ORDER_EXPIRED = "order_expired"
    SCHEDULE_DUE = "schedule_due"
    SCHEDULE_MISSED = "schedule_missed"
    FENCED_HANDS_OVER = "fenced_hands_over"
    NOTING_OUTAGE = "noting_outage"
    VOUCHED_FOR = "vouched_for"
    FORCED = "forced"
    TARGET_NOT_AS_FAR = "target_not_as_far"
    ADDING_MEMBER = "adding_member"
    PROMOTING_LEARNER = "promoting_learner"
    REMOVING_MEMBER = "removing_member"
    MOVING_LEADERSHIP = "moving_leadership"
    LEAVING_LEADERSHIP = "leaving_leadership"
    REMOVAL_WAITS = "removal_waits"
    POLICY_ADOPTED = "policy_adopted"
    POLICY_SETTLED = "policy_settled"

    # Decisions of a node for itself
    SAYING_RUNNING = "saying_running"
    HANDOVER_WAITS = "handover_waits"
    PREPARING_HANDOVER = "preparing_handover"
    HOLDING_CLIENTS = "holding_clients"
    HANDING_OVER = "handing_over"
    HANDOVER_FAILED = "handover_failed"
    HANDED_OVER = "handed_over"
    LEAVING_SYNC_SET = "leaving_sync_set"
    RESTART_ORDERED = "restart_ordered"
    REINIT_ORDERED = "reinit_ordered"
    WORK_DONE = "work_done"
    FENCED_WAITS = "fenced_waits"
    FENCED_BY_OPERATOR = "fenced_by_operator"
    ENDING_EPOCHS = "ending_epochs"
    WITNESS = "witness"
    JOB_RUNNING = "job_running"
    NOT_A_MEMBER = "not_a_member"
    RESUMING = "resuming"
    WAITING_FOR_LEASE = "waiting_for_lease"
    LEASE_EXPIRING = "lease_expiring"
    UNABLE = "unable"
    SURVEYED_DATA_CHANGED = "surveyed_data_changed"
    STARTING_FOR_PROMOTION = "starting_for_promotion"
    ARMING = "arming"
    PROMOTING = "promoting"
    PROMOTION_RUNNING = "promotion_running"
    WRONG_TIMELINE = "wrong_timeline"
    EARLIER_EPOCH_RUNS = "earlier_epoch_runs"
    WAITING_FOR_SYNC_STANDBY = "waiting_for_sync_standby"
    OPENING = "opening"
    CHANGING_SYNC_SET = "changing_sync_set"
    CONFIRMING_SYNC_SET = "confirming_sync_set"
    KEEPING_SLOTS = "keeping_slots"
    CHECKPOINT_AFTER_PROMOTION = "checkpoint_after_promotion"
    PRIMARY_RUNNING = "primary_running"
    POSTGRES_HUNG = "postgres_hung"
    POSTMASTER_HUNG = "postmaster_hung"
    BACKENDS_HUNG = "backends_hung"
    DISK_HUNG = "disk_hung"
    DISK_FAILED = "disk_failed"
    DISK_FULL = "disk_full"
    CRASHED_STANDBY_READY = "crashed_standby_ready"
    RESTARTING_IN_PLACE = "restarting_in_place"
    STOPPING_AS_REVOKED = "stopping_as_revoked"
    RELEASING = "releasing"
    FENCING = "fencing"
    STOPPED_BY_OPERATOR = "stopped_by_operator"
    INITIALISING = "initialising"
    TAKING_OVER = "taking_over"
    TAKING_UP = "taking_up"
    WAITING_FOR_ASSIGNMENT = "waiting_for_assignment"
    NO_PRIMARY_TO_FOLLOW = "no_primary_to_follow"
    DATA_DIRECTORY_MISSING = "data_directory_missing"
    FOREIGN_DATA = "foreign_data"
    COPYING = "copying"
    REWINDING = "rewinding"
    RECOVERING = "recovering"
    WAITING_FOR_CHECKPOINT = "waiting_for_checkpoint"
    PRIMARY_NOT_OPEN = "primary_not_open"
    EXAMINING = "examining"
    STARTING_STANDBY = "starting_standby"
    WAITING_FOR_START = "waiting_for_start"
    DIVERGED = "diverged"
    REPOINTING = "repointing"
    FOLLOWING = "following"
    REJOIN_FAILED = "rejoin_failed"


SENTENCES: dict[Reason, str] = {
    Reason.NOT_LEADER: "this node does not lead the Raft group",
    Reason.TERM_NOT_STARTED: "the leader has not applied its own first entry yet",
    Reason.NOT_FOUNDED: "the cluster is not founded yet",
    Reason.PAUSED: "automatic actions are paused",
    Reason.PAUSE_MAY_LAST_THERE: "the silent holder may still believe in the pause",
    Reason.SAYING_RUNNING: "the pause is over, the lease counts again",
    Reason.HANDOVER_WAITS: "the chosen node cannot take the role now",
    Reason.PREPARING_HANDOVER: "checkpoints shorten the stop, transactions may end",
    Reason.HOLDING_CLIENTS: "every proxy holds new clients before the stop",
    Reason.HANDING_OVER: "PostgreSQL shuts down cleanly, a standby takes the role",
    Reason.HANDOVER_FAILED: "the order has failed, the primary keeps its role",
    Reason.HANDED_OVER: "PostgreSQL has shut down cleanly, the role is free",
    Reason.ORDER_EXPIRED: "an order was not begun in time",
    Reason.SCHEDULE_DUE: "the time of a scheduled switchover has come",
    Reason.SCHEDULE_MISSED: "a scheduled switchover was not possible in its window",
    Reason.FENCED_HANDS_OVER: "the primary is fenced, a standby takes the role over",
    Reason.NOTING_OUTAGE: "the nodes have reported how long the change stopped writes",
    Reason.LEAVING_SYNC_SET: "no commit may wait for this node when it stops",
    Reason.RESTART_ORDERED: "an operator ordered a restart of PostgreSQL",
    Reason.REINIT_ORDERED: "an operator ordered a new copy of the primary",
    Reason.WORK_DONE: "what an operator ordered for this node is done",
    Reason.FENCED_WAITS: "fenced, but no standby can take the role over yet",
    Reason.FENCED_BY_OPERATOR: "an operator fenced this node by force",
    Reason.VOUCHED_FOR: "somebody outside vouches that the silent holder is off",
    Reason.FORCED: "an operator accepts a loss of commits",
    Reason.TARGET_NOT_AS_FAR: "nobody is known to have all that the primary wrote",
    Reason.FIRST_PRIMARY_NOT_READY: "the first node's data directory is being made",
    Reason.FIRST_PRIMARY: "the first node becomes the first primary",
    Reason.PRIMARY_HAS_LEASE: "the primary renews its lease",
    Reason.LEASE_MAY_RUN: "the holder is silent and its lease may still run",
    Reason.AGES_UNKNOWN: "too few voters have said when they last confirmed a leader",
    Reason.FENCING_HOLDER: "the fence program is to switch the silent holder off",
    Reason.LEASE_RAN_OUT: "the holder was silent for a whole lease",
    Reason.HOLDER_RELEASED: "the holder stopped and released its epoch",
    Reason.SURVEYING: "the standbys cut themselves off and report what they have",
    Reason.COMMITS_MAY_BE_MISSING: "the nodes that answer may lack "
    "acknowledged commits",
    Reason.NO_CANDIDATE: "no node that has everything may be promoted",
    Reason.CATCHING_UP: "a node that may be promoted first streams from one that has "
    "more and may not",
    Reason.LAG_TOO_LARGE: "every standby that answers lags by more than allowed",
    Reason.FURTHEST_CHOSEN: "the furthest node that has everything is chosen",
    Reason.ADDING_MEMBER: "a joined node enters the Raft group as a learner",
    Reason.PROMOTING_LEARNER: "a learner has caught up and becomes a voter",
    Reason.REMOVING_MEMBER: "a member leaves the Raft group",
    Reason.MOVING_LEADERSHIP: "Raft leadership moves to the primary's node",
    Reason.LEAVING_LEADERSHIP: "the Raft leader is to leave and hands leadership on",
    Reason.REMOVAL_WAITS: "a member is to leave the Raft group, but most of the "
    "remaining voters are silent",
    Reason.POLICY_ADOPTED: "all nodes follow the new profile: leases get shorter now",
    Reason.POLICY_SETTLED: "the earlier, longer leases have surely run out",
    Reason.ENDING_EPOCHS: "the guard notes that former epochs have ended here",
    Reason.WITNESS: "this node has no PostgreSQL; it votes and proxies",
    Reason.JOB_RUNNING: "a long step is under way",
    Reason.NOT_A_MEMBER: "this node is not a member yet",
    Reason.RESUMING: "this daemon resumes its epoch",
    Reason.WAITING_FOR_LEASE: "the lease is not granted yet",
    Reason.LEASE_EXPIRING: "the lease is about to end and was not renewed",
    Reason.UNABLE: "this node lacks what it needs to be a primary",
    Reason.SURVEYED_DATA_CHANGED: "the data is not what the survey saw",
    Reason.STARTING_FOR_PROMOTION: "PostgreSQL starts as a standby to be promoted",
    Reason.ARMING: "the guard is armed before PostgreSQL can become a primary",
    Reason.PROMOTING: "PostgreSQL is asked to promote",
    Reason.PROMOTION_RUNNING: "PostgreSQL is being promoted",
    Reason.WRONG_TIMELINE: "the server took another timeline than the assigned one",
    Reason.EARLIER_EPOCH_RUNS: "the server is still a primary of an earlier epoch",
    Reason.WAITING_FOR_SYNC_STANDBY: "no standby has flushed the promotion yet",
    Reason.OPENING: "the first synchronous set is in force, commits may count",
    Reason.CHANGING_SYNC_SET: "the synchronous set changes by one step",
    Reason.CONFIRMING_SYNC_SET: "the new synchronous set is not in effect everywhere",
    Reason.KEEPING_SLOTS: "the replication slots are matched to the members",
    Reason.CHECKPOINT_AFTER_PROMOTION: "a checkpoint lets former primaries rewind",
    Reason.PRIMARY_RUNNING: "PostgreSQL runs as the primary of this epoch",
    Reason.POSTGRES_HUNG: "PostgreSQL or its disk was silent for too long",
    Reason.POSTMASTER_HUNG: "the server took no new connection for too long",
    Reason.BACKENDS_HUNG: "the server's sessions were silent for too long",
    Reason.DISK_HUNG: "an fsync of the server's disk did not return for too long",
    Reason.DISK_FAILED: "the server's files were gone or not writable for too long",
    Reason.DISK_FULL: "the server's disk is full",
    Reason.CRASHED_STANDBY_READY: "PostgreSQL died and a synchronous standby is ready",
    Reason.RESTARTING_IN_PLACE: "PostgreSQL died, no standby has everything: restart",
    Reason.STOPPING_AS_REVOKED: "the epoch was revoked",
    Reason.RELEASING: "PostgreSQL is stopped, the epoch is released",
    Reason.STOPPED_BY_OPERATOR: "the daemon was told to stop, and stopped PostgreSQL",
    Reason.FENCING: "PostgreSQL runs as a primary and this node has no lease",
    Reason.INITIALISING: "the first data directory is made",
    Reason.TAKING_OVER: "an existing PostgreSQL becomes the cluster's first",
    Reason.TAKING_UP: "the server that was found running begins the first epoch",
    Reason.WAITING_FOR_ASSIGNMENT: "the data directory is ready, no role is assigned",
    Reason.NO_PRIMARY_TO_FOLLOW: "no primary is promoted yet",
    Reason.DATA_DIRECTORY_MISSING: "this node had data, but its directory is empty",
    Reason.FOREIGN_DATA: "the data directory belongs to something else",
    Reason.COPYING: "the data directory is copied from the primary",
    Reason.REWINDING: "the data directory is rewound to the primary's history",
    Reason.RECOVERING: "the crashed server recovers before it can be rewound",
    Reason.WAITING_FOR_CHECKPOINT: "the primary has yet to checkpoint on its timeline",
    Reason.PRIMARY_NOT_OPEN: "the new primary does not take clients yet",
    Reason.EXAMINING: "the data directory is compared with the primary's history",
    Reason.STARTING_STANDBY: "PostgreSQL starts as a standby",
    Reason.WAITING_FOR_START: "PostgreSQL has not answered since its start",
    Reason.DIVERGED: "the standby has WAL that the primary's history lacks",
    Reason.REPOINTING: "the standby is pointed at the primary",
    Reason.FOLLOWING: "the standby follows the primary",
    Reason.REJOIN_FAILED: "the last attempt to rejoin failed and will be repeated",
}


def sentence_of(reason: str) -> str:
    """Return the sentence of a reason that a node told; of an unknown one its name."""
    try:
        return SENTENCES[Reason(reason)]
    except ValueError:
        # Another release's.
        return reason
