"""Judges the operator's certificates: between the nodes, and for the API. Pure."""

from collections.abc import Iterator
from typing import Final

from pgbastion.config.machine import ApiTlsFacts, TlsFacts
from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity

WARN_BELOW_DAYS: Final = 21
_OTHERS: Final = 0o077


def check_tls(config: Config, tls: TlsFacts | None) -> Iterator[Problem]:
    """Yield what the others, or this machine, would refuse of them."""
    if tls is None or not config.raft.tls_enabled:
        return
    if tls.fault is not None:
        yield Problem(
            key="raft.tls_cert",
            problem=tls.fault,
            remedy="correct it, or remove raft.tls_cert, tls_key and tls_ca: then "
            "the nodes sign their own",
        )
        return
    if tls.key_mode & _OTHERS:
        yield Problem(
            key="raft.tls_key",
            problem=f"the file has mode {tls.key_mode:04o}: others can use the key",
            remedy=f"chmod 600 {config.raft.tls_key}",
            severity=Severity.WARNING,
        )
    if config.node.address not in tls.places:
        yield Problem(
            key="raft.tls_cert",
            problem=f"the certificate is for {', '.join(tls.places) or 'no address'}, "
            f"and the other nodes call {config.node.address}",
            remedy="have node.address put into its alternative names: pgbastion certs "
            f"issue --name {config.node.name} --address {config.node.address}",
        )
    if tls.days_left < WARN_BELOW_DAYS:
        yield Problem(
            key="raft.tls_cert",
            problem=f"the certificate expires in {tls.days_left} days",
            remedy="replace it; a running node takes the new one up by itself",
            severity=Severity.WARNING,
        )


def check_api_tls(config: Config, tls: ApiTlsFacts | None) -> Iterator[Problem]:
    """Yield what is wrong with the files of the API's ports.

    An end that has passed is no reason to refuse a start: PostgreSQL needs no API.
    """
    if tls is None:
        return
    if tls.fault is not None:
        yield Problem(
            key=f"api.{tls.key}",
            problem=tls.fault,
            remedy="correct the file, readable for the daemon's user; or remove "
            "api.tls_cert, tls_key and tls_client_ca: then the API speaks plain HTTP",
        )
        return
    if tls.key_mode & _OTHERS:
        yield Problem(
            key="api.tls_key",
            problem=f"the file has mode {tls.key_mode:04o}: others can use the key",
            remedy=f"chmod 600 {config.api.tls_key}",
            severity=Severity.WARNING,
        )
    if tls.days_left < WARN_BELOW_DAYS:
        expired = f"expired {-tls.days_left} days ago: clients refuse it"
        left = f"expires in {tls.days_left} days"
        yield Problem(
            key="api.tls_cert",
            problem=f"the certificate {left if tls.days_left >= 0 else expired}",
            remedy="replace it; a running node takes the new one up by itself",
            severity=Severity.WARNING,
        )
