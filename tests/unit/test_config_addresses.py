"""The section of the virtual addresses: forms, and what is wrong with a value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgbastion.config.addresses import REPLICA_ADDRESSES_MAX
from pgbastion.config.checks import check_config
from pgbastion.config.machine_checks import check_machine
from pgbastion.config.model import resolve, with_defaults
from pgbastion.config.parse import Document, parse_document, parse_file
from pgbastion.config.problems import Problem, Severity
from pgbastion.model.addresses import VirtualAddress
from support.configs import FOUND, GOOD_FACTS, refused, understood, values

ONE = {"address": "10.0.1.100/24", "interface": "eth0"}


def problems_of(vip: dict[str, Any], **sections: Any) -> dict[str, Problem]:
    config = understood(vip=vip, **sections)
    return {p.key: p for p in check_config(config) if p.key.startswith(("vip", "prox"))}


def test_one_address_is_a_section() -> None:
    section = understood(vip=ONE).vip

    assert section is not None
    assert section.renew_interval == 60_000
    assert section.all == (
        VirtualAddress(address="10.0.1.100", prefix=24, interface="eth0"),
    )
    assert problems_of(ONE) == {}


def test_a_list_is_a_section_too() -> None:
    raw: dict[str, Any] = values()
    raw["vip"] = [ONE, {"address": "2001:db8::5/64", "interface": "eth1"}]
    file = parse_file(with_defaults(raw, FOUND))
    assert not isinstance(file, list)
    config = resolve(file, source=Path("x"), found=FOUND)

    assert config.vip is not None
    assert [(str(a), a.interface) for a in config.vip.all] == [
        ("10.0.1.100/24", "eth0"),
        ("2001:db8::5/64", "eth1"),
    ]


@pytest.mark.parametrize(
    ("text", "means"), [("10.0.1.100", "10.0.1.100/32"), ("fd00::5", "fd00::5/128")]
)
def test_an_address_without_prefix_stands_alone_with_a_note(
    text: str, means: str
) -> None:
    vip = {"address": text, "interface": "eth0"}
    section = understood(vip=vip, proxy={"bind_address": "::"}).vip

    assert section is not None
    assert str(section.all[0]) == means
    note = problems_of(vip, proxy={"bind_address": "::"})["vip.address"]
    assert note.severity is Severity.NOTE
    assert means in note.problem


@pytest.mark.parametrize(
    "address",
    ["", "eth0", "10.0.1", "0.0.0.0", "224.0.0.5", "127.0.0.1/8", "fe80::1/64", 7,
     "10.0.1.0/24", "10.0.1.255/24", "10.0.1.1/33", "10.0.1.1/"],
)  # fmt: skip
def test_what_is_no_address_for_clients_is_refused(address: object) -> None:
    assert "vip.address" in refused(vip={"address": address, "interface": "eth0"})


@pytest.mark.parametrize("name", ["", "a b", "eth0/1", "x" * 16, "eth0:1", 5])
def test_what_is_no_interface_is_refused(name: object) -> None:
    assert "vip.interface" in refused(vip={**ONE, "interface": name})


@pytest.mark.parametrize(
    "entries",
    [
        "10.0.0.1",
        [7],
        [{"interface": "eth0"}],
        [{"address": "10.0.0.1", "interface": "eth0", "colour": 1}],
        [{"address": "nowhere", "interface": "eth0"}],
        [ONE] * 33,
    ],
)
def test_what_is_no_list_of_addresses_is_refused(entries: object) -> None:
    assert "vip.addresses" in refused(vip={"addresses": entries})


def test_the_same_address_twice_is_refused() -> None:
    assert "vip.addresses" in problems_of({**ONE, "addresses": [ONE]})


def test_a_nodes_own_address_is_refused() -> None:
    for own in ("10.0.1.1/24", "10.0.1.2/24"):
        assert (
            "own address" in problems_of({**ONE, "address": own})["vip.address"].problem
        )


def test_an_address_needs_an_interface_or_a_hook() -> None:
    bare = {"address": "10.0.1.100/24"}

    assert "vip.interface" in problems_of(bare)
    assert "vip.interface" not in problems_of({**bare, "hook": "/etc/hook"})


def test_a_label_begins_with_its_interface_and_is_for_ipv4() -> None:
    assert problems_of({**ONE, "label": "eth0:pg"}) == {}
    assert "vip.label" in problems_of({**ONE, "label": "pg"})
    six = {"address": "fd00::5/64", "interface": "eth0", "label": "eth0:pg"}
    assert "vip.label" in problems_of(six, proxy={"bind_address": "::"})


def test_the_proxy_has_to_listen_where_clients_come() -> None:
    six = {"address": "fd00::5/64", "interface": "eth0"}

    assert "proxy.bind_address" in problems_of(six)
    assert "proxy.bind_address" not in problems_of(six, proxy={"bind_address": "::"})
    assert "proxy.bind_address" in problems_of(ONE, proxy={"bind_address": "10.0.1.1"})
    assert problems_of(ONE, proxy={"bind_address": "::"}) == {}


def test_an_empty_section_is_none() -> None:
    assert problems_of({}) == {}


def test_the_machine_says_what_it_lacks() -> None:
    config = understood(vip={**ONE, "hook": "/etc/hook"})
    facts = replace(
        GOOD_FACTS,
        interfaces=("lo", "ens3"),
        missing_capabilities=("CAP_NET_RAW",),
        hook_runs=False,
    )

    found = {p.key: p for p in check_machine(config, facts)}

    assert "there is no interface eth0" in found["vip.interface"].problem
    assert "ens3" in found["vip.interface"].remedy
    assert found["vip.interface"].severity is Severity.WARNING
    assert "CAP_NET_RAW missing" in found["vip"].problem
    assert found["vip.hook"].severity is Severity.ERROR


def test_another_system_gets_one_clear_line() -> None:
    facts = replace(GOOD_FACTS, has_addresses=False, interfaces=("en0",))

    found = [
        p for p in check_machine(understood(vip=ONE), facts) if p.key.startswith("vip")
    ]

    assert len(found) == 1
    assert "Linux only" in found[0].problem


SEED = """\
node:
  name: "node1"
  address: "10.0.1.1"
cluster:
  peers:
    - "10.0.1.2"
    - "10.0.1.3"
raft:
  data_dir: "/var/lib/pgbastion/raft"
  bind_port: 8300
  bootstrap: true    # Only true on the first node
proxy:
  primary_port: 5432
  replica_port: 5433
  drain_timeout: 30s
vip:
  address: "10.0.1.100"
  interface: "eth0"
postgresql:
  bin_dir: "/usr/lib/postgresql/16/bin"
  data_dir: "/var/lib/postgresql/16/main"
  connect_dsn: "postgres://localhost/postgres"
api:
  port: 8080
metrics:
  port: 9090
log:
  level: "info"
"""


def test_the_addresses_of_the_promised_file_are_understood_word_for_word() -> None:
    document = parse_document(SEED)
    assert isinstance(document, Document)
    file = parse_file(with_defaults(document.values, FOUND))

    assert not isinstance(file, list), file
    config = resolve(file, source=Path("x"), found=FOUND)
    found = [p for p in check_config(config) if p.key.startswith("vip")]
    assert [p.severity for p in found] == [Severity.NOTE]
    assert "10.0.1.100/32" in found[0].problem


def entries(*roles: str) -> list[dict[str, str]]:
    return [
        {"address": f"10.0.1.{n}/24", "interface": "eth0", "role": role}
        for n, role in enumerate(roles, start=100)
    ]


def test_an_address_has_a_role() -> None:
    section = understood(vip={"addresses": entries("primary", "replica")}).vip

    assert section is not None
    assert [a.address for a in section.primary] == ["10.0.1.100"]
    assert [a.address for a in section.replicas] == ["10.0.1.101"]


@pytest.mark.parametrize("role", ["standby", "", None, 7, ["replica"]])
def test_what_is_no_role_is_refused(role: object) -> None:
    entry = {"address": "10.0.1.100/24", "interface": "eth0", "role": role}

    problem = refused(vip={"addresses": [entry]})["vip.addresses"]

    assert "primary, replica" in problem.problem


def test_there_are_few_addresses_for_replicas() -> None:
    some = {"addresses": entries(*["replica"] * REPLICA_ADDRESSES_MAX)}
    more = {"addresses": entries(*["replica"] * (REPLICA_ADDRESSES_MAX + 1))}

    assert "vip.addresses" not in problems_of(some)
    assert "more than 8" in problems_of(more)["vip.addresses"].problem


def test_a_fallback_of_nothing_is_a_slip() -> None:
    replica = {"addresses": entries("replica"), "replica_fallback": True}
    none = {"addresses": entries("primary"), "replica_fallback": True}

    assert "vip.replica_fallback" not in problems_of(replica)
    assert "vip.replica_fallback" in problems_of(none)
