"""Certificates that nobody else knows."""

import ipaddress
import subprocess
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
