"""Versions: what version 1 has written is read, and what later ones add is left unread.

``tests/golden/messages_v1.jsonl`` holds commands of the log, the replicated state, the
report and the messages as version 1 has written them. The lines are never made anew:
a line that is not read any more is a log, or a neighbour, that is not understood.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from pgbastion.control.apply import Outcome, apply
from pgbastion.ha import messages
from pgbastion.model import cluster, commands, report
from pgbastion.model.cluster import ClusterState

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "messages_v1.jsonl"
LINES: Final = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
Coder = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
CODERS: Final[dict[str, Coder]] = {
    "command": (commands.decode_command, commands.encode_command),
    "report": (report.decode_report, report.encode_report),
    "state": (cluster.decode_state, cluster.encode_state),
    "talk.catch_up": (messages.decode_catch_up, messages.encode_catch_up),
    "talk.cut": (messages.decode_cut, messages.encode_cut),
    "talk.survey": (messages.decode_answer, messages.encode_answer),
    "talk.guest": (messages.decode_guest, messages.encode_guest),
    "talk.welcome": (messages.decode_welcome, messages.encode_welcome),
    "talk.standing": (messages.decode_standing, messages.encode_standing),
    "talk.standing_answer": (
        messages.decode_standing_answer,
        messages.encode_standing_answer,
    ),
}


def coder_of(what: str) -> Coder:
    return CODERS["command" if what.startswith("command.") else what]


def as_bytes(sent: Any) -> bytes:
    return json.dumps(sent).encode()


def read(what: str, sent: Any) -> Any:
    """Read a message; it has to be understood."""
    decoded = coder_of(what)[0](as_bytes(sent))
    assert decoded is not None, what
    assert not isinstance(decoded, commands.Undecodable), decoded
    return decoded


def assert_kept(sent: Any, again: Any, place: str = "") -> None:
    """Assert that everything of ``sent`` is in ``again``, which may have more."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            assert key in again, f"{place}.{key} is lost"
            assert_kept(value, again[key], f"{place}.{key}")
        return
    if isinstance(sent, list):
        assert len(sent) == len(again), place
        for number, (one, other) in enumerate(zip(sent, again, strict=True)):
            assert_kept(one, other, f"{place}[{number}]")
        return
    assert sent == again, place


def with_more(sent: Any) -> Any:
    """Return a message as a later release might write it: a key more in every part."""
    if isinstance(sent, dict):
        more = {key: with_more(value) for key, value in sent.items()}
        return {**more, "of_a_later_release": {"any": ["thing"]}}
    return [with_more(one) for one in sent] if isinstance(sent, list) else sent


def with_another_version(sent: Any) -> Any:
    later = copy.deepcopy(sent)
    later["v"] = 99
    return later


@pytest.mark.parametrize("line", LINES, ids=[line["what"] for line in LINES])
def test_what_version_1_wrote_is_read_without_loss(line: dict[str, Any]) -> None:
    what, sent = line["what"], line["sent"]

    again = json.loads(coder_of(what)[1](read(what, sent)))

    assert_kept(sent, again)


@pytest.mark.parametrize("line", LINES, ids=[line["what"] for line in LINES])
def test_what_a_later_release_adds_is_left_unread(line: dict[str, Any]) -> None:
    what, sent = line["what"], line["sent"]

    assert read(what, with_more(sent)) == read(what, sent)


@pytest.mark.parametrize("line", LINES, ids=[line["what"] for line in LINES])
def test_another_version_is_refused_and_no_exception(line: dict[str, Any]) -> None:
    what, sent = line["what"], line["sent"]

    decoded = coder_of(what)[0](as_bytes(with_another_version(sent)))

    assert decoded is None or isinstance(decoded, commands.Undecodable)


def test_every_kind_of_message_has_a_line() -> None:
    kinds = {
        f"command.{field.default}"
        for command in get_args(commands.Command)
        for field in fields(command)
        if field.name == "kind"
    }
    messages_and_state = set(CODERS) - {"command"}

    assert {line["what"] for line in LINES} == kinds | messages_and_state


def test_a_log_of_version_1_leads_to_the_state_that_it_led_to() -> None:
    """An older release's first entries, applied by this one."""
    by_kind = {line["what"]: line["sent"] for line in LINES}
    state = ClusterState()
    outcomes = []
    for index, kind in enumerate(("command.found", "command.join"), start=1):
        applied = apply(state, index, f"{index:032x}", as_bytes(by_kind[kind]))
        state = applied.state
        outcomes.append(applied.outcome)

    assert outcomes == [Outcome.OK, Outcome.OK]
    assert state.cluster_id == "c1"
    assert [str(member.name) for member in state.members] == ["n1", "n99"]
