"""The catalogue of log events misses none that the source logs."""

import pytest
from checks.log_events import (
    Line,
    UnreadableError,
    lines_of_python,
    lines_of_rust,
    render_log_events,
)

PYTHON = """
log.info("promoted", node=name, lsn=end)
log.state(f"slot {name}", "slot_fits" if fits else "slot_full", level=10, slot=name)
self._on_event("proxy_stream_broken", {"client": client})
self._on_event("proxy_sessions_closed", {"epoch": epoch, **more})
self.events.on_event(self._hand_out)
other.info("not_ours")
"""
RUST = """
    pub fn log_was_cut(&mut self, cut: &Cut) {
        let fields = vec![("file", cut.file()), ("offset", cut.offset())];
        self.say(Level::Warning, "log_tail_cut", fields);
    }

    fn slow(&mut self) {
        self.tell_of_disk(Level::Info, "log_disk_answers", took_ns);
    }

    fn tell_of_disk(&mut self, level: Level, event: &'static str, took_ns: i64) {
        let fields = vec![("took_ms", took_ns.to_string())];
    }

    fn refused(&self) {
        push(Event::Log {
            level: Level::Error,
            event: "connection_refused",
            fields: vec![("address", address)],
        });
    }
"""


def test_the_programs_events_have_level_and_fields() -> None:
    assert list(lines_of_python(PYTHON)) == [
        Line("promoted", "info", ["node", "lsn"]),
        Line("slot_fits", "state", ["slot"]),
        Line("slot_full", "state", ["slot"]),
        Line("proxy_stream_broken", "warning", ["client"]),
        Line("proxy_sessions_closed", "debug", ["epoch"]),
    ]


def test_the_engines_events_have_level_and_fields() -> None:
    assert lines_of_rust(RUST) == [
        Line("log_tail_cut", "warning", ["file", "offset"]),
        Line("log_disk_answers", "info", ["took_ms"]),
        Line("connection_refused", "error", ["address"]),
    ]


@pytest.mark.parametrize("source", ["log.warning(event)", "log.info(f'{x}_y')"])
def test_an_event_without_a_name_is_refused(source: str) -> None:
    with pytest.raises(UnreadableError):
        list(lines_of_python(source))


def test_a_level_of_the_engine_without_an_event_is_refused() -> None:
    with pytest.raises(UnreadableError):
        lines_of_rust("fn f(&mut self) { self.say(Level::Info, self.event) }")


def test_both_languages_are_in_the_catalogue() -> None:
    rows = render_log_events().splitlines()

    assert "| `log_tail_cut` | warning | file, offset | engine |" in rows
    assert "| `proxy_stream_broken` | warning | client | proxy |" in rows
