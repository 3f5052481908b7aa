"""Events: text for a terminal, JSON otherwise, no secrets, states once."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from pgbastion.observe.logging import (
    ROOT_NAME,
    EventLog,
    LogFormat,
    configure_logging,
    get_logger,
    set_level,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    root = logging.getLogger(ROOT_NAME)
    before = (list(root.handlers), root.level, root.propagate)
    yield
    root.handlers, root.propagate = before[0], before[2]
    root.setLevel(before[1])


def log_to(
    stream: io.StringIO, form: LogFormat = "auto", level: str = "info"
) -> EventLog:
    configure_logging(level=level, form=form, stream=stream)
    return get_logger("proxy")


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_a_line() -> None:
    stream = io.StringIO()

    log_to(stream).info("promoted", node="n1", epoch=4, note="a\nb")

    (line,) = lines(stream)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "info",
        "part": "proxy",
        "event": "promoted",
        "node": "n1",
        "epoch": 4,
        "note": "a\nb",
    }


def test_a_terminal_gets_text_on_one_line() -> None:
    stream = Terminal()

    log_to(stream).warning("slow", node="n1", text='a "b"\nc')

    assert stream.getvalue().endswith('proxy      slow node=n1 text="a \\"b\\"\\nc"\n')


def test_a_field_never_hides_what_belongs_to_every_event() -> None:
    stream = io.StringIO()

    log_to(stream).info("promoted", level="x")

    (line,) = lines(stream)
    assert (line["level"], line["level_"]) == ("info", "x")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("name", ["password", "api_token", "cluster_secret"])
def test_values_of_secret_fields_are_masked(form: LogFormat, name: str) -> None:
    stream = io.StringIO()

    log_to(stream, form).info("read", **{name: "hidden"})

    assert "hidden" not in stream.getvalue()


def test_the_place_of_a_secret_is_shown() -> None:
    stream = io.StringIO()

    log_to(stream).info("read", secret_file="/etc/pgbastion/secret")

    assert lines(stream)[0]["secret_file"] == "/etc/pgbastion/secret"


def test_the_level_changes_at_run_time() -> None:
    stream = io.StringIO()
    log = log_to(stream)

    log.debug("unseen")
    set_level("debug")
    log.debug("seen")

    assert [line["event"] for line in lines(stream)] == ["seen"]


def test_a_repeated_state_is_recorded_once() -> None:
    stream = io.StringIO()
    log = log_to(stream)

    told = [
        log.state("n2", "streaming", lag="small"),
        log.state("n2", "streaming", lag="small"),
        log.state("n3", "streaming", lag="small"),
        log.state("n2", "silent"),
        log.state("n2", "streaming", lag="small"),
    ]

    assert told == [True, False, True, True, True]
    assert len(lines(stream)) == 4


def test_bound_fields_are_in_every_event() -> None:
    stream = io.StringIO()

    log_to(stream).bind(node="n1").error("failed", why="disk")

    (line,) = lines(stream)
    assert (line["node"], line["why"]) == ("n1", "disk")


def test_an_exception_brings_its_traceback() -> None:
    stream = io.StringIO()
    log = log_to(stream)

    try:
        int("odd")
    except ValueError:
        log.exception("failed")

    assert "'odd'" in str(lines(stream)[0]["traceback"])
