"""Whether the running server would take a setting: its name, type, range and context.

Source: PostgreSQL, "Setting Parameters" and "pg_settings".
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pgbastion.postgres.connection import Address, Connection, connected
from pgbastion.postgres.setting_trial import SettingTrial
from pgbastion.postgres.settings import Problem, check_parameters

DEADLINE_S: Final = 5.0

_TABLE: Final = """
SELECT s.name, s.vartype, s.unit,
       CASE WHEN s.name IN ('min_wal_size', 'max_wal_size')
            THEN (SELECT (2 * w.setting::bigint / 1048576)::text
                    FROM pg_catalog.pg_settings AS w
                   WHERE w.name = 'wal_segment_size')
            ELSE s.min_val END,
       s.max_val, s.enumvals, s.context
  FROM pg_catalog.pg_settings AS s
 WHERE pg_catalog.lower(s.name) = ANY (%s)
"""
_LIBRARY: Final = """
SELECT (SELECT c.setting FROM pg_catalog.pg_config() AS c WHERE c.name = 'PKGLIBDIR'),
       (SELECT pg_catalog.pg_stat_file(c.setting || '/' || %s || '.so', true)
          FROM pg_catalog.pg_config() AS c WHERE c.name = 'PKGLIBDIR') IS NOT NULL
"""
_PRELOADED: Final = frozenset(
    {"shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"}
)
# What a server that starts holds against its settings.
_KEPT: Final = """
SELECT count(*), count(*) FILTER (WHERE s.slot_type = 'logical')
  FROM pg_catalog.pg_replication_slots AS s WHERE NOT s.temporary
"""
# A server with TLS reads these when it starts, and does not start without them.
_TLS_FILES: Final = """
SELECT s.name, s.setting FROM pg_catalog.pg_settings AS s
 WHERE s.name IN ('ssl', 'ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file')
"""
_EXISTS: Final = "SELECT pg_catalog.pg_stat_file(%s, true) IS NOT NULL"
_ON: Final = frozenset({"on", "true", "yes", "1", "t", "y"})
_MEMORY: Final = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_TIME: Final = {
    "us": 0.001, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000,
}  # fmt: skip
_BOOLEANS: Final = frozenset(
    {"on", "off", "true", "false", "yes", "no", "1", "0", "t", "f", "y", "n"}
)
_NUMBER: Final = re.compile(
    r"\s*([+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))"
    r"\s*([A-Za-z]*)\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A row of ``pg_settings``, as far as it says what may be set."""

    name: str
    kind: str
    unit: str | None
    least: float | None
    most: float | None
    choices: tuple[str, ...]
    context: str


def judge(setting: Setting, value: str) -> str | None:
    """Return why the server would refuse this value; None: it takes it."""
    if setting.context == "internal":
        return "it shows how the server was built, and cannot be set"
    if setting.kind == "bool":
        return None if value.lower() in _BOOLEANS else "it is on or off"
    if setting.kind == "enum":
        known = {choice.lower() for choice in setting.choices}
        if value.lower() in known or (value.lower() in _BOOLEANS and "on" in known):
            return None
        return f"it is one of {', '.join(setting.choices)}"
    if setting.kind in ("integer", "real"):
        return _judge_number(setting, value)
    return None


def _judge_number(setting: Setting, value: str) -> str | None:
    number = _in_own_unit(setting, value)
    if number is None:
        units = _units_of(setting)
        return f"it is a number{f' with a unit of {units}' if units else ''}"
    if setting.kind == "integer":
        number = round(number)
    low, high = setting.least, setting.most
    if (low is not None and number < low) or (high is not None and number > high):
        unit = f" in units of {setting.unit}" if setting.unit else ""
        return f"it is from {low:g} to {high:g}{unit}"
    return None


def _in_own_unit(setting: Setting, value: str) -> float | None:
    match = _NUMBER.fullmatch(value)
    if match is None:
        return None
    text, unit = match.groups()
    number = float(int(text, 16)) if "x" in text.lower() else float(text)
    if not math.isfinite(number):
        return None
    if not unit:
        return number
    for factors in (_MEMORY, _TIME):
        own = _factor(setting.unit, factors)
        if own is not None and unit in factors:
            return number * factors[unit] / own
    return None


def _factor(unit: str | None, factors: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"(\d*)([A-Za-z]+)", unit or "")
    if match is None or match[2] not in factors:
        return None
    return int(match[1] or 1) * factors[match[2]]


def _units_of(setting: Setting) -> str:
    for factors in (_MEMORY, _TIME):
        if _factor(setting.unit, factors) is not None:
            return ", ".join(factors)
    return ""


def libraries(parameters: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return each library that is to be preloaded, with its setting."""
    for name in sorted(_PRELOADED & set(parameters)):
        for item in parameters[name].split(","):
            library = item.strip().strip('"').removeprefix("$libdir/")
            if library and "/" not in library:
                yield name, library.removesuffix(".so")


async def judge_settings(
    address: Address, parameters: Mapping[str, str], trial: SettingTrial
) -> tuple[Problem, ...]:
    """Return what the running server would not take, or would not start with.

    Args:
        address: How to log in to it.
        parameters: Values by names in lower case.
        trial: Tells of values that the server's table does not limit.

    Raises:
        PostgresError: It cannot be asked.
    """
    problems = {p.name: p for p in check_parameters(parameters)}
    async with connected(address, deadline_s=DEADLINE_S) as connection:
        rows = await connection.rows(_TABLE, (list(parameters),), deadline_s=DEADLINE_S)
        known = {row[0].lower(): _setting(row) for row in rows}
        for name, value in parameters.items():
            setting = known.get(name)
            reason = _reason(setting, name, value)
            if reason is None and setting is not None and setting.kind == "string":
                reason = await trial.refusal(name, value)
            if reason is not None:
                problems.setdefault(name, Problem(name=name, reason=reason))
        for name, library in libraries(parameters):
            found = await connection.rows(_LIBRARY, (library,), deadline_s=DEADLINE_S)
            if not found[0][1]:
                reason = f"there is no {library}.so in {found[0][0]}"
                problems.setdefault(name, Problem(name=name, reason=reason))
        for problem in await _against_slots(connection, parameters):
            problems.setdefault(problem.name, problem)
        for name, file in await _missing_tls_files(connection, parameters):
            reason = f"there is no file {file} ({name}); every node needs it"
            problems.setdefault("ssl", Problem(name="ssl", reason=reason))
    return tuple(problems.values())


async def _against_slots(
    connection: Connection, parameters: Mapping[str, str]
) -> list[Problem]:
    """Return what does not go with the slots that are kept here."""
    [(slots, logical)] = await connection.rows(_KEPT, deadline_s=DEADLINE_S)
    most = parameters.get("max_replication_slots", "")
    found = []
    if most.isdecimal() and int(most) < slots:
        reason = f"there are {slots} replication slots: drop some first"
        found.append(Problem(name="max_replication_slots", reason=reason))
    if logical and parameters.get("wal_level", "logical").lower() != "logical":
        reason = f"there are {logical} logical replication slots: drop them first"
        found.append(Problem(name="wal_level", reason=reason))
    return found


async def _missing_tls_files(
    connection: Connection, parameters: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return the files that TLS needs, by their settings, and that are not here."""
    rows = await connection.rows(_TLS_FILES, deadline_s=DEADLINE_S)
    present = {str(name): str(value) for name, value in rows}
    wanted = {name: parameters.get(name, value) for name, value in present.items()}
    if wanted == present or wanted.pop("ssl", "off").lower() not in _ON:
        return []
    missing = []
    for name, file in wanted.items():
        if file:
            found = await connection.rows(_EXISTS, (file,), deadline_s=DEADLINE_S)
            missing += [] if found[0][0] else [(name, file)]
    return missing


def _reason(setting: Setting | None, name: str, value: str) -> str | None:
    if setting is not None:
        return judge(setting, value)
    # Extensions that are not loaded yet bring settings of two parts with them.
    return None if "." in name else "this version of PostgreSQL has no such setting"


def _setting(row: tuple[object, ...]) -> Setting:
    name, kind, unit, least, most, choices, context = row
    return Setting(
        name=str(name),
        kind=str(kind),
        unit=None if unit is None else str(unit),
        least=None if least is None else float(str(least)),
        most=None if most is None else float(str(most)),
        choices=tuple(choices) if isinstance(choices, list) else (),
        context=str(context),
    )
