"""Makes certificates in files, for operators who do not want the nodes to.

A directory holds the authority (``ca.crt``, and ``ca.key`` with mode 0600) and the
certificates that it has signed (``NAME.crt``, ``NAME.key``).
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pgbastion.cli.problems import RefusedError
from pgbastion.consensus.certificates import Authority, CertificateFacts, Issued
from pgbastion.errors import ConsensusError

AUTHORITY: Final = "ca"


def init(directory: Path, cluster: str, days: int, *, dry_run: bool = False) -> None:
    """Make an authority in a directory that has none.

    Raises:
        RefusedError: There is one, or it cannot be written.
    """
    certificate, key = _pair(directory, AUTHORITY)
    if certificate.exists() or key.exists():
        raise RefusedError(
            f"{certificate}: there is an authority; remove it to make another"
        )
    if dry_run:
        print(f"{certificate} and {key} would be made")
        return
    authority = Authority.generate(f"{cluster} pgbastion authority", days)
    made = Issued(certificate=authority.certificate, key=authority.key)
    _write(directory, AUTHORITY, made)
    print(f"{certificate}: the authority; every node gets a copy (raft.tls_ca)")
    print(f"{key}: its key; keep it off the nodes")


def issue(
    directory: Path,
    name: str,
    places: Sequence[str],
    days: int,
    *,
    dry_run: bool = False,
) -> None:
    """Sign a certificate for a node.

    Raises:
        RefusedError: It cannot be.
    """
    if name == AUTHORITY or "/" in name:
        raise RefusedError(f"{name}: no name of a node")
    try:
        made = _authority(directory).issue(name, places, days)
    except ConsensusError as exc:
        raise RefusedError(str(exc)) from exc
    if dry_run:
        certificate, key = _pair(directory, name)
        print(f"{certificate} and {key} would be made, for {', '.join(places)}")
        return
    _write(directory, name, made)
    _show(directory, name)


def renew(directory: Path, name: str, days: int, *, dry_run: bool = False) -> None:
    """Sign a certificate anew, with another key, for the same addresses and names.

    Raises:
        RefusedError: There is none.
    """
    facts = _facts(directory, name)
    issue(directory, name, facts.places, days, dry_run=dry_run)


def _show(directory: Path, name: str) -> None:
    certificate, key = _pair(directory, name)
    facts = _facts(directory, name)
    until = datetime.fromtimestamp(facts.not_after_s, UTC).date().isoformat()
    print(
        f"{certificate}: for {', '.join(facts.places)}, until {until} (raft.tls_cert)"
    )
    print(f"{key}: its key (raft.tls_key)")


def _facts(directory: Path, name: str) -> CertificateFacts:
    certificate, _ = _pair(directory, name)
    try:
        return CertificateFacts.read(certificate.read_bytes())
    except OSError as exc:
        raise RefusedError(f"{certificate}: cannot be read: {exc.strerror}") from exc
    except ConsensusError as exc:
        raise RefusedError(f"{certificate}: {exc}") from exc


def _authority(directory: Path) -> Authority:
    certificate, key = _pair(directory, AUTHORITY)
    try:
        return Authority.read(certificate.read_text(), key.read_text())
    except OSError as exc:
        raise RefusedError(
            f"{exc.filename}: cannot be read: {exc.strerror}; pgbastion certs init "
            "makes an authority"
        ) from exc
    except ConsensusError as exc:
        raise RefusedError(f"{directory}: no authority: {exc}") from exc


def _pair(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.crt", directory / f"{name}.key"


def _write(directory: Path, name: str, made: Issued) -> None:
    """Write both; each appears under its name complete, the key for nobody else."""
    certificate, key = _pair(directory, name)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text, mode in (
            (key, made.key, 0o600),
            (certificate, made.certificate, 0o644),
        ):
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, mode), "w") as file:
                os.fchmod(file.fileno(), mode)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as exc:
        raise RefusedError(
            f"{exc.filename}: cannot be written: {exc.strerror}"
        ) from exc
