"""The engine in processes of its own: elections, kills, pauses, restarts."""

import itertools
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.bench._engine_lab import SECRET, Engine, Lab, lab, until
from pgbastion.bench._engine_worker import credentials_of
from pgbastion.consensus import _engine

SUBNET = "127.31.1"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Lab]:
    """A lab without engines."""
    with lab(tmp_path, SUBNET) as made:
        yield made


@pytest.fixture
def three(empty: Lab) -> Lab:
    """A cluster of three voters."""
    empty.form(3)
    return empty


def followers(cluster: Lab) -> list[int]:
    leader = cluster.leader()
    return [member_id for member_id in cluster.up() if member_id != leader]


def test_every_member_has_the_same_log(three: Lab) -> None:
    for member_id, engine in three.engines.items():
        status, _ = engine.ask("propose", data=f"from {member_id}")
        assert status == "ok"

    for engine in three.engines.values():
        assert engine.ask("read_index")[0] == "ok"
        assert engine.ask("log") == ["from 1", "from 2", "from 3"]


def test_a_killed_leader_is_followed_by_another(three: Lab) -> None:
    old = three.leader()
    assert three.engines[old].ask("propose", data="before")[0] == "ok"
    three.engines[old].kill()
    survivor = three.engines[next(iter(three.up()))]

    status, _ = survivor.ask("propose", data="after", timeout_ms=4_000)

    assert status == "ok"
    assert survivor.ask("log") == ["before", "after"]
    assert three.leader() not in {0, old}


def test_what_was_acknowledged_survives_the_death_of_all(three: Lab) -> None:
    for number in range(20):
        assert three.engines[1].ask("propose", data=str(number))[0] == "ok"
    for engine in three.engines.values():
        engine.kill()

    for engine in three.engines.values():
        engine.start()
    three.elected()

    kept = [line for line in three.engines[2].ask("log") if line != "ping"]
    assert kept == [str(number) for number in range(20)]


@pytest.mark.slow
def test_a_paused_follower_does_not_move_leadership(three: Lab) -> None:
    leader = three.leader()
    term = three.engines[leader].status()["term"]
    paused = three.engines[followers(three)[0]]

    paused.signal(signal.SIGSTOP)
    time.sleep(2.0)
    paused.signal(signal.SIGCONT)
    time.sleep(1.0)

    status = three.engines[leader].status()
    assert (status["role"], status["term"]) == ("leader", term)


@pytest.mark.slow
def test_a_paused_leader_is_followed_by_another_and_steps_down(three: Lab) -> None:
    old = three.leader()
    three.engines[old].signal(signal.SIGSTOP)
    other = three.engines[next(m for m in three.engines if m != old)]
    assert other.ask("propose", data="while it sleeps", timeout_ms=4_000)[0] == "ok"

    three.engines[old].signal(signal.SIGCONT)

    until(
        lambda: three.engines[old].ask("log") == ["while it sleeps"],
        "the old leader has what was written without it",
    )
    assert three.engines[old].status()["role"] == "follower"


@pytest.mark.slow
def test_a_blocked_interpreter_does_not_move_leadership(three: Lab) -> None:
    leader = three.engines[three.leader()]
    term = leader.status()["term"]

    leader.ask("block_interpreter", ms=2_000)

    status = leader.status()
    assert (status["role"], status["term"]) == ("leader", term)


@pytest.mark.slow
def test_a_blocked_interpreter_does_not_stop_the_renewals(three: Lab) -> None:
    holder_id = followers(three)[0]
    holder = three.engines[holder_id]
    assert holder.ask("propose", data=f"assign {holder_id}")[0] == "ok"
    holder.ask("hold")
    until(lambda: holder.ask("grants") != [], "the lease is granted")

    holder.ask("block_interpreter", ms=2_500)

    # The lease lasts two seconds: it would have run out.
    until(lambda: len(holder.ask("grants")) > 10, "grants that came meanwhile")
    grants = holder.ask("grants")
    gaps_ns = [later - earlier for earlier, later in itertools.pairwise(grants)]
    assert max(gaps_ns) < 1_500_000_000


def test_leadership_is_handed_over_on_request(three: Lab) -> None:
    old = three.leader()
    new = followers(three)[0]

    assert three.engines[old].ask("transfer", member_id=new)[0] == "ok"

    until(lambda: three.leader() == new, "the other one leads")


def test_every_voter_that_is_up_answers_the_question_of_ages(three: Lab) -> None:
    leader = three.leader()
    gone = followers(three)[0]
    three.engines[gone].kill()

    status, ages = three.engines[leader].ask("ages", timeout_ms=1_000)

    assert status == "ok"
    assert {age[0] for age in ages} == set(three.engines) - {gone}


def test_a_question_to_a_member_is_answered(three: Lab) -> None:
    answer = three.engines[1].ask("request", member_id=2, payload="hello")

    assert answer == ("ok", "re: hello")


def test_a_question_to_a_member_that_is_down_times_out(three: Lab) -> None:
    gone = followers(three)[0]
    three.engines[gone].kill()
    leader = three.engines[three.leader()]

    status, _ = leader.ask("request", member_id=gone, payload="x", timeout_ms=300)

    assert status == "timeout"


def knows_that_it_is_out(engine: Engine) -> bool:
    """Tell whether it applied its own removal, or heard of it at the others' door."""
    refused = ["peer_unreachable", "refused: removed"]
    return engine.status()["role"] == "none" or any(
        line[0] == refused[0] and line[1]["why"] == refused[1]
        for line in engine.ask("lines")
    )


def test_a_removed_member_stays_outside(three: Lab) -> None:
    gone = followers(three)[0]
    leader = three.engines[three.leader()]

    assert leader.ask("change", op="remove", member_id=gone)[0] == "ok"

    until(
        lambda: knows_that_it_is_out(three.engines[gone]),
        "the removed member knows that it is out",
    )
    change = {"op": "add_learner", "member_id": gone, "address": "127.31.1.9:1"}
    assert leader.ask("change", **change) == ("refused", "removed")


def test_a_member_that_was_away_for_long_gets_the_state(three: Lab) -> None:
    away = followers(three)[0]
    three.engines[away].kill()
    leader = three.engines[three.leader()]
    for number in range(5):
        assert leader.ask("propose", data=str(number))[0] == "ok"
    for member_id in three.up():
        three.engines[member_id].ask("compact")
    assert leader.ask("propose", data="later")[0] == "ok"

    three.engines[away].start()

    until(
        lambda: three.engines[away].ask("log") == ["0", "1", "2", "3", "4", "later"],
        "it has the state and what follows",
    )


def test_a_second_process_on_a_directory_is_told_so(empty: Lab) -> None:
    first = empty.add(1)
    second = empty.add(2, dir=str(first.folder / "raft"))

    assert second.failed is not None
    assert "another process is using this Raft directory" in second.failed


def test_an_address_in_use_is_named(empty: Lab) -> None:
    first = empty.add(1)
    second = empty.add(2, listen=first.address)

    assert second.failed is not None
    assert second.failed.startswith(f"cannot listen on {first.address}")


def test_a_disk_without_room_for_the_log_is_named_before_anybody_is_asked(
    empty: Lab,
) -> None:
    """A cluster would let the node in, and put it out, at each of its starts."""
    engine = empty.add(1, file_bytes_max=1 << 20)

    assert engine.failed is not None
    assert "cannot reserve space for the log: File too large" in engine.failed


def test_a_failed_write_of_the_log_ends_the_process_loudly(three: Lab) -> None:
    victim = three.engines[followers(three)[0]]
    victim.ask("forbid_writes")

    three.engines[three.leader()].ask("propose", data="x")

    assert victim.wait() == -signal.SIGABRT
    fatal = [line for line in victim.errors if "pgbastion: fatal" in line]
    assert re.search(r"the consensus log cannot be written: .*File too large", fatal[0])


def test_a_node_without_identity_answers_guests(empty: Lab) -> None:
    engine = empty.add(1)

    guest = credentials_of(SECRET, "127.0.0.1")

    answer = _engine.guest_request(
        engine.address, SECRET, 4, b"hello", 2_000, credentials=guest
    )

    assert answer == b"re: hello"


def test_a_guest_without_the_secret_is_refused(empty: Lab) -> None:
    engine = empty.add(1)

    guest = credentials_of(SECRET, "127.0.0.1")

    with pytest.raises(_engine.EngineError, match="refused: secret"):
        _engine.guest_request(
            engine.address, b"not the secret", 4, b"hello", 2_000, credentials=guest
        )


def test_a_guest_whose_certificate_is_of_another_secret_is_refused(empty: Lab) -> None:
    engine = empty.add(1)
    guest = credentials_of(b"not the secret of it", "127.0.0.1")

    with pytest.raises(_engine.EngineError, match="of another authority"):
        _engine.guest_request(
            engine.address, SECRET, 4, b"hello", 2_000, credentials=guest
        )


def test_a_guest_without_tls_is_refused_and_told_so(empty: Lab) -> None:
    engine = empty.add(1)

    with pytest.raises(_engine.EngineError, match="it speaks TLS"):
        _engine.guest_request(engine.address, SECRET, 4, b"hello", 2_000)

    until(lambda: engine.ask("lines") != [], "the refusal is told")
    [(event, fields)] = engine.ask("lines")
    assert event == "connection_refused"
    assert fields["reason"] == "it does not speak TLS"


def test_renewed_certificates_are_taken_up_without_a_change_of_leader(
    three: Lab,
) -> None:
    leader = three.engines[three.leader()]
    before = leader.status()["term"]

    for engine in three.engines.values():
        engine.ask("renew_certificate")

    for number in range(20):
        assert leader.ask("propose", data=f"w{number}")[0] == "ok"
    assert leader.status()["term"] == before


def test_engines_without_tls_work_where_they_are_told_to(empty: Lab) -> None:
    empty.form(2, plain=True)

    assert empty.engines[2].ask("propose", data="in the clear")[0] == "ok"


def test_identities_are_read_without_starting(three: Lab) -> None:
    found = _engine.inspect(str(three.engines[2].folder / "raft"))

    assert found == (b"cluster", 2)
    assert _engine.inspect(str(three.folder / "nowhere")) is None


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_under_kills_and_pauses(three: Lab) -> None:
    acknowledged: list[str] = []
    number = 0
    for turn in range(6):
        victim = turn % 3 + 1
        engine = three.engines[victim]
        if turn % 2:
            engine.signal(signal.SIGSTOP)
        else:
            engine.kill()
        writer = three.engines[victim % 3 + 1]
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            number += 1
            status, _ = writer.ask("propose", data=f"w{number}", timeout_ms=2_000)
            if status == "ok":
                acknowledged.append(f"w{number}")
        if turn % 2:
            engine.signal(signal.SIGCONT)
        else:
            engine.start()
    three.elected()

    assert len(acknowledged) > 50
    for engine in three.engines.values():
        assert engine.ask("read_index")[0] == "ok"
        assert set(acknowledged) <= set(engine.ask("log"))


def test_members_talk_over_ipv6(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as exc:
            pytest.skip(f"no IPv6 on the loopback: {exc}")
    with lab(tmp_path, SUBNET) as made:
        for member_id in (1, 2):
            made.engines[member_id] = Engine(tmp_path / f"n{member_id}", "[::1]")
        made.engines[1].ask("form", member_id=1)
        until(lambda: made.leader() == 1, "the first member leads")
        made.admit(2)

        assert made.engines[2].ask("propose", data="over IPv6")[0] == "ok"
