"""Which nodes a command asks, and how it proves who asks.

Both come from the options, the environment and the configuration, in this order.
"""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pgbastion.cli.client import Client, Target
from pgbastion.cli.options import CERT_VARIABLE
from pgbastion.cli.trust import trust_of
from pgbastion.config.model import Config
from pgbastion.config.reading import understand
from pgbastion.config.secrets import TOKEN_FILE_NAME, TOKEN_VARIABLE, strip_line_end
from pgbastion.errors import ConfigError
from pgbastion.model.cluster import join_host_port

WITHOUT_FILE: Final = "nodes can be asked all the same: --url http://HOST:8080"


def reader(config: Path, url: str | None) -> Client:
    """Return who answers questions.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood.
    """
    return Client(target_of(config, url, os.environ))


def writer(config: Path, url: str | None) -> Client:
    """Return who takes orders.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood, or the token
            cannot be read.
    """
    return Client(writing_target(config, url, os.environ))


def writer_here(config: Path, url: str | None) -> Client:
    """Return who takes an order that is for one node: this one, or that of ``url``.

    Raises:
        ConfigError: As :func:`writer`.
    """
    target = writing_target(config, url, os.environ)
    return Client(replace(target, urls=target.urls[:1]))


def target_of(config: Path, url: str | None, environment: Mapping[str, str]) -> Target:
    """Return where to ask: at ``url``, else this node, else its peers.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood, or a file that
            is named for TLS cannot be used.
    """
    token = environment.get(TOKEN_VARIABLE)
    if url is not None:
        return Target(urls=_given(url), token=token, trust=trust_of(environment))
    try:
        found = understand(config)
    except ConfigError as exc:
        # A daemon goes on with the file that it has read.
        raise ConfigError(f"{exc}\n{WITHOUT_FILE}") from exc
    return Target(
        urls=urls_of(found),
        token=token or _read_token(found),
        trust=trust_of(environment, found.api),
    )


def writing_target(
    config: Path, url: str | None, environment: Mapping[str, str]
) -> Target:
    """Return where to send orders, with the token or the certificate they need.

    Raises:
        ConfigError: No ``url`` is given and the file is not understood, a file that is
            named for TLS cannot be used, or the token cannot be read and there is no
            certificate.
    """
    token = environment.get(TOKEN_VARIABLE)
    proven = token is not None or CERT_VARIABLE in environment
    if url is not None and proven:
        return Target(urls=_given(url), token=token, trust=trust_of(environment))
    try:
        found = understand(config)
    except ConfigError as exc:
        if url is None:
            raise
        raise ConfigError(
            f"an order needs a token or a certificate: set {TOKEN_VARIABLE}, or name "
            f"with --config a file that says where it is ({config} does not)"
        ) from exc
    urls = urls_of(found) if url is None else _given(url)
    trust = trust_of(environment, found.api)
    if token is None:
        shows = CERT_VARIABLE in environment or found.api.client_cert is not None
        token = _write_token(found, needed=not shows)
    return Target(urls=urls, token=token, trust=trust)


def urls_of(config: Config) -> tuple[str, ...]:
    """Return this node's API, then those of its peers.

    A peer's port, and whether it speaks TLS, are taken to be as this node's: the list
    of peers has Raft's.
    """
    secured = config.api.tls_cert is not None
    own = ipaddress.ip_address(config.api.bind_address)
    if own.is_unspecified and secured:
        # That is what its certificate is for.
        own = ipaddress.ip_address(config.node.address)
    elif own.is_unspecified:
        own = ipaddress.ip_address("127.0.0.1" if own.version == 4 else "::1")
    others = (p.host for p in config.cluster.peers if p.host != config.node.address)
    port = config.api.port
    scheme = "https" if secured else "http"
    return tuple(f"{scheme}://{join_host_port(h, port)}" for h in (str(own), *others))


def _given(url: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in url.split(",") if part.strip()) or (url,)


def _read_token(config: Config) -> str | None:
    """Return the token for reading where one is needed and this user may read it."""
    path = config.api.read_token_file
    if path is None:
        return None
    try:
        return _one_line(path)
    except OSError:
        return None


def _write_token(config: Config, *, needed: bool) -> str | None:
    path = config.api.auth_token_file or config.raft.data_dir / TOKEN_FILE_NAME
    try:
        return _one_line(path)
    except OSError as exc:
        if not needed:
            return None
        raise ConfigError(
            f"cannot read the token in {path}: run this as the daemon's user, or set "
            f"{TOKEN_VARIABLE}"
        ) from exc


def _one_line(path: Path) -> str:
    return strip_line_end(path.read_bytes()).decode(errors="replace")
