"""Certificates that nobody else knows."""

import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path


def make_certificate(directory: Path, place: str) -> tuple[Path, Path]:
    """Write a certificate for an address or name, which is its own authority."""
    cert, key = directory / "a.crt", directory / "a.key"
    try:
        kind = f"IP:{ipaddress.ip_address(place)}"
    except ValueError:
        kind = f"DNS:{place}"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=test",
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-addext", f"subjectAltName={kind}", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    key.chmod(0o600)
    return cert, key


def make_authority(directory: Path) -> None:
    """Make an authority of a directory's own: ``ca.crt`` and ``ca.key``."""
    directory.mkdir()
    _make(directory, "ca", ["-subj", f"/CN={directory.name}"])


def sign(directory: Path, name: str, address: str, days: int = 50) -> None:
    """Have the directory's authority sign ``NAME.crt``, with a new ``NAME.key``."""
    authority = ("-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key")
    extensions = ("basicConstraints=critical,CA:FALSE", f"subjectAltName=IP:{address}")
    added = [word for text in extensions for word in ("-addext", text)]
    _make(
        directory,
        name,
        [*authority, "-subj", f"/CN={name}", "-days", str(days), *added],
    )


def _make(directory: Path, name: str, options: Sequence[str]) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec",
         "-pkeyopt", "ec_paramgen_curve:prime256v1", *options,
         "-keyout", directory / f"{name}.key", "-out", directory / f"{name}.crt"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    (directory / f"{name}.key").chmod(0o600)
