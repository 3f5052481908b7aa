"""The table of what a reload makes of each key: complete, and true."""

from collections.abc import Iterator

import pytest

from pgbastion.config.model import File
from pgbastion.config.parse import section_at
from pgbastion.config.reload import APPLIED, HELD_BY_CLUSTER, NEEDS_RESTART


def keys() -> Iterator[str]:
    """Yield every key of the file, down to the sections."""
    for name in File.model_fields:
        section = section_at([name])
        if section is not None:
            yield from (f"{name}.{key}" for key in section.model_fields)


def classes(key: str) -> list[str]:
    """Return the classes of the table that a key is in."""
    section = key.partition(".")[0]
    known = {
        "applied": APPLIED,
        "held": HELD_BY_CLUSTER,
        "restart": frozenset(NEEDS_RESTART),
    }
    return [name for name, table in known.items() if key in table or section in table]


@pytest.mark.parametrize("key", sorted(keys()))
def test_each_key_is_in_exactly_one_class(key: str) -> None:
    assert len(classes(key)) == 1


def test_every_entry_of_the_table_is_a_key_or_a_section() -> None:
    known = set(keys()) | set(File.model_fields)

    assert APPLIED | HELD_BY_CLUSTER | set(NEEDS_RESTART) <= known
