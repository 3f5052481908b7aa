"""TLS on the ports of the API: who gets in, and certificates that change meanwhile."""

import asyncio
import json
import logging
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest

from pgbastion.api import tls as module
from pgbastion.api.tls import TlsFiles
from pgbastion.cli.exits import Exit
from pgbastion.cli.target import urls_of
from pgbastion.config.facts import gather_facts
from pgbastion.config.machine import ApiTlsFacts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity
from pgbastion.config.tls import check_api_tls
from pgbastion.consensus.certificates import CertificateFacts
from pgbastion.errors import ApiError
from pgbastion.node.parts import own_member
from pgbastion.observe.logging import fields_of
from support.api_server import AUTHORISED, HOST, Api, serve
from support.api_tls import (
    NAMES,
    client_of,
    config_of,
    files_of,
    make_folder,
    tls_of,
    whole,
)
from support.certificates import sign
from support.cli import run

pytestmark = pytest.mark.anyio

DAEMON_HOST = "127.38.7.1"
DAEMON_S = 25.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A test's own copy of the files."""
    return Path(shutil.copytree(made, tmp_path / "tls"))


async def test_who_speaks_in_the_clear_gets_no_answer(folder: Path) -> None:
    async with serve(tls=tls_of(files_of(folder))) as api:
        assert await api.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""


@pytest.mark.parametrize("metrics_only", [False, True])
async def test_reading_is_as_it_was(folder: Path, metrics_only: bool) -> None:
    tls = tls_of(files_of(folder))
    async with (
        serve(metrics_only=metrics_only, tls=tls) as api,
        client_of(api, folder) as client,
    ):
        assert (await client.get("/metrics")).status_code == 200


async def test_changing_needs_the_token_or_a_certificate(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pgbastion.audit")
    async with serve(tls=tls_of(files_of(folder))) as api:
        async with client_of(api, folder) as client:
            without = await client.post("/reload")
            token = await client.post("/reload", headers=AUTHORISED)
        async with client_of(api, folder, "clients/ann") as client:
            shown = await client.post("/reload")

    assert (without.status_code, token.status_code, shown.status_code) == (
        401,
        200,
        200,
    )
    said = [fields_of(r)["by"] for r in caplog.records if r.message == "audit"]
    assert said == ["nobody", "the writing token", "the certificate commonName=ann"]


async def test_a_foreign_page_cannot_use_the_certificate_of_its_reader(
    folder: Path,
) -> None:
    async with (
        serve(tls=tls_of(files_of(folder))) as api,
        client_of(api, folder, "clients/ann") as client,
    ):
        answer = await client.post("/reload", headers={"Origin": "https://x.example"})

    assert answer.status_code == 403
    assert api.commands.reloads == 0


async def test_a_certificate_of_another_authority_is_refused(folder: Path) -> None:
    async with (
        serve(tls=tls_of(files_of(folder))) as api,
        client_of(api, folder, "others/bob") as client,
    ):
        with pytest.raises(httpx.TransportError):
            await client.post("/reload", headers=AUTHORISED)

    assert api.commands.reloads == 0


async def test_a_certificate_is_of_no_use_where_none_is_asked_for(folder: Path) -> None:
    tls = tls_of(TlsFiles(cert=files_of(folder).cert, key=files_of(folder).key))
    async with serve(tls=tls) as api, client_of(api, folder, "clients/ann") as client:
        assert (await client.post("/reload")).status_code == 401


async def test_a_handshake_that_does_not_end_is_ended(folder: Path) -> None:
    async with serve(tls=tls_of(files_of(folder)), exchange_s=0.2) as api:
        assert await api.raw(b"\x16\x03\x01") == b""


async def shown_by(api: Api) -> CertificateFacts:
    """Return what the certificate says that the server shows to any client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(HOST, api.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return CertificateFacts.read(ssl.DER_cert_to_PEM_cert(der).encode())


async def test_a_new_certificate_is_shown_without_a_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.01)
    tls = tls_of(files_of(folder))
    async with serve(tls=tls) as api:
        before = await shown_by(api)
        sign(folder / "servers", "n2", HOST)
        watching = asyncio.create_task(tls.run())
        for kind in ("key", "crt"):
            (folder / f"servers/n2.{kind}").replace(folder / f"servers/n1.{kind}")
        async with asyncio.timeout(10):
            while (after := await shown_by(api)) == before:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        watching.cancel()

    assert after == CertificateFacts.read((folder / "servers/n1.crt").read_bytes())
    assert after.subject != before.subject


async def test_the_end_of_the_certificate_in_use_is_known(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = tls_of(files_of(folder))
    before = tls.snapshot()
    sign(folder / "servers", "n1", HOST, days=1)
    tls.look()
    after = tls.snapshot()
    tls.look()

    assert (before.expires_soon, after.expires_soon) == (False, True)
    assert before.expires_s > after.expires_s > 0
    assert 0 < after.left_s <= 86_400
    said = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    # A state that stays is told once.
    assert said == ["api_certificate_expires"]


async def test_half_of_a_change_leaves_the_old_pair_in_use(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = tls_of(files_of(folder))
    async with serve(tls=tls) as api:
        before = await shown_by(api)
        sign(folder / "servers", "n2", HOST)
        (folder / "servers/n2.crt").replace(folder / "servers/n1.crt")
        tls.look()
        assert await shown_by(api) == before
        (folder / "servers/n1.crt").unlink()
        tls.look()
        assert await shown_by(api) == before

    said = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert said == ["api_certificate_not_usable"] * 2


async def test_an_authority_that_was_taken_out_is_not_trusted_any_more(
    folder: Path,
) -> None:
    tls = tls_of(files_of(folder))
    async with serve(tls=tls) as api:
        (folder / "others/ca.crt").replace(folder / "clients/ca.crt")
        tls.look()
        async with client_of(api, folder, "others/bob") as client:
            assert (await client.post("/reload")).status_code == 200
        async with client_of(api, folder, "clients/ann") as client:
            with pytest.raises(httpx.TransportError):
                await client.post("/reload", headers=AUTHORISED)

    assert api.commands.reloads == 1


async def test_a_resumed_session_proves_nothing(folder: Path) -> None:
    """TLS 1.2 keeps sessions in the server: one outlives its authority's removal."""
    context = ssl.create_default_context(cafile=folder / "servers/ca.crt")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "clients/ann.crt", folder / "clients/ann.key")

    def ask(
        port: int, session: ssl.SSLSession | None
    ) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection((HOST, port), timeout=10) as plain,
            context.wrap_socket(
                plain, server_hostname=HOST, session=session
            ) as secured,
        ):
            secured.sendall(b"POST /reload HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
            return secured.recv(12), secured.session, secured.session_reused

    async with serve(tls=tls_of(files_of(folder))) as api:
        first, session, _ = await asyncio.to_thread(ask, api.port, None)
        second, _, reused = await asyncio.to_thread(ask, api.port, session)

    assert first == b"HTTP/1.1 200"
    assert reused
    assert second == b"HTTP/1.1 401"


# What check and the command line make of it


def faults(config: Config) -> dict[str, Problem]:
    found = check_api_tls(config, gather_facts(config, {}).api_tls)
    return {problem.key: problem for problem in found}


def test_good_files_are_not_complained_of(folder: Path) -> None:
    assert faults(config_of(folder, **whole(folder))) == {}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [None, b"no certificate", b"\xff\x00"])
def test_a_file_of_no_use_is_named(
    folder: Path, name: str, content: bytes | None
) -> None:
    path = whole(folder)[name]
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)

    (problem,) = faults(config_of(folder, **whole(folder))).values()

    assert problem.key == f"api.{name}"
    assert str(path) in problem.problem
    assert problem.severity is Severity.ERROR
    with pytest.raises(ApiError):
        tls_of(files_of(folder))


def test_a_key_of_another_certificate_is_named(folder: Path) -> None:
    shutil.copy(folder / "others/bob.key", folder / "servers/n1.key")

    (problem,) = faults(config_of(folder, **whole(folder))).values()

    assert problem.key == "api.tls_key"
    assert "MISMATCH" in problem.problem


def test_a_key_that_wants_a_passphrase_is_refused(
    folder: Path,
) -> None:
    key = folder / "servers/n1.key"
    plain = key.rename(folder / "plain.key")
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", plain, "-out", key],
        check=True, capture_output=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip

    assert list(faults(config_of(folder, **whole(folder)))) == ["api.tls_key"]


def test_a_key_that_others_can_read_is_warned_of(folder: Path) -> None:
    (folder / "servers/n1.key").chmod(0o644)

    (problem,) = faults(config_of(folder, **whole(folder))).values()

    assert problem.severity is Severity.WARNING
    assert problem.remedy.startswith("chmod 600")


@pytest.mark.parametrize(("days", "word"), [(5, "expires in"), (-5, "expired 5 days")])
def test_the_end_of_a_certificate_is_warned_of_and_refuses_no_start(
    folder: Path, days: int, word: str
) -> None:
    config = config_of(folder, **whole(folder))
    facts = ApiTlsFacts(days_left=days, key_mode=0o600)

    (problem,) = check_api_tls(config, facts)

    assert problem.severity is Severity.WARNING
    assert word in problem.problem


def test_the_member_and_the_command_line_say_https(folder: Path) -> None:
    secured = config_of(folder, **whole(folder))
    plain = config_of(folder)

    assert own_member(secured).api_url == f"https://{HOST}:8080"
    assert own_member(plain).api_url == f"http://{HOST}:8080"
    assert urls_of(secured) == (f"https://{HOST}:8080",)
    assert urls_of(plain) == ("http://127.0.0.1:8080",)


async def test_the_command_line_asks_over_tls(folder: Path) -> None:
    async with serve(tls=tls_of(files_of(folder))) as api:
        url = f"https://{HOST}:{api.port}"
        trusting = {"PGBASTION_CA_FILE": str(folder / "servers/ca.crt")}
        good, bad = await asyncio.gather(
            asyncio.to_thread(partial(run, "list", "--url", url, **trusting)),
            asyncio.to_thread(partial(run, "list", "--url", url)),
        )

    assert good.returncode == Exit.OK, good.stderr
    assert bad.returncode == Exit.UNREACHABLE


# In a daemon


def said_by(log: Path) -> list[str]:
    """Return the events that a daemon has told of so far."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    return [json.loads(line)["event"] for line in lines]


async def until(log: Path, event: str, times: int = 1) -> None:
    async with asyncio.timeout(DAEMON_S):
        while said_by(log).count(event) < times:  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_daemon_takes_new_files_at_a_reload_and_by_itself(folder: Path) -> None:
    bound = f"bind_address: {DAEMON_HOST}"
    files = "".join(f", {key}: {path}" for key, path in whole(folder).items())
    config, log = folder / "pgbastion.yaml", folder / "log"
    config.write_text(
        f"node: {{name: n1, address: {DAEMON_HOST}}}\n"
        f"cluster: {{secret_file: {folder}/secret}}\n"
        f"raft: {{data_dir: {folder}/raft, bootstrap: true}}\n"
        f"proxy: {{{bound}}}\nmetrics: {{{bound}}}\napi: {{{bound}{files}}}\n"
        "log: {format: json}\n"
    )
    program = Path(sys.executable).with_name("pgbastion")
    with log.open("wb") as file:
        daemon = await asyncio.create_subprocess_exec(
            program, "start", "-c", config, stderr=file
        )
    try:
        await until(log, "member")
        sign(folder / "servers", "n1", DAEMON_HOST)
        daemon.send_signal(signal.SIGHUP)
        await until(log, "reloaded")
        assert "api_certificate_read" in said_by(log)

        sign(folder / "servers", "n1", DAEMON_HOST)
        await until(log, "api_certificate_read", times=2)

        trust = ssl.create_default_context(cafile=folder / "servers/ca.crt")
        async with httpx.AsyncClient(verify=trust, trust_env=False) as client:
            for port in (8080, 9090):
                url = f"https://{DAEMON_HOST}:{port}/metrics"
                assert (await client.get(url)).status_code == 200
    finally:
        daemon.terminate()
        try:
            await asyncio.wait_for(daemon.wait(), DAEMON_S)
        except TimeoutError:
            daemon.kill()
            await daemon.wait()
