"""Judges the section of the proxy. Pure."""

from collections.abc import Iterator

from pgbastion.config.model import Config
from pgbastion.config.problems import Problem, Severity


def check_proxy(config: Config) -> Iterator[Problem]:
    """Yield what does not go together in the section of the proxy."""
    tls = config.proxy.tls
    if tls.mode == "passthrough":
        yield from _without_termination(config)
        return
    for key, value in (("cert_file", tls.cert_file), ("key_file", tls.key_file)):
        if value is None:
            yield Problem(
                key=f"proxy.tls.{key}",
                problem="is missing, and mode terminate needs it",
                remedy="name the file, or write mode: passthrough",
            )
    if tls.verify in ("ca", "full") and tls.ca_file is None:
        yield Problem(
            key="proxy.tls.ca_file",
            problem=f"is missing, and verify {tls.verify} needs it",
            remedy="name the file of the authorities, or write verify: require",
        )
    if tls.verify != "off":
        yield Problem(
            key="proxy.tls.verify",
            problem="clients and servers have TLS with the proxy, not with each other: "
            "SCRAM with channel binding fails",
            remedy="have clients connect with channel_binding=disable, or give the "
            "proxies and servers of all nodes one certificate",
            severity=Severity.NOTE,
        )


def _without_termination(config: Config) -> Iterator[Problem]:
    tls = config.proxy.tls
    given = {
        "cert_file": tls.cert_file is not None,
        "key_file": tls.key_file is not None,
        "ca_file": tls.ca_file is not None,
        "required": tls.required,
        "verify": tls.verify != "off",
    }
    for key in (key for key, is_given in given.items() if is_given):
        yield Problem(
            key=f"proxy.tls.{key}",
            problem="has no effect in mode passthrough",
            remedy="write mode: terminate, or remove it",
        )
