"""Judges a configuration by the facts of this machine. Pure."""

from collections.abc import Iterator
from typing import Final

from pgbastion.config.address_checks import check_addresses_on_machine
from pgbastion.config.fence_checks import check_fencing
from pgbastion.config.listening import check_listening
from pgbastion.config.machine import (
    NEWEST_MAJOR,
    OLDEST_MAJOR,
    SECRET_BYTES_MIN,
    SECRET_VARIABLE,
    Content,
    DirectoryFacts,
    Facts,
    FileFacts,
    PostgresqlFacts,
)
from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.problems import Problem, Severity
from pgbastion.config.tls import check_api_tls, check_tls
from pgbastion.config.watchdog_checks import check_watchdog_on_machine

GROUP_OR_OTHERS: Final = 0o077
OTHERS: Final = 0o007
# PostgreSQL takes a data directory that its group may read, and nothing wider.
DATA_MODE_REFUSED: Final = 0o027
# The first minor releases (May 2025) in which a starting server never skips the wait
# for its synchronous standbys.
WAITS_FROM_START: Final = {14: 18, 15: 13, 16: 9, 17: 5}


def check_machine(config: Config, facts: Facts) -> list[Problem]:
    """Return what does not fit between ``config`` and the machine."""
    problems = [*_secret(config, facts), *_tokens(facts), *_raft_dir(config, facts)]
    problems += check_tls(config, facts.tls)
    problems += check_api_tls(config, facts.api_tls)
    problems += _makeable(facts)
    problems += check_listening(config, facts)
    problems += check_addresses_on_machine(config, facts)
    problems += check_fencing(config, facts)
    problems += check_watchdog_on_machine(config, facts)
    section, found = config.postgresql, facts.postgresql
    if section is not None and found is not None:
        problems += _users(section, facts, found)
        problems += _programs(section, found)
        problems += _versions(config, section, found)
        problems += _data_dir(section, facts, found)
        problems += _strange_data(config, section, found)
        problems += _passwords(section, found)
    return problems


def _secret(config: Config, facts: Facts) -> Iterator[Problem]:
    path, key = config.cluster.secret_file, "cluster.secret_file"
    if facts.environment_secret_length is not None:
        if facts.environment_secret_length < SECRET_BYTES_MIN:
            yield _too_short(key, SECRET_VARIABLE, facts.environment_secret_length)
        return
    secret = facts.secret
    if not secret.exists:
        yield _missing_secret(config, key)
    elif secret.fault is not None:
        yield Problem(
            key=key,
            problem=f"{path} cannot be read: {secret.fault}",
            remedy=f"make it readable for the user {facts.user}",
        )
    else:
        if secret.length < SECRET_BYTES_MIN:
            yield _too_short(key, str(path), secret.length)
        yield from _private(key, str(path), secret)
        if facts.uid != 0 and _same_user(facts):
            yield Problem(
                key=key,
                problem="PostgreSQL runs as the daemon's user, so that its programs "
                "can read the secret",
                remedy="run the daemon as root, which keeps its secrets to itself",
                severity=Severity.NOTE,
            )


def _missing_secret(config: Config, key: str) -> Problem:
    path = config.cluster.secret_file
    if config.raft.bootstrap:
        return Problem(
            key=key,
            problem=f"{path} is missing: this node makes it when it starts",
            remedy=f"copy it to the other nodes, or give all of them {SECRET_VARIABLE}",
            severity=Severity.NOTE,
        )
    return Problem(
        key=key,
        problem=f"{path} is missing, and a node that joins needs the cluster's secret",
        remedy="copy the file from a node of the cluster, with mode 0600, or set "
        f"{SECRET_VARIABLE}",
    )


def _too_short(key: str, source: str, length: int) -> Problem:
    return Problem(
        key=key,
        problem=f"{source} holds {length} bytes; a secret has at least "
        f"{SECRET_BYTES_MIN}",
        remedy="make one with: openssl rand -hex 32",
    )


def _private(key: str, path: str, file: FileFacts) -> Iterator[Problem]:
    if file.mode & OTHERS:
        yield Problem(
            key=key,
            problem=f"{path} has mode {file.mode:04o}: everybody on this machine can "
            "use it",
            remedy=f"chmod 600 {path}, and change it if somebody may have read it",
        )
    elif file.mode & GROUP_OR_OTHERS:
        yield Problem(
            key=key,
            problem=f"{path} has mode {file.mode:04o}: its group can use it",
            remedy=f"chmod 600 {path}",
            severity=Severity.WARNING,
        )


def _tokens(facts: Facts) -> Iterator[Problem]:
    for key, file in (
        ("api.auth_token_file", facts.auth_token),
        ("api.read_token_file", facts.read_token),
    ):
        if file is None:
            continue
        if not file.exists:
            yield Problem(
                key=key,
                problem="the file is missing",
                remedy="write one line to it, or leave the key out: then the token is "
                "derived from the secret",
            )
        elif file.fault is not None or file.length == 0:
            yield Problem(
                key=key,
                problem=f"cannot be used: {file.fault or 'the file is empty'}",
                remedy="write one line to it",
            )
        else:
            yield from _private(key, "the file", file)


def _raft_dir(config: Config, facts: Facts) -> Iterator[Problem]:
    raft, path, key = facts.raft, config.raft.data_dir, "raft.data_dir"
    if raft.content in (Content.NO_DIRECTORY, Content.UNREADABLE):
        yield _unusable(key, str(path), raft)
    elif raft.content is Content.POSTGRESQL:
        yield Problem(
            key=key,
            problem=f"{path} is a data directory of PostgreSQL",
            remedy="name a directory for the consensus log alone",
        )
    elif raft.content is not Content.MISSING and raft.uid not in (facts.uid, -1):
        yield Problem(
            key=key,
            problem=f"{path} belongs to user {raft.uid}, the daemon is {facts.user}",
            remedy=f"chown -R {facts.user} {path}, or run the daemon as its owner",
            severity=Severity.WARNING if facts.uid == 0 else Severity.ERROR,
        )


def _makeable(facts: Facts) -> Iterator[Problem]:
    for key, above in facts.unmakeable:
        yield Problem(
            key=key,
            problem=f"is missing, and {facts.user} may not make it in {above}",
            remedy=f"make it for the user {facts.user}, or name another place",
        )


def _users(
    section: PostgresqlSection, facts: Facts, found: PostgresqlFacts
) -> Iterator[Problem]:
    key = "postgresql.os_user"
    if found.os_uid is None:
        yield Problem(
            key=key,
            problem=f"there is no user {section.os_user} on this machine",
            remedy=f"useradd --system {section.os_user}, or name another user",
        )
    elif facts.uid not in (0, found.os_uid):
        yield Problem(
            key=key,
            problem=f"the daemon runs as {facts.user}, which is neither root nor "
            f"{section.os_user}: it cannot start PostgreSQL as {section.os_user}",
            remedy=f"run the daemon as root or as {section.os_user}, or write os_user: "
            f"{facts.user}",
        )
    for program in found.missing_launchers:
        yield Problem(
            key=key,
            problem=f"the program {program} is missing; it takes PostgreSQL's rights "
            "away",
            remedy="install util-linux",
        )


def _programs(section: PostgresqlSection, found: PostgresqlFacts) -> Iterator[Problem]:
    if found.missing_programs:
        yield Problem(
            key="postgresql.bin_dir",
            problem=f"{section.bin_dir} lacks {', '.join(found.missing_programs)}",
            remedy="install the server's and the client's packages of one version, or "
            "name their directory",
        )
    if found.closed_program_parent is not None:
        yield Problem(
            key="postgresql.bin_dir",
            problem=f"{section.os_user} may not pass {found.closed_program_parent}, "
            f"which lies above {section.bin_dir}",
            remedy=f"chmod o+x {found.closed_program_parent}, or name programs that "
            "every user can run",
        )


def _versions(
    config: Config, section: PostgresqlSection, found: PostgresqlFacts
) -> Iterator[Problem]:
    key, version = "postgresql.bin_dir", found.version
    if version is None:
        if "postgres" not in found.missing_programs:
            yield Problem(
                key=key,
                problem=f"{section.bin_dir}/postgres -V does not state a version",
                remedy="name the directory of a PostgreSQL that runs on this machine",
            )
        return
    if not version.supported:
        yield Problem(
            key=key,
            problem=f"PostgreSQL {version.major} is not supported",
            remedy=f"install a version from {OLDEST_MAJOR} to {NEWEST_MAJOR}",
        )
    elif version.major == OLDEST_MAJOR:
        yield Problem(
            key=key,
            problem=f"the support of PostgreSQL {OLDEST_MAJOR} has ended",
            remedy="plan the upgrade to a newer version",
            severity=Severity.WARNING,
        )
    first_minor = WAITS_FROM_START.get(version.major, 0)
    if version.minor < first_minor and config.replication.mode != "async":
        yield Problem(
            key=key,
            problem=f"PostgreSQL {version.major}.{version.minor} may skip the wait for "
            "standbys in the first moments after a start",
            remedy=f"update to {version.major}.{first_minor} or newer",
            severity=Severity.WARNING,
        )
    data = found.data
    if data.content is Content.POSTGRESQL and data.major != version.major:
        yield Problem(
            key="postgresql.data_dir",
            problem=f"{section.data_dir} holds data of "
            f"{f'PostgreSQL {data.major}' if data.major else 'an unknown version'}, "
            f"{section.bin_dir} is PostgreSQL {version.major}",
            remedy="name the programs of the data's version in postgresql.bin_dir, or "
            "upgrade the data with pg_upgrade",
        )


def _data_dir(
    section: PostgresqlSection, facts: Facts, found: PostgresqlFacts
) -> Iterator[Problem]:
    data, path, key = found.data, section.data_dir, "postgresql.data_dir"
    if found.closed_parent is not None:
        yield Problem(
            key=key,
            problem=f"{section.os_user} may not pass {found.closed_parent}, which lies "
            f"above {path}",
            remedy=f"chmod o+x {found.closed_parent}, or take another place",
        )
    if data.content in (Content.NO_DIRECTORY, Content.UNREADABLE):
        yield _unusable(key, str(path), data)
        return
    if data.content is Content.OTHER and not data.marked:
        yield Problem(
            key=key,
            problem=f"{path} is neither empty nor a data directory of PostgreSQL",
            remedy="name another directory, or a new one below it; pgbastion removes "
            "nothing that it did not make",
        )
    if data.content is Content.MISSING or found.os_uid is None:
        return
    if data.uid != found.os_uid and data.content is not Content.EMPTY:
        yield Problem(
            key=key,
            problem=f"{path} belongs to user {data.uid}, not to {section.os_user} "
            f"({found.os_uid})",
            remedy=f"chown -R {section.os_user} {path}, or name its owner as os_user",
        )
    elif data.uid != found.os_uid and facts.uid != 0:
        yield Problem(
            key=key,
            problem=f"the empty {path} belongs to user {data.uid}, not to "
            f"{section.os_user}",
            remedy=f"chown {section.os_user} {path}",
        )
    if data.content is Content.POSTGRESQL and data.mode & DATA_MODE_REFUSED:
        yield Problem(
            key=key,
            problem=f"{path} has mode {data.mode:04o}; PostgreSQL refuses more than "
            "0750",
            remedy=f"chmod 700 {path}",
        )
    yield from _lost_data(section, facts, data)
    yield from _taken_over(found)
    yield from _in_use(section, found)
    yield from _foreign_data(section, facts, data)


def _in_use(section: PostgresqlSection, found: PostgresqlFacts) -> Iterator[Problem]:
    if found.other_daemon:
        yield Problem(
            key="postgresql.data_dir",
            problem="the daemon of another node of this machine, process "
            f"{found.other_daemon}, runs PostgreSQL in {section.data_dir}",
            remedy="give each node a data directory of its own",
        )


def _taken_over(found: PostgresqlFacts) -> Iterator[Problem]:
    if found.adopted and found.data.marked:
        yield Problem(
            key="postgresql.data_dir",
            problem="the server there was found running and taken over: until its next "
            "restart it survives a death of daemon and guard together",
            remedy="restart it once: pgbastion status names the settings that wait",
            severity=Severity.WARNING,
        )


def _strange_data(
    config: Config, section: PostgresqlSection, found: PostgresqlFacts
) -> Iterator[Problem]:
    data = found.data
    if data.content is not Content.POSTGRESQL or data.marked:
        return
    if config.raft.bootstrap:
        yield Problem(
            key="postgresql.data_dir",
            problem=f"{section.data_dir} holds a PostgreSQL of its own: if this node "
            "founds the cluster, it is taken over as it is",
            remedy="make sure that it is the one that the cluster is to begin with",
            severity=Severity.NOTE,
        )
        return
    yield Problem(
        key="postgresql.data_dir",
        problem=f"{section.data_dir} holds a PostgreSQL that is not of this cluster",
        remedy="move it away, so that this node copies the primary's data; only a "
        "node with raft.bootstrap: true that founds the cluster brings its own",
    )


def _lost_data(
    section: PostgresqlSection, facts: Facts, data: DirectoryFacts
) -> Iterator[Problem]:
    if data.content is Content.EMPTY and facts.raft.cluster_id is not None:
        yield Problem(
            key="postgresql.data_dir",
            problem=f"{section.data_dir} is empty, though this node has belonged to a "
            "cluster: a mount may be missing",
            remedy="mount it before the start; the daemon neither makes nor copies a "
            "database here if the node had one",
            severity=Severity.WARNING,
        )


def _foreign_data(
    section: PostgresqlSection, facts: Facts, data: DirectoryFacts
) -> Iterator[Problem]:
    own = facts.raft.cluster_id
    if None not in (own, data.cluster_id) and data.cluster_id != own:
        yield Problem(
            key="postgresql.data_dir",
            problem=f"{section.data_dir} belongs to cluster {data.cluster_id}, this "
            f"node's raft.data_dir to cluster {own}",
            remedy="name the data directory of this cluster, or an empty one for a new "
            "copy; pgbastion overwrites no other cluster's data",
        )


def _passwords(section: PostgresqlSection, found: PostgresqlFacts) -> Iterator[Problem]:
    key, file = "postgresql.password_file", found.passwords
    if file is None:
        return
    if not file.exists:
        yield Problem(
            key=key,
            problem=f"{section.password_file} is missing",
            remedy="write lines ROLE:PASSWORD to it, or leave the key out: then the "
            "passwords are derived from the secret",
        )
        return
    if file.fault is not None:
        yield Problem(
            key=key,
            problem=f"{section.password_file}: {file.fault}",
            remedy="write one line ROLE:PASSWORD for each role",
        )
    if file.mode & GROUP_OR_OTHERS:
        yield Problem(
            key=key,
            problem=f"{section.password_file} has mode {file.mode:04o}: others than "
            "its owner can use it",
            remedy=f"chmod 600 {section.password_file}",
        )


def _unusable(key: str, path: str, directory: DirectoryFacts) -> Problem:
    if directory.content is Content.NO_DIRECTORY:
        return Problem(
            key=key, problem=f"{path} is not a directory", remedy="name another one"
        )
    return Problem(
        key=key,
        problem=f"{path} cannot be read: {directory.fault}",
        remedy="look at the disk and at the directory's owner; an error is never "
        "taken for an empty directory",
    )


def _same_user(facts: Facts) -> bool:
    return facts.postgresql is not None and facts.postgresql.os_uid == facts.uid
