"""With what commands verify a node's API, and the certificate that they show to it.

Options stand for variables of the environment; both come before the configuration.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from pgbastion.cli.options import CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE
from pgbastion.config.api import ApiSection
from pgbastion.errors import ConfigError


def trust_of(
    environment: Mapping[str, str], api: ApiSection | None = None
) -> ssl.SSLContext | None:
    """Return how a command speaks TLS; None: as this machine's programs do.

    Raises:
        ConfigError: A file that is named cannot be used.
    """
    authorities = environment.get(CA_VARIABLE) or (api and api.tls_ca)
    shown = _shown(environment, api)
    if not authorities and shown is None:
        return None
    try:
        context = ssl.create_default_context(cafile=authorities or None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"{CA_VARIABLE}: cannot use {authorities}: {_words(exc)}"
        ) from exc
    if shown is None:
        return context
    cert, key = shown
    try:
        # A key with a passphrase is refused, instead of asked for at the terminal.
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{CERT_VARIABLE}: cannot use {cert}: {_words(exc)}") from exc
    return context


def _shown(
    environment: Mapping[str, str], api: ApiSection | None
) -> tuple[str | Path, str | Path | None] | None:
    """Return certificate and key; without a file for it the key is in the first."""
    cert = environment.get(CERT_VARIABLE)
    if cert:
        return cert, environment.get(KEY_VARIABLE) or None
    if api is None or api.client_cert is None or api.client_key is None:
        return None
    # Whoever may not read it can still ask what is open to everybody.
    return (
        (api.client_cert, api.client_key)
        if os.access(api.client_key, os.R_OK)
        else None
    )


def _words(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc)
