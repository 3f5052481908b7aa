"""Clients' certificates: what they open, and commands that show one."""

import asyncio
import shutil
from functools import partial
from pathlib import Path

import pytest

from pgbastion.api.access import ALWAYS_OPEN
from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import CHANGES, READS
from pgbastion.api.ports import Tokens
from pgbastion.cli.exits import Exit
from pgbastion.errors import ConfigError
from support.api_server import HOST, WRITE, serve
from support.api_tls import client_of, config_of, files_of, make_folder, tls_of, whole
from support.cli import run

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A test's own copy of the files."""
    return Path(shutil.copytree(made, tmp_path / "tls"))


@pytest.mark.parametrize("read_token", [None, "reading"])
async def test_a_certificate_opens_every_endpoint(
    folder: Path, read_token: str | None
) -> None:
    async with serve(tls=tls_of(files_of(folder))) as api:
        api.tokens = Tokens(write=WRITE, read=read_token)
        async with client_of(api, folder, "clients/ann") as client:
            for path in (*CHECKS, *READS, "/metrics", "/openapi.json"):
                assert (await client.get(path)).status_code in (200, 503), path
            for method, path in CHANGES:
                answer = await client.request(method, path, content=b"not json")
                assert answer.status_code == 400, path
        async with client_of(api, folder) as client:
            for path in (*READS, "/metrics", "/openapi.json"):
                is_open = read_token is None or path in ALWAYS_OPEN
                answer = await client.get(path)
                assert answer.status_code == (200 if is_open else 401), path
            for method, path in CHANGES:
                answer = await client.request(method, path, content=b"not json")
                assert answer.status_code == 401, path


def showing(folder: Path, name: str = "clients/ann") -> dict[str, str]:
    """Return the environment of a command that has a certificate."""
    return {
        "PGBASTION_CA_FILE": str(folder / "servers/ca.crt"),
        "PGBASTION_CERT_FILE": str(folder / f"{name}.crt"),
        "PGBASTION_KEY_FILE": str(folder / f"{name}.key"),
    }


async def ordered(*arguments: str, **environment: str) -> Exit:
    done = await asyncio.to_thread(partial(run, *arguments, **environment))
    return Exit(done.returncode)


async def test_a_command_may_show_a_certificate_instead_of_a_token(
    folder: Path,
) -> None:
    options = ("--cacert", "--cert", "--key")
    given = [
        word
        for option, path in zip(options, showing(folder).values(), strict=True)
        for word in (option, path)
    ]
    config = folder / "pgbastion.yaml"
    files = {
        "tls_ca": folder / "servers/ca.crt",
        "client_cert": folder / "clients/ann.crt",
        "client_key": folder / "clients/ann.key",
    }
    async with serve(tls=tls_of(files_of(folder))) as api:
        config_of(folder, port=api.port, **files, **whole(folder))
        url = f"https://{HOST}:{api.port}"
        api.tokens = Tokens(write=WRITE, read="reading")
        done = await asyncio.gather(
            ordered("pause", "--url", url, **showing(folder)),
            ordered(*given, "pause", "--url", url),
            ordered("pause", "-c", str(config)),
            ordered("list", "-c", str(config)),
        )

    assert set(done) == {Exit.OK}
    assert api.commands.pauses == [True] * 3


async def test_a_certificate_of_no_use_is_named(folder: Path) -> None:
    absent = {**showing(folder), "PGBASTION_CERT_FILE": str(folder / "none.crt")}
    halves = {**showing(folder), "PGBASTION_KEY_FILE": str(folder / "others/bob.key")}
    async with serve(tls=tls_of(files_of(folder))) as api:
        url = f"https://{HOST}:{api.port}"
        done = await asyncio.gather(
            ordered("pause", "--url", url, **absent),
            ordered("pause", "--url", url, **halves),
            # It is sent, and refused within the handshake or just after it.
            ordered("pause", "--url", url, **showing(folder, "others/bob")),
        )

    assert set(done[:2]) == {Exit.CONFIG}
    assert done[2] in (Exit.UNREACHABLE, Exit.UNFINISHED)
    assert not api.commands.pauses


@pytest.mark.parametrize("key", ["client_cert", "client_key"])
def test_half_of_a_pair_is_named(folder: Path, key: str) -> None:
    (other,) = {"client_cert", "client_key"} - {key}

    with pytest.raises(ConfigError, match=f"api.{other}: is missing: {key} alone"):
        config_of(folder, **{key: folder / "clients/ann.crt"})
