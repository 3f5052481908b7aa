"""Structured events on standard error: text for a terminal, JSON otherwise.

An event is a name from the catalogue and fields::

    log = get_logger("postgres")
    log.info("promoted", node="n1", epoch=4, lsn=lsn)

Secrets never get here: callers log names of roles and paths of files, and values of
fields whose name says that they are secret are masked all the same.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, final

LogFormat = Literal["auto", "text", "json"]

ROOT_NAME: Final = "pgbastion"
MASK: Final = "***"
SECRET_WORDS: Final = ("password", "secret", "token", "passphrase", "private_key")
# Fields that name a secret's place say "_file" or "_path"; they may be shown.
PLACE_SUFFIXES: Final = ("_file", "_path", "_source")
FIELDS: Final = "event_fields"
LEVELS: Final = ("debug", "info", "warning", "error")


@final
class EventLog:
    """Writes events of one part of the program."""

    def __init__(self, part: str, **bound: object) -> None:
        self._part = part
        self._logger = logging.getLogger(f"{ROOT_NAME}.{part}")
        self._bound = bound
        self._said: dict[str, tuple[str, Mapping[str, object]]] = {}

    def bind(self, **fields: object) -> "EventLog":
        """Return a log that adds ``fields`` to every event."""
        return EventLog(self._part, **{**self._bound, **fields})

    def debug(self, event: str, **fields: object) -> None:
        """Record a detail that only a developer wants."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Record a change of state."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Record what wants attention."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Record an action that failed."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """Record an action that failed, with the traceback of the current exception."""
        self._write(logging.ERROR, event, fields, with_traceback=True)

    def state(
        self, subject: str, event: str, *, level: int = logging.INFO, **fields: object
    ) -> bool:
        """Record the state of ``subject`` unless it is what was recorded last.

        Returns:
            Whether the state is a new one. Events and all fields count; leave values
            that change at every look (ages, counters) to metrics.
        """
        if self._said.get(subject) == (event, fields):
            return False
        self._said[subject] = (event, fields)
        self._write(level, event, {"subject": subject, **fields})
        return True

    def _write(
        self,
        level: int,
        event: str,
        fields: Mapping[str, object],
        *,
        with_traceback: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            extra = {FIELDS: {**self._bound, **fields}}
            self._logger.log(
                level, "%s", event, extra=extra, exc_info=with_traceback or None
            )


def get_logger(part: str) -> EventLog:
    """Return the log of ``part``, a name such as ``proxy``."""
    return EventLog(part)


def configure_logging(
    *, level: str, form: LogFormat = "auto", stream: TextIO | None = None
) -> None:
    """Send events of ``level`` and above to ``stream`` (standard error).

    May be called again at any time: the newest call holds for all logs.
    """
    out = sys.stderr if stream is None else stream
    as_text = form == "text" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    root = logging.getLogger(ROOT_NAME)
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Record events of ``level`` (one of ``LEVELS``) and above from now on."""
    logging.getLogger(ROOT_NAME).setLevel(level.upper())


@final
class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, part, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Render ``record`` as one line."""
        line: dict[str, object] = {
            "time": _wall_time(record),
            "level": record.levelname.lower(),
            "part": part_of(record),
            "event": record.getMessage(),
        }
        for name, value in fields_of(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


@final
class TextFormatter(logging.Formatter):
    """One line for a human's eye: time, level, part, event, ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Render ``record`` as one line, with a traceback below it if there is one."""
        clock = _wall_time(record)[11:23]
        head = f"{clock} {record.levelname:<7} {part_of(record):<10} "
        fields = "".join(
            f" {name}={_shown(value)}" for name, value in fields_of(record).items()
        )
        line = head + record.getMessage() + fields
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _wall_time(record: logging.LogRecord) -> str:
    instant = datetime.fromtimestamp(record.created, UTC)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def part_of(record: logging.LogRecord) -> str:
    """Return the part of the program that an event comes from."""
    return record.name.removeprefix(f"{ROOT_NAME}.")


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return an event's fields as they may be shown."""
    fields: Mapping[str, object] = getattr(record, FIELDS, {})
    return {name: _masked(name, value) for name, value in fields.items()}


def _masked(name: str, value: object) -> object:
    lowered = name.lower()
    if not isinstance(value, str | bytes) or lowered.endswith(PLACE_SUFFIXES):
        return value
    return MASK if any(word in lowered for word in SECRET_WORDS) else value


def _shown(value: object) -> str:
    text = str(value)
    plain = text and all(char.isprintable() and char not in ' "=' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
