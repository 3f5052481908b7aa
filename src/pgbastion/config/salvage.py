"""The part of a file that can be judged although some of its values are wrong. Pure.

So that everything that is wrong is said at once, and not one layer after the other.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

# What has to be there, in place of a value that was found wrong. What is said of a
# stand-in is said under its key, by which it is left out.
_STAND_INS: Final[Mapping[str, str]] = {
    "node.name": "node",
    "node.address": "127.0.0.1",
    "raft.data_dir": "/var/lib/pgbastion/raft",
    "postgresql.data_dir": "/var/lib/postgresql/pgbastion",
    "postgresql.bin_dir": "/usr/bin",
}
_NEEDED: Final = ("node", "raft")
# Whether these fit is told by the other one alone.
_TOLD_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "failover.profile": ("raft.heartbeat_interval", "raft.election_timeout")
}


def salvage(values: Mapping[str, Any], wrong: Collection[str]) -> dict[str, Any]:
    """Return the values without the ``wrong`` keys, what has to be there stood in for.

    Args:
        values: The mapping of the file.
        wrong: Dotted paths of keys that are missing, unknown or have a wrong value.
    """
    left = {name: _copy(value) for name, value in values.items()}
    for key in wrong:
        for each in (key, *_TOLD_BY.get(key, ())):
            _take_out(left, each.split("."))
    for section in set(_NEEDED) & set(wrong):
        left[section] = {}
    for key, value in _STAND_INS.items():
        section, _, name = key.partition(".")
        if key in wrong or (section in wrong and section in left):
            left[section] = {**(left.get(section) or {}), name: value}
    return left


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(each) for name, each in value.items()}
    return value


def _take_out(table: dict[str, Any], path: list[str]) -> None:
    *parents, last = path
    for name in parents:
        below = table.get(name)
        if not isinstance(below, dict):
            # It is written in another form, as a list for instance.
            table.pop(name, None)
            return
        table = below
    table.pop(last, None)
