"""What the table of virtual addresses says of a record."""

from typing import Any

from pgbastion.bench.lab.address_sampler import (
    AddressSample,
    Reached,
    Record,
    read_addresses,
)
from pgbastion.bench.lab.checker import Gap
from pgbastion.bench.lab.trial import Trial
from pgbastion.bench.vip import ADDRESSES, Passage, judge

MS = 1_000_000
FAULT_NS = 1_000 * MS
V4, V6 = ADDRESSES


def trial(**changes: Any) -> Trial:
    fields: dict[str, Any] = {
        "fault": "cut",
        "profile": "fast",
        "gap": Gap(start_ns=0, end_ns=1),
        "full_ms": None,
        "fault_ns": FAULT_NS,
        "acknowledged": 10,
        "old_primary": "n1",
        "new_primary": "n2",
        "epochs": (1, 2),
        "same_server": False,
        "rejoin_s": 1.0,
        "checks": {},
        "sampled": None,
        "errors": {},
        **changes,
    }
    return Trial(**fields)


def samples(address: str, *places: str) -> list[AddressSample]:
    """One sample every 10 ms from the fault on; ``n1+n2`` is two nodes."""
    return [
        AddressSample(
            address=address,
            from_ns=FAULT_NS + 10 * MS * turn,
            to_ns=FAULT_NS + 10 * MS * turn + MS,
            at=tuple(place.split("+")) if place else (),
        )
        for turn, place in enumerate(places)
    ]


def passage(
    *places: str, reached_ms: int = 50, claimed_ms: int = 30, **changes: Any
) -> Passage:
    reached = tuple(
        Reached(
            address=address,
            began_ns=FAULT_NS,
            at_ns=FAULT_NS + reached_ms * MS,
            hardware="02",
        )
        for address in ADDRESSES
    )
    record = Record(
        samples=(*samples(V4, *places), *samples(V6, "n1", "", "n2")),
        claims=((FAULT_NS + claimed_ms * MS, "n2"),),
        reached=reached,
    )
    return judge(trial(**changes), record, "02")


def test_a_clean_move_is_clean() -> None:
    found = passage("n1", "", "", "n2", "n2")

    assert found.clean
    assert found.moved
    assert found.nowhere_ms == 11
    assert found.every_ms == 10
    assert found.reach_ms == {V4: 20, V6: 20}


def test_two_nodes_in_one_sample_are_counted() -> None:
    found = passage("n1", "n1+n2", "n2")

    assert found.at_two == 1
    assert not found.clean


def test_the_new_node_before_the_old_one_is_rid_of_it_is_an_overlap() -> None:
    found = passage("n1", "n2", "n1", "n2")

    assert found.overlap
    assert not found.clean


def test_an_address_at_a_node_that_was_no_primary_is_astray() -> None:
    found = passage("n1", "n3", "n2")

    assert found.astray == 1
    assert not found.clean


def test_a_client_that_comes_late_or_never_breaks_the_promise() -> None:
    assert passage("n1", "n2", reached_ms=130).clean
    assert not passage("n1", "n2", reached_ms=131).clean
    assert not judge(
        trial(),
        Record(samples=tuple(samples(V4, "n1", "n2")), claims=(), reached=()),
        "",
    ).clean


def test_after_a_fault_with_several_changes_only_the_samples_are_judged() -> None:
    found = passage("n1", "n2", "n1", "n2", fault="link-flaps")

    assert not found.moved
    assert found.clean


def test_a_record_is_read_as_it_was_written(tmp_path: Any) -> None:
    path = tmp_path / "record"
    path.write_text(
        f"at {V4} 1 2 n1,n2\nat {V6} 1 2 -\nclaim n1 3 4\nreached {V6} 5 6 02:01\n"
    )

    record = read_addresses(path)

    assert [s.at for s in record.samples] == [("n1", "n2"), ()]
    assert record.claims == ((4, "n1"),)
    assert record.reached == (
        Reached(address=V6, began_ns=5, at_ns=6, hardware="02:01"),
    )
