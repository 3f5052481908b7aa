"""Requests that another node has to carry out go there over the channel between nodes.

The other node is a member, proven by the channel's handshake; what it is asked for was
authorised where it came in.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError

from pgbastion.api.bodies import Body
from pgbastion.api.endpoints import CHANGES, carry_out
from pgbastion.api.openapi import body_of
from pgbastion.api.ports import Commands, Done, Outcome, Refused, Unknown
from pgbastion.api.problems import ProblemError
from pgbastion.ha.messages import Kind
from pgbastion.ha.ports import RaftEngine
from pgbastion.model.ids import MemberId

ASK_TIMEOUT_S: Final = 12.0
FORWARDED_BYTES_MAX: Final = 64 * 1024


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True)
    method: str
    path: str
    body: dict[str, JsonValue]
    v: Literal[1] = 1


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)
    outcome: Literal["done", "refused", "unknown"]
    facts: dict[str, JsonValue] = {}
    code: str = ""
    message: str = ""
    remedy: str = ""
    v: Literal[1] = 1


async def forward(
    engine: RaftEngine, to: MemberId, method: str, path: str, body: Body
) -> Outcome:
    """Have another member carry a request out, and return what it says."""
    given = body.model_dump(mode="json", exclude_defaults=True)
    request = _Request(method=method, path=path, body=given)
    reply = await engine.request(
        to, Kind.FORWARD, request.model_dump_json().encode(), ASK_TIMEOUT_S
    )
    try:
        answer = None if reply is None else _Answer.model_validate_json(reply)
    except ValidationError:
        answer = None
    if answer is None:
        return Unknown(
            message=f"the node that {path} was passed on to did not answer",
            remedy="look at /config and /raft/directives, then repeat",
        )
    if answer.outcome == "done":
        return Done(facts=answer.facts)
    if answer.outcome == "refused":
        return Refused(code=answer.code, message=answer.message, remedy=answer.remedy)
    return Unknown(message=answer.message, remedy=answer.remedy)


async def answer_forwarded(commands: Commands, payload: bytes) -> bytes:
    """Carry out what another member passed on; nothing for what makes no sense."""
    try:
        request = _Request.model_validate_json(payload[: FORWARDED_BYTES_MAX + 1])
        change = CHANGES[(request.method, request.path)]
        body = body_of(change).model_validate(request.body)
    except (ValidationError, KeyError):
        return b""
    try:
        outcome = await carry_out(change, commands, body)
    except ProblemError as exc:
        problem = exc.problem
        outcome = Refused(
            code=problem.code, message=problem.message, remedy=problem.remedy
        )
    return _answer_of(outcome).model_dump_json().encode()


def _answer_of(outcome: Outcome) -> _Answer:
    if isinstance(outcome, Done):
        facts = TypeAdapter(dict[str, JsonValue]).validate_python(dict(outcome.facts))
        return _Answer(outcome="done", facts=facts)
    if isinstance(outcome, Refused):
        return _Answer(
            outcome="refused",
            code=outcome.code,
            message=outcome.message,
            remedy=outcome.remedy,
        )
    return _Answer(outcome="unknown", message=outcome.message, remedy=outcome.remedy)
