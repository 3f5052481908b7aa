"""The file's text to the typed model: what is taken and what is refused, by name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbastion.config.model import Found, with_defaults
from pgbastion.config.parse import Document, parse_document, parse_file
from pgbastion.config.problems import Problem
from pgbastion.config.types import Peer, parse_peer
from pgbastion.model.profile import Profile
from support import configs
from support.configs import refused, understood, values

LEAST = """\
node: {name: n1, address: 10.0.1.1}
raft:
  data_dir: /srv/raft
  tls_enabled: false
"""


def test_three_keys_and_a_word_about_tls_make_a_witness() -> None:
    document = parse_document(LEAST)
    assert isinstance(document, Document)

    file = parse_file(with_defaults(document.values, configs.FOUND))

    assert not isinstance(file, list)
    assert file.postgresql is None


def test_every_key_knows_its_line() -> None:
    document = parse_document(LEAST)
    assert isinstance(document, Document)

    assert document.line_of("raft.data_dir") == 3
    assert document.line_of("node.name") == 1
    assert document.line_of("raft.bind_port") == 2
    assert document.line_of("proxy.primary_port") is None


def test_defaults_are_those_of_the_contract() -> None:
    config = understood()
    section = config.postgresql
    assert section is not None

    assert config.cluster.name == "main"
    assert config.raft.bind_port == 8300
    assert config.memberlist.bind_port == 7946
    assert config.memberlist.bind_address == "10.0.1.1"
    assert config.raft.bind_address == section.listen == "10.0.1.1"
    assert (config.proxy.primary_port, config.proxy.replica_port) == (5432, 5433)
    assert (section.port, config.api.port, config.metrics.port) == (5442, 8080, 9090)
    assert config.failover.profile is Profile.NORMAL
    assert config.failover.stop_timeout == 60_000
    assert config.proxy.drain_timeout == 30_000
    assert config.replication.sync_count is None
    assert config.replication.strict is False
    assert section.hba == ("host all all all scram-sha-256",)
    assert section.socket_dir == configs.FOUND.run_dir
    assert section.bin_dir == configs.FOUND.bin_dir


def test_the_nodes_own_entry_is_no_peer() -> None:
    config = understood(cluster={"peers": ["10.0.1.1", "10.0.1.2", "n3:9000"]})

    assert config.peers == (Peer("10.0.1.2", 8300), Peer("n3", 9000))


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("10.0.0.1", Peer("10.0.0.1", 8300)),
        ("10.0.0.1:9", Peer("10.0.0.1", 9)),
        ("[2001:DB8::1]", Peer("2001:db8::1", 8300)),
        ("[::1]:9", Peer("::1", 9)),
        ("Node-2.example.org:70", Peer("node-2.example.org", 70)),
    ],
)
def test_peers_are_read(text: str, peer: Peer) -> None:
    assert parse_peer(text) == peer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "::1",
        "[10.0.0.1]",
        "10.0.0.256",
        "-a",
        "a_b",
        "a b",
        "[::1]9",
        "host:\N{ARABIC-INDIC DIGIT FIVE}",
    ],
)
def test_what_is_no_peer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_peer(text)


@given(st.text(max_size=30))
def test_any_text_is_a_peer_or_refused(text: str) -> None:
    try:
        peer = parse_peer(text)
    except ValueError:
        return
    assert 1 <= peer.port <= 65_535
    assert peer.host


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    problem = refused(proxy={"primry_port": 5432})["proxy.primry_port"]

    assert problem.problem == "unknown key"
    assert "primary_port" in problem.remedy


def test_an_unknown_section_is_refused() -> None:
    assert refused(prxy={"a": 1})["prxy"].problem == "unknown key"


def test_a_word_for_a_boolean_is_refused_with_those_that_are_taken() -> None:
    """YAML 1.2 knows two; "no" is a text, and no text is guessed at."""
    problem = refused(tags={"nofailover": "no"})["tags.nofailover"]

    assert problem.problem == "'no' is neither true nor false"
    assert problem.remedy.startswith("write true or false. ")


def test_traffic_between_nodes_is_encrypted_unless_the_file_says_no() -> None:
    raw = values()
    del raw["raft"]["tls_enabled"]

    file = parse_file(with_defaults(raw, configs.FOUND))

    assert not isinstance(file, list)
    assert file.raft.tls_enabled


def test_a_wrong_address_of_the_node_is_told_once() -> None:
    assert list(refused(node={"address": "node-1"})) == ["node.address"]


def test_all_problems_come_at_once() -> None:
    problems = refused(
        memberlist={"bind_port": 0},
        node={"name": "-", "address": "0.0.0.0"},
        proxy={"primary_port": 0, "hold_timeout": 10, "nonsense": 1},
        failover={"profile": "quick"},
        postgresql={"data_dir": "relative"},
    )

    assert set(problems) == {
        "memberlist.bind_port",
        "node.name",
        "node.address",
        "proxy.primary_port",
        "proxy.hold_timeout",
        "proxy.nonsense",
        "failover.profile",
        "postgresql.data_dir",
    }
    assert all(problem.remedy for problem in problems.values())


@pytest.mark.parametrize(
    ("section", "given"),
    [
        ("node", {"address": "host"}),
        ("node", {"name": 1}),
        ("node", {"name": "n" * 51}),
        ("cluster", {"peers": "10.0.0.1"}),
        ("cluster", {"peers": [1]}),
        ("raft", {"data_dir": "/srv/../raft"}),
        ("raft", {"election_timeout": "0s"}),
        ("raft", {"bind_port": "8300"}),
        ("failover", {"stop_timeout": 60}),
        ("failover", {"max_lag_threshold": 1048576}),
        ("replication", {"mode": "majority"}),
        ("replication", {"sync_count": 0}),
        ("replication", {"sync_count": True}),
        ("replication", {"strict": "yes"}),
        ("proxy", {"max_connections": 0}),
        ("postgresql", {"superuser": "a:b"}),
        ("postgresql", {"rewind_user": "pg_rewinder"}),
        ("postgresql", {"parameters": {"a-b": 1}}),
        ("postgresql", {"parameters": {"work_mem": [1]}}),
        ("postgresql", {"parameters": {"application_name": "a\nb"}}),
        ("postgresql", {"hba": ["host all\nall"]}),
        ("postgresql", {"hba": "host all all all trust"}),
        ("postgresql", {"connect_dsn": "postgres://u:hidden@h/db?nosuch=1"}),
        ("postgresql", {"connect_dsn": "dbname"}),
        ("log", {"level": "verbose"}),
        ("tags", {"failover_priority": -1}),
    ],
)
def test_a_wrong_value_is_refused_at_its_key(
    section: str, given: dict[str, Any]
) -> None:
    assert list(refused(**{section: given})) == [f"{section}.{next(iter(given))}"]


def test_a_refused_connection_string_is_not_shown() -> None:
    problem = refused(postgresql={"connect_dsn": "postgres://u:hidden@h/db?nosuch=1"})

    assert "hidden" not in str(problem)


def test_values_of_parameters_become_text() -> None:
    section = understood(
        postgresql={
            "parameters": {"Work_Mem": "4MB", "jit": False, "max_wal_size": 1024}
        }
    ).postgresql
    assert section is not None

    assert section.parameters == {
        "work_mem": "4MB",
        "jit": "off",
        "max_wal_size": "1024",
    }


def test_a_section_of_comments_alone_is_an_empty_one() -> None:
    raw = {**values(), "proxy": None}

    file = parse_file(with_defaults(raw, configs.FOUND))

    assert not isinstance(file, list)
    assert file.proxy.primary_port == 5432


def test_without_any_postgresql_on_the_machine_the_remedy_says_so() -> None:
    found = Found(run_dir=configs.FOUND.run_dir, bin_dir=None)

    problems = parse_file(with_defaults(values(), found))

    assert isinstance(problems, list)
    assert [p.key for p in problems] == ["postgresql.bin_dir"]
    assert "install" in problems[0].remedy


@pytest.mark.parametrize(
    "text", ["", "- a", "a: [", "a: 1\na: 2", "\tb: 1", "a: &a [*a]", "%"]
)
def test_text_that_is_no_table_is_one_problem(text: str) -> None:
    document = parse_document(text)
    if isinstance(document, Document):
        assert isinstance(parse_file(document.values), list)
    else:
        assert isinstance(document, Problem)


@given(st.text(max_size=200))
def test_any_text_ends_in_problems_or_a_document(text: str) -> None:
    assert isinstance(parse_document(text), Document | Problem)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
SECTIONS = ("node", "cluster", "raft", "proxy", "postgresql", "api", "vip", "watchdog")


@given(st.dictionaries(st.sampled_from(SECTIONS), JSON))
def test_any_values_end_in_problems(raw: dict[str, Any]) -> None:
    assert isinstance(parse_file(with_defaults(raw, configs.FOUND)), list)


def test_the_proxy_listens_on_one_address_or_on_many() -> None:
    assert understood(proxy={"bind_address": "::1"}).proxy.bind_address == ("::1",)
    many = understood(proxy={"bind_address": ["10.0.0.1", "[::1]"]})
    assert many.proxy.bind_address == ("10.0.0.1", "::1")
    assert "empty" in refused(proxy={"bind_address": []})["proxy.bind_address"].problem


def test_an_address_with_host_bits_is_no_network() -> None:
    assert understood(proxy={"allow": ["10.0.0.0/8"]}).proxy.allow == ("10.0.0.0/8",)
    problem = refused(proxy={"allow": ["10.0.0.1/8"]})["proxy.allow"].problem
    assert "not a network" in problem
