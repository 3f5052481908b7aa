"""What can become of a command of the log."""

from enum import StrEnum


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
    TOO_MANY_MEMBERS = "too_many_members"
    ORDER_OPEN = "order_open"
    """Another order is being carried out."""
    NO_SUCH_ORDER = "no_such_order"
    SENSELESS = "senseless"
    """Its fields contradict each other or the state."""
