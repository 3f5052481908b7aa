"""Certificates in files: made by the commands, taken up by a node while it runs."""

import contextlib
import ssl
import stat
from pathlib import Path

import pytest

from pgbastion.cli import certificates
from pgbastion.cli.problems import RefusedError
from pgbastion.config.facts import gather_facts
from pgbastion.config.load import load_config
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem
from pgbastion.config.tls import check_tls
from pgbastion.consensus.certificates import Authority, CertificateFacts, Files
from pgbastion.errors import ConfigError, ConsensusError
from pgbastion.node import certificates as module
from pgbastion.node.certificates import Certificates

SECRET = b"a secret of these tests"
ADDRESS = "127.31.5.1"


def config_of(folder: Path, tls: str = "") -> Config:
    path = folder / "n1.yaml"
    path.write_text(
        f"node: {{name: n1, address: {ADDRESS}}}\n"
        f"raft: {{data_dir: {folder}/raft, bootstrap: true{tls}}}\n"
        f"cluster: {{secret_file: {folder}/secret}}\n"
    )
    return load_config(path, machine=False)


def with_files(folder: Path) -> Config:
    names = "".join(
        f", {key}: {folder}/tls/{name}"
        for key, name in (
            ("tls_cert", "n1.crt"), ("tls_key", "n1.key"), ("tls_ca", "ca.crt")
        )
    )  # fmt: skip
    return config_of(folder, names)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory with an authority and the certificate of n1."""
    certificates.init(tmp_path / "tls", "lab", 100)
    certificates.issue(tmp_path / "tls", "n1", [ADDRESS, "n1.example.org"], 50)
    return tmp_path


def faults(config: Config) -> list[Problem]:
    return list(check_tls(config, gather_facts(config, {}).tls))


def test_an_authority_signs_nodes_and_keeps_its_key_to_itself(made: Path) -> None:
    tls = made / "tls"
    files = Files(
        certificate=(tls / "n1.crt").read_bytes(),
        key=(tls / "n1.key").read_bytes(),
        authority=(tls / "ca.crt").read_bytes(),
    )

    credentials = files.load()

    facts = CertificateFacts.of(credentials.facts()[0])
    assert facts.places == (ADDRESS, "n1.example.org")
    for key in ("ca.key", "n1.key"):
        assert stat.S_IMODE((tls / key).stat().st_mode) == 0o600
    assert sorted(p.name for p in tls.iterdir()) == [
        "ca.crt", "ca.key", "n1.crt", "n1.key"
    ]  # fmt: skip


def test_an_authority_is_never_written_over(made: Path) -> None:
    with pytest.raises(RefusedError, match="there is an authority"):
        certificates.init(made / "tls", "lab", 100)


def test_a_renewed_certificate_has_the_same_places_and_another_key(made: Path) -> None:
    before = (made / "tls" / "n1.key").read_text()

    certificates.renew(made / "tls", "n1", 60)

    facts = CertificateFacts.read((made / "tls" / "n1.crt").read_bytes())
    assert facts.places == (ADDRESS, "n1.example.org")
    assert (made / "tls" / "n1.key").read_text() != before


@pytest.mark.parametrize("name", ["ca", "../n1"])
def test_a_certificate_takes_no_other_files_place(made: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="no name of a node"):
        certificates.issue(made / "tls", name, [ADDRESS], 1)


def test_without_an_authority_nothing_is_signed(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="pgbastion certs init"):
        certificates.issue(tmp_path, "n1", [ADDRESS], 1)


def test_a_node_signs_its_own_where_no_files_are_named(tmp_path: Path) -> None:
    shown = Certificates(config_of(tmp_path), SECRET).snapshot()

    assert shown is not None
    assert shown.own
    assert ADDRESS in shown.places
    assert 88 <= shown.days_left <= 90
    assert not shown.expires_soon


def test_nodes_of_one_secret_accept_each_other_and_no_others() -> None:
    ours, theirs = Authority.of_secret(SECRET), Authority.of_secret(SECRET + b"!")
    issued = ours.issue("n1", [ADDRESS], 1)

    def files(authority: Authority) -> Files:
        return Files(
            certificate=issued.certificate.encode(),
            key=issued.key.encode(),
            authority=authority.certificate.encode(),
        )

    assert ours.certificate == Authority.of_secret(SECRET).certificate
    files(ours).load()
    with pytest.raises(ConsensusError, match="of another authority"):
        files(theirs).load()


def test_plain_transport_needs_no_certificate(tmp_path: Path) -> None:
    plain = Certificates(config_of(tmp_path, ", tls_enabled: false"), SECRET)

    assert plain.credentials is None
    assert plain.snapshot() is None
    plain.look()


def test_changed_files_are_taken_up(made: Path) -> None:
    held = Certificates(with_files(made), SECRET)
    before = held.snapshot()
    certificates.renew(made / "tls", "n1", 70)

    held.look()

    after = held.snapshot()
    assert before is not None
    assert after is not None
    assert not after.own
    assert after.days_left > before.days_left


def test_half_of_a_change_is_refused_and_the_whole_taken_up(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key first, the certificate a moment later: as copies arrive."""
    held = Certificates(with_files(made), SECRET)
    before = held.snapshot()
    old = (made / "tls" / "n1.crt").read_bytes()
    certificates.renew(made / "tls", "n1", 70)
    new = (made / "tls" / "n1.crt").read_bytes()

    (made / "tls" / "n1.crt").write_bytes(old)
    held.look()
    assert held.snapshot() is not None
    assert before is not None
    assert held.snapshot().expires_s == before.expires_s  # type: ignore[union-attr]

    (made / "tls" / "n1.crt").write_bytes(new)
    held.look()
    assert held.snapshot().days_left > before.days_left  # type: ignore[union-attr]


def test_our_own_certificate_is_renewed_long_before_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OWN_DAYS", 29)
    held = Certificates(config_of(tmp_path), SECRET)
    monkeypatch.setattr(module, "OWN_DAYS", 90)

    held.look()

    shown = held.snapshot()
    assert shown is not None
    assert shown.days_left > 80


def test_a_certificate_that_expires_soon_is_warned_of(made: Path) -> None:
    certificates.renew(made / "tls", "n1", 20)

    shown = Certificates(with_files(made), SECRET).snapshot()

    assert shown is not None
    assert shown.expires_soon
    [problem] = faults(with_files(made))
    assert "expires in" in problem.problem


def test_files_that_cannot_be_used_are_refused_at_start_and_by_check(
    made: Path,
) -> None:
    (made / "tls" / "n1.key").write_text((made / "tls" / "ca.key").read_text())
    config = with_files(made)

    with pytest.raises(ConfigError, match=r"raft\.tls_cert"):
        Certificates(config, SECRET)
    [problem] = faults(config)
    assert problem.key == "raft.tls_cert"


def test_check_names_a_certificate_for_another_address(made: Path) -> None:
    certificates.issue(made / "tls", "n1", ["127.31.5.9"], 50)

    [problem] = faults(with_files(made))

    assert "127.31.5.9" in problem.problem
    assert "certs issue --name n1 --address" in problem.remedy


def test_check_names_a_key_that_others_can_read(made: Path) -> None:
    (made / "tls" / "n1.key").chmod(0o644)

    [problem] = faults(with_files(made))

    assert problem.key == "raft.tls_key"
    assert "0644" in problem.problem


def test_check_names_a_file_that_is_not_there(made: Path) -> None:
    (made / "tls" / "ca.crt").unlink()

    [problem] = faults(with_files(made))

    assert "ca.crt cannot be read" in problem.problem


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RefusedError, match="file/tls: cannot be written"):
        certificates.init(tmp_path / "file" / "tls", "lab", 1)


def test_the_commands_files_serve_the_api_as_well_as_the_engine(made: Path) -> None:
    tls = made / "tls"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls / "n1.crt", tls / "n1.key")
    client = ssl.create_default_context(cafile=tls / "ca.crt")

    shake_hands(client, server, "n1.example.org")

    Files(
        certificate=(tls / "n1.crt").read_bytes(),
        key=(tls / "n1.key").read_bytes(),
        authority=(tls / "ca.crt").read_bytes(),
    ).load()


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Let two sides of TLS accept each other in memory, or raise what one says."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for side in tuple(sides):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
                sides.remove(side)
    assert sides == []
