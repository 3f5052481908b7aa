"""What nodes ask each other over the consensus engine's channel, and its encoding."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Literal, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from pgbastion.model.cluster import Member
from pgbastion.model.ids import NO_MEMBER, Epoch, MemberId, NodeId
from pgbastion.model.views import SurveyAnswer
from pgbastion.model.wal import WalEnd

MESSAGES_VERSION: Final = 1
CATCH_UP_S: Final = 30.0
"""How long one node streams from another before it says how far it has come."""


class Kind(IntEnum):
    """The kinds of messages; numbers are part of the protocol."""

    REPORT = 1
    """Broadcast: a node's report."""
    CUT = 2
    """Question of the leader: cut yourself off from an epoch and say what you have."""
    WHO = 3
    """Question of a guest: which cluster are you of?"""
    JOIN = 4
    """Question of a guest: let me in."""
    STANDING = 5
    """Question of a guest that was a member: am I still one?"""
    CATCH_UP = 6
    """Question of the leader: stream from another cut node, then say what you have."""
    CANCEL = 16
    """Question of a proxy: cancel this query if its session is yours."""
    FORWARD = 32
    """Question of a node: carry out this request of the API."""


class _Message(Protocol):
    @property
    def v(self) -> int: ...


M = TypeVar("M", bound=_Message)


def _decode(form: TypeAdapter[M], data: bytes) -> M | None:
    """Read a message; None if it is none of a version that we know."""
    try:
        message = form.validate_json(data)
    except ValidationError:
        return None
    return message if message.v == MESSAGES_VERSION else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    v: int
    epoch: Epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    v: int
    answer: SurveyAnswer


_CUT: Final = TypeAdapter(_Cut)
_SURVEY: Final = TypeAdapter(_Survey)


def encode_cut(epoch: Epoch) -> bytes:
    """Return the question to cut oneself off from an epoch."""
    return _CUT.dump_json(_Cut(v=MESSAGES_VERSION, epoch=epoch))


def decode_cut(data: bytes) -> Epoch | None:
    """Read that question; None if it is none of a version that we know."""
    cut = _decode(_CUT, data)
    return None if cut is None else cut.epoch


def encode_answer(answer: SurveyAnswer) -> bytes:
    """Return a survey's answer for the wire."""
    return _SURVEY.dump_json(_Survey(v=MESSAGES_VERSION, answer=answer))


def decode_answer(data: bytes) -> SurveyAnswer | None:
    """Read a survey's answer; None if it is none of a version that we know."""
    survey = _decode(_SURVEY, data)
    return None if survey is None else survey.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUpQuestion:
    """Who is cut from ``epoch`` is to stream from ``source``, which is, too."""

    epoch: Epoch
    source: NodeId
    upto: WalEnd
    v: int = MESSAGES_VERSION


_CATCH_UP: Final = TypeAdapter(CatchUpQuestion)


def encode_catch_up(question: CatchUpQuestion) -> bytes:
    """Return the question to stream from another node for the wire."""
    return _CATCH_UP.dump_json(question)


def decode_catch_up(data: bytes) -> CatchUpQuestion | None:
    """Read that question; None if it is none of a version that we know."""
    return _decode(_CATCH_UP, data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A node that finds no leader asks whether it is still a member."""

    cluster_id: str
    member_id: MemberId
    v: int = MESSAGES_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingAnswer:
    """What a member knows of another's standing."""

    node: NodeId
    left: bool
    """It was a member once and is none any more, for ever."""
    v: int = MESSAGES_VERSION


_STANDING: Final = TypeAdapter(Standing)
_STANDING_ANSWER: Final = TypeAdapter(StandingAnswer)


def encode_standing(question: Standing) -> bytes:
    """Return the question of one's own standing for the wire."""
    return _STANDING.dump_json(question)


def decode_standing(data: bytes) -> Standing | None:
    """Read that question; None if it is none of a version that we know."""
    return _decode(_STANDING, data)


def encode_standing_answer(answer: StandingAnswer) -> bytes:
    """Return the answer to the question of standing for the wire."""
    return _STANDING_ANSWER.dump_json(answer)


def decode_standing_answer(data: bytes) -> StandingAnswer | None:
    """Read that answer; None if it is none of a version that we know."""
    return _decode(_STANDING_ANSWER, data)


class Brings(StrEnum):
    """What PostgreSQL a node without membership has already, without a mark."""

    NOTHING = "nothing"
    STOPPED = "stopped"
    PRIMARY = "primary"
    """It runs, and goes on when it is taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A node without membership introduces itself."""

    member: Member
    cluster_name: str
    founding: bool
    """It would found a cluster if nobody has one."""
    auto_join: bool
    brings: Brings = Brings.NOTHING
    known_id: MemberId | None = None
    """Who has its name, as it was told: that one is to go. 0: nobody; None: a guest of
    an earlier release, which does not say."""
    v: int = MESSAGES_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What a node tells a guest about itself and the guest's admission."""

    node: NodeId
    state: Literal["member", "forming", "founding", "waiting"]
    """``founding``: it would found one too; ``forming``: it is at it."""
    raft_address: str
    cluster_id: str = ""
    cluster_name: str = ""
    member_id: MemberId = NO_MEMBER
    """The guest's new id; 0: not admitted (yet)."""
    peers: tuple[tuple[int, str], ...] = ()
    refused: str = ""
    is_final: bool = False
    """Asking again changes nothing: a human has to."""
    brings: Brings = Brings.NOTHING
    known_id: MemberId = NO_MEMBER
    """Who has the guest's name; 0: nobody."""
    v: int = MESSAGES_VERSION


_GUEST: Final = TypeAdapter(Guest)
_WELCOME: Final = TypeAdapter(Welcome)


def encode_guest(guest: Guest) -> bytes:
    """Return a guest's introduction for the wire."""
    return _GUEST.dump_json(guest)


def decode_guest(data: bytes) -> Guest | None:
    """Read an introduction; None if it is none of a version that we know."""
    return _decode(_GUEST, data)


def encode_welcome(welcome: Welcome) -> bytes:
    """Return the answer to a guest for the wire."""
    return _WELCOME.dump_json(welcome)


def decode_welcome(data: bytes) -> Welcome | None:
    """Read the answer to a guest; None if it is none of a version that we know."""
    return _decode(_WELCOME, data)
