"""What can become of a command of the log."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """What became of a command."""

    OK = "ok"
    NO_CHANGE = "no_change"
    """It says what the state already says."""
    DUPLICATE = "duplicate"
    MALFORMED = "malformed"
    STALE_REVISION = "stale_revision"
    WRONG_EPOCH = "wrong_epoch"
    WRONG_INCARNATION = "wrong_incarnation"
    EPOCH_OVER = "epoch_over"
    """The epoch was revoked or released."""
    NOT_HOLDER = "not_holder"
    NOT_FOUNDED = "not_founded"
    ALREADY_FOUNDED = "already_founded"
    NAME_TAKEN = "name_taken"
    ADDRESS_TAKEN = "address_taken"
    UNKNOWN_MEMBER = "unknown_member"
    HOLDS_EPOCH = "holds_epoch"
    LAST_MEMBER = "last_member"
    FENCED = "fenced"
    """An operator keeps this node from the role."""
    TOO_MANY_MEMBERS = "too_many_members"
    ORDER_OPEN = "order_open"
    """Another order is being carried out."""
    NO_SUCH_ORDER = "no_such_order"
    TOO_MANY_SCHEDULED = "too_many_scheduled"
    ADDRESS_HELD = "address_held"
    """A node may still have this address."""
    TOO_MANY_ADDRESSES = "too_many_addresses"
    SENSELESS = "senseless"
    """Its fields contradict each other or the state."""


_CHANGED_MEANWHILE: Final = "the primary changed meanwhile"
SENTENCES: Final[Mapping[Outcome, str]] = {
    Outcome.OK: "it is done",
    Outcome.NO_CHANGE: "it is so already",
    Outcome.DUPLICATE: "it was taken before",
    Outcome.MALFORMED: "it is not understood",
    Outcome.STALE_REVISION: "somebody else made a change meanwhile",
    Outcome.WRONG_EPOCH: _CHANGED_MEANWHILE,
    Outcome.WRONG_INCARNATION: "the node was started again meanwhile",
    Outcome.EPOCH_OVER: _CHANGED_MEANWHILE,
    Outcome.NOT_HOLDER: _CHANGED_MEANWHILE,
    Outcome.NOT_FOUNDED: "the cluster is not founded yet",
    Outcome.ALREADY_FOUNDED: "the cluster is founded already",
    Outcome.NAME_TAKEN: "another member has this name",
    Outcome.ADDRESS_TAKEN: "another member has this address",
    Outcome.UNKNOWN_MEMBER: "there is no such member",
    Outcome.HOLDS_EPOCH: "it is the primary",
    Outcome.LAST_MEMBER: "it is the last member",
    Outcome.FENCED: "that node is fenced",
    Outcome.TOO_MANY_MEMBERS: "the cluster has as many members as it may have",
    Outcome.ORDER_OPEN: "another order is being carried out",
    Outcome.NO_SUCH_ORDER: "there is no such order that has not begun",
    Outcome.TOO_MANY_SCHEDULED: "as much is scheduled as may be",
    Outcome.ADDRESS_HELD: "a node may still have this address",
    Outcome.TOO_MANY_ADDRESSES: "there are as many addresses as may be",
    Outcome.SENSELESS: "it contradicts what the cluster is",
}
