"""Tells the password of a role, for those who may read the files it comes from."""

from collections.abc import Mapping

from pgbastion.cli.problems import CommandError
from pgbastion.config.model import Config
from pgbastion.config.secrets import load_cluster_secret, load_passwords


def password_of(
    config: Config, role: str | None, environment: Mapping[str, str]
) -> str:
    """Return the password of a role, of the superuser where none is named.

    Raises:
        ConfigError: A file that it comes from is missing or cannot be read.
        CommandError: No file of this node has one for that role.
    """
    section = config.postgresql
    if section is None:
        raise CommandError("this node is a witness: it knows no passwords")
    secret = load_cluster_secret(config, environment, makes=False)
    known = load_passwords(section, secret, environment)
    wanted = role or section.superuser
    if wanted not in known:
        raise CommandError(
            f"this node has no password of {wanted}; it has those of {', '.join(known)}"
        )
    return known[wanted]
