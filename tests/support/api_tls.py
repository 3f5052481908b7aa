"""An API under TLS, for its tests: authorities, certificates, clients."""

import ssl
from pathlib import Path

import httpx

from pgbastion.api.tls import ApiTls, TlsFiles
from pgbastion.config.load import load_config
from pgbastion.config.model import Config
from pgbastion.consensus.certificates import CertificateFacts
from support.api_server import HOST, Api
from support.certificates import make_authority, sign

NAMES = ("tls_cert", "tls_key", "tls_client_ca")


def make_folder(path: Path) -> Path:
    """Make an authority of servers, one of clients, and one that nobody has named."""
    for authority, name in (("servers", "n1"), ("clients", "ann"), ("others", "bob")):
        make_authority(path / authority)
        sign(path / authority, name, HOST)
    return path


def tls_of(files: TlsFiles) -> ApiTls:
    return ApiTls(files, lambda pem: CertificateFacts.read(pem).not_after_s)


def files_of(folder: Path) -> TlsFiles:
    return TlsFiles(
        cert=folder / "servers/n1.crt",
        key=folder / "servers/n1.key",
        client_ca=folder / "clients/ca.crt",
    )


def client_of(api: Api, folder: Path, shown: str | None = None) -> httpx.AsyncClient:
    """Return a client that verifies the server, and may show a certificate."""
    trust = ssl.create_default_context(cafile=folder / "servers/ca.crt")
    if shown is not None:
        trust.load_cert_chain(folder / f"{shown}.crt", folder / f"{shown}.key")
    return httpx.AsyncClient(
        base_url=f"https://{HOST}:{api.port}", verify=trust, trust_env=False
    )


def config_of(folder: Path, **api: object) -> Config:
    path = folder / "pgbastion.yaml"
    keys = "".join(f"{key}: {value}, " for key, value in api.items())
    path.write_text(
        f"node: {{name: n1, address: {HOST}}}\n"
        f"raft: {{data_dir: {folder}/raft, bootstrap: true}}\n"
        f"api: {{{keys}}}\n"
    )
    return load_config(path, machine=False)


def whole(folder: Path) -> dict[str, Path]:
    files = files_of(folder)
    assert files.client_ca is not None
    return dict(zip(NAMES, (files.cert, files.key, files.client_ca), strict=True))
