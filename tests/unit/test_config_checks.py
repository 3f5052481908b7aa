"""What the file alone shows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgbastion.config.checks import check_config
from pgbastion.config.problems import Problem, Severity, errors, render_problems
from pgbastion.model.profile import Profile
from support.configs import of_severity, understood


def errors_of(**sections: Any) -> dict[str, Problem]:
    found = errors(check_config(understood(**sections)))
    return {problem.key: problem for problem in found}


def test_an_ordinary_file_has_neither_error_nor_warning() -> None:
    problems = check_config(understood())

    assert of_severity(problems, Severity.ERROR) == []
    assert of_severity(problems, Severity.WARNING) == []


@pytest.mark.parametrize(
    ("sections", "key", "other"),
    [
        ({"postgresql": {"port": 5432}}, "postgresql.port", "proxy.primary_port"),
        ({"proxy": {"replica_port": 5432}}, "proxy.replica_port", "proxy.primary_port"),
        ({"proxy": {"any_port": 5433}}, "proxy.any_port", "proxy.replica_port"),
        ({"api": {"port": 9090}}, "metrics.port", "api.port"),
        ({"raft": {"bind_port": 8080}}, "api.port", "raft.bind_port"),
        (
            {
                "proxy": {"bind_address": "10.0.1.1"},
                "postgresql": {"listen": "::", "port": 5433},
            },
            "postgresql.port",
            "proxy.replica_port",
        ),
    ],
)
def test_ports_that_clash_are_named_both(
    sections: dict[str, Any], key: str, other: str
) -> None:
    found = errors_of(**sections)

    assert list(found) == [key]
    assert other in found[key].problem


def test_one_port_on_two_addresses_is_no_clash() -> None:
    sections = {
        "proxy": {"bind_address": "10.0.1.9"},
        "postgresql": {"port": 5432},
    }

    assert errors_of(**sections) == {}


@pytest.mark.parametrize("profile", list(Profile))
def test_an_election_time_out_that_uses_up_the_lease_is_refused(
    profile: Profile,
) -> None:
    found = errors_of(
        failover={"profile": profile.value}, raft={"election_timeout": "10s"}
    )

    assert list(found) == ["raft.election_timeout"]


@pytest.mark.parametrize("profile", list(Profile))
def test_the_remedy_for_a_long_election_time_out_works(profile: Profile) -> None:
    failover = {"profile": profile.value}
    found = errors_of(failover=failover, raft={"election_timeout": "10s"})
    remedy = found["raft.election_timeout"].remedy
    most = remedy.partition("at most ")[2].partition(" ")[0]

    assert errors_of(failover=failover, raft={"election_timeout": most}) == {}


def test_a_peer_listed_twice_is_refused() -> None:
    peers = ["10.0.1.2", "10.0.1.2:8300"]

    assert list(errors_of(cluster={"peers": peers})) == ["cluster.peers"]


def test_own_address_with_another_port_is_pointed_out() -> None:
    problems = check_config(understood(cluster={"peers": ["10.0.1.1:8301"]}))

    assert of_severity(problems, Severity.WARNING) == ["cluster.peers"]


def test_a_node_with_nobody_to_join_and_no_bootstrap_is_pointed_out() -> None:
    problems = check_config(understood(cluster={"peers": []}))

    assert of_severity(problems, Severity.WARNING) == ["cluster.peers"]


def test_a_node_that_founds_alone_is_fine() -> None:
    config = understood(cluster={"peers": []}, raft={"bootstrap": True})

    assert of_severity(check_config(config), Severity.WARNING) == []


def test_a_socket_directory_of_91_bytes_is_refused() -> None:
    assert errors_of(postgresql={"socket_dir": "/" + "s" * 89}) == {}
    assert list(errors_of(postgresql={"socket_dir": "/" + "s" * 90})) == [
        "postgresql.socket_dir"
    ]


def test_a_run_directory_too_long_for_sockets_is_refused() -> None:
    config = replace(understood(), run_dir=Path("/" + "r" * 90))

    assert [p.key for p in errors(check_config(config))] == ["node.name"]


@pytest.mark.parametrize(
    ("raft", "data"), [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")]
)
def test_directories_that_lie_in_each_other_are_refused(raft: str, data: str) -> None:
    found = errors_of(raft={"data_dir": raft}, postgresql={"data_dir": data})

    assert list(found) == ["postgresql.data_dir"]


def test_two_roles_of_one_name_are_refused() -> None:
    found = errors_of(postgresql={"rewind_user": "replicator"})

    assert list(found) == ["postgresql.rewind_user"]


@pytest.mark.parametrize(
    "parameter",
    [{"port": 1}, {"fsync": False}, {"synchronous_standby_names": "*"}],
)
def test_settings_that_are_not_the_users_are_refused(parameter: dict[str, Any]) -> None:
    found = errors_of(postgresql={"parameters": parameter})

    assert list(found) == [f"postgresql.parameters.{next(iter(parameter))}"]


def test_the_server_does_not_run_as_root() -> None:
    assert list(errors_of(postgresql={"os_user": "root"})) == ["postgresql.os_user"]


def test_a_listen_address_that_others_do_not_use_is_pointed_out() -> None:
    problems = check_config(understood(postgresql={"listen": "127.0.0.1"}))

    assert of_severity(problems, Severity.WARNING) == ["postgresql.listen"]


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"postgresql": None}, ""),
        ({"cluster": {"peers": ["10.0.1.2"]}}, "cluster.peers"),
        ({"tags": {"failover_priority": 0}}, "tags.failover_priority"),
        ({"tags": {"clonefrom": True}}, "tags.clonefrom"),
        (
            {"postgresql": {"connect_dsn": "postgres://localhost/app"}},
            "postgresql.connect_dsn",
        ),
    ],
)
def test_what_the_file_leaves_open_is_noted(sections: dict[str, Any], key: str) -> None:
    notes = of_severity(check_config(understood(**sections)), Severity.NOTE)

    assert key in notes


def test_a_user_without_the_superusers_rights_is_replaced_in_connect_dsn() -> None:
    problems = check_config(
        understood(postgresql={"connect_dsn": "postgres://probe@/app"})
    )

    assert of_severity(problems, Severity.WARNING) == ["postgresql.connect_dsn"]


def test_database_and_options_of_connect_dsn_are_used_without_a_word() -> None:
    dsn = "dbname=app user=postgres options='-c work_mem=4MB'"

    problems = check_config(understood(postgresql={"connect_dsn": dsn}))

    assert "postgresql.connect_dsn" not in {problem.key for problem in problems}


def test_a_witness_with_default_values_has_no_note_about_keys_it_lacks() -> None:
    notes = of_severity(check_config(understood(postgresql=None)), Severity.NOTE)

    assert set(notes) == {"", "raft.tls_enabled", "cluster.peers"}


def test_plain_transport_is_noted_and_tls_is_not() -> None:
    tls = check_config(understood(raft={"tls_enabled": True}))
    plain = check_config(understood(raft={"tls_enabled": False}))

    assert "raft.tls_enabled" not in {problem.key for problem in tls}
    assert "raft.tls_enabled" in of_severity(plain, Severity.NOTE)


def test_one_of_three_certificate_files_alone_is_refused() -> None:
    raft = {"tls_enabled": True, "tls_cert": "/a.crt"}

    problems = check_config(understood(raft=raft))

    assert sorted(of_severity(problems, Severity.ERROR)) == [
        "raft.tls_ca",
        "raft.tls_key",
    ]


def test_certificates_beside_plain_transport_are_warned_of() -> None:
    files = {"tls_cert": "/a.crt", "tls_key": "/a.key", "tls_ca": "/ca.crt"}

    problems = check_config(understood(raft={"tls_enabled": False, **files}))

    warned = set(of_severity(problems, Severity.WARNING))
    assert {"raft.tls_cert", "raft.tls_key", "raft.tls_ca"} <= warned


def test_six_nodes_are_told_who_votes() -> None:
    peers = [f"10.0.1.{n}:8300" for n in range(1, 7)]

    notes = of_severity(
        check_config(understood(cluster={"peers": peers})), Severity.NOTE
    )

    assert "cluster.peers" in notes


def test_problems_are_shown_with_place_and_remedy_errors_first() -> None:
    problems = [
        Problem(key="a.b", problem="odd", remedy="look", severity=Severity.NOTE),
        Problem(key="c", problem="wrong", remedy="mend"),
    ]

    text = render_problems(problems, Path("f.yaml"), {"a.b": 3, "c": None}.get)

    assert text == (
        "f.yaml: error: c: wrong\n    remedy: mend\n"
        "f.yaml:3: note: a.b: odd\n    remedy: look"
    )


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"tls_cert": "/a"}, {"api.tls_key"}),
        ({"tls_key": "/a"}, {"api.tls_cert"}),
        ({"tls_client_ca": "/a"}, {"api.tls_cert", "api.tls_key"}),
        ({"tls_cert": "/a", "tls_key": "/b"}, set()),
    ],
)
def test_tls_of_the_api_needs_certificate_and_key(
    given: dict[str, str], missing: set[str]
) -> None:
    assert set(errors_of(api=given)) == missing


def test_a_proxy_that_ends_tls_needs_certificate_and_key() -> None:
    found = errors_of(proxy={"tls": {"mode": "terminate", "verify": "full"}})
    assert set(found) == {
        "proxy.tls.cert_file",
        "proxy.tls.key_file",
        "proxy.tls.ca_file",
    }
    whole = {"mode": "terminate", "cert_file": "/a", "key_file": "/b"}
    assert errors_of(proxy={"tls": whole}) == {}


def test_what_has_no_effect_without_an_end_of_tls_is_refused() -> None:
    assert set(errors_of(proxy={"tls": {"required": True, "verify": "ca"}})) == {
        "proxy.tls.required",
        "proxy.tls.verify",
    }
