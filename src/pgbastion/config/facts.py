"""Facts of this machine that a configuration is judged by: gathered here, once.

Nothing is changed. What cannot be read is a fact of its own, never taken for absent.
"""

import errno
import json
import os
import pwd
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import filterfalse
from pathlib import Path
from typing import Final

from pgbastion.config.api import ApiSection
from pgbastion.config.discovery import server_version
from pgbastion.config.listening import listening_addresses
from pgbastion.config.machine import (
    MARK_NAME,
    PROGRAMS,
    SECRET_VARIABLE,
    ApiTlsFacts,
    Content,
    DirectoryFacts,
    Facts,
    FileFacts,
    PostgresqlFacts,
    TlsFacts,
)
from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.secrets import (
    SECRET_FILE_BYTES_MAX,
    parse_passwords,
    strip_line_end,
)
from pgbastion.guard.other_nodes import GUARD_WORDS, other_daemon
from pgbastion.platform.choice import current
from pgbastion.platform.interface import Stat
from pgbastion.postgres.staging import LEFTOVERS

# Native, and not there in a tree that was never built.
ADDRESS_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
ENGINE: Final = "pgbastion.consensus._engine"
DAY_S: Final = 86_400


def gather_facts(config: Config, environment: Mapping[str, str]) -> Facts:
    """Look at everything on this machine that ``config`` names."""
    uid = os.geteuid()
    vip, fence = config.vip, config.failover.fence_command
    section = config.postgresql
    secret = environment.get(SECRET_VARIABLE)
    return Facts(
        uid=uid,
        user=_user_name(uid),
        environment_secret_length=(
            None if secret is None else len(strip_line_end(secret.encode()))
        ),
        secret=_file_facts(config.cluster.secret_file),
        auth_token=_optional_file(config.api.auth_token_file),
        read_token=_optional_file(config.api.read_token_file),
        raft=_raft_facts(config.raft.data_dir),
        postgresql=(
            None if section is None else _postgresql_facts(section, config.run_dir)
        ),
        tls=_tls_facts(config),
        api_tls=_api_tls_facts(config.api),
        unmakeable=tuple(_unmakeable(config, has_secret=secret is not None)),
        absent_addresses=tuple(filterfalse(_is_here, listening_addresses(config))),
        has_addresses=current().has_addresses,
        interfaces=tuple(name for _, name in socket.if_nameindex()) if vip else (),
        missing_capabilities=_missing_capabilities() if vip else (),
        hook_runs=vip is None or vip.hook is None or os.access(vip.hook, os.X_OK),
        fence_runs=fence is None or (fence.is_file() and os.access(fence, os.X_OK)),
        fence_mode=_mode_of(fence),
        watchdog_fault=_watchdog_fault(config.watchdog.device),
    )


def _unmakeable(config: Config, *, has_secret: bool) -> Iterator[tuple[str, Path]]:
    section = config.postgresql
    made = {"raft.data_dir": config.raft.data_dir}
    if config.raft.bootstrap and not has_secret:
        made["cluster.secret_file"] = config.cluster.secret_file
    if section is not None:
        made["postgresql.data_dir"] = section.data_dir
    if section is not None and section.socket_dir != config.run_dir:
        made["postgresql.socket_dir"] = section.socket_dir
    for key, path in made.items():
        try:
            path.stat()
        except FileNotFoundError:
            above = next(parent for parent in path.parents if parent.exists())
            if not os.access(above, os.W_OK | os.X_OK):
                yield key, above
        except OSError:
            continue  # It is there; what is wrong with it is a fact of its own.


def _is_here(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as tried:
            tried.bind((address, 0))
    except OSError as exc:
        # Without IPv6, the machine has no address of that kind either.
        return exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def _watchdog_fault(device: Path) -> str | None:
    """Return what is in the way; the device is not opened, which would arm it."""
    if not device.is_char_device():
        return "is not a device"
    return None if os.access(device, os.W_OK) else "cannot be written"


def _mode_of(path: Path | None) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode) if path is not None else 0
    except OSError:
        return 0


def _missing_capabilities() -> tuple[str, ...]:
    return tuple(
        name
        for name, number in ADDRESS_CAPABILITIES.items()
        if not current().has_capability(number)
    )


def directory_facts(path: Path) -> DirectoryFacts:
    """Look at a directory: whose it is, what kind of content it has."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return DirectoryFacts(content=Content.MISSING)
    except OSError as exc:
        return DirectoryFacts(
            content=Content.UNREADABLE, fault=exc.strerror or str(exc)
        )
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        return DirectoryFacts(content=Content.NO_DIRECTORY, uid=found.st_uid, mode=mode)
    try:
        names = {entry.name for entry in path.iterdir()}
        major = _data_major(path) if "PG_VERSION" in names else None
    except OSError as exc:
        return DirectoryFacts(
            content=Content.UNREADABLE,
            uid=found.st_uid,
            mode=mode,
            fault=exc.strerror or str(exc),
        )
    return DirectoryFacts(
        content=_content(names),
        uid=found.st_uid,
        mode=mode,
        major=major,
        marked=MARK_NAME in names,
        cluster_id=_marked_cluster(path / MARK_NAME) if MARK_NAME in names else None,
    )


def _marked_cluster(mark: Path) -> str | None:
    """Return whose the data is; the daemon judges a damaged mark when it starts."""
    try:
        fields = json.loads(mark.read_bytes())
        return str(fields["cluster_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _raft_facts(path: Path) -> DirectoryFacts:
    facts = directory_facts(path)
    if facts.content is not Content.OTHER or find_spec(ENGINE) is None:
        return facts
    engine = import_module(ENGINE)
    try:
        identity = engine.inspect(str(path))
    except engine.EngineError:
        # The daemon says what is wrong with its log when it opens it.
        return facts
    return facts if identity is None else replace(facts, cluster_id=identity[0].hex())


def _tls_facts(config: Config) -> TlsFacts | None:
    raft = config.raft
    if raft.tls_cert is None or raft.tls_key is None or raft.tls_ca is None:
        return None
    if find_spec(ENGINE) is None:
        return None
    engine = import_module(ENGINE)
    try:
        files = [path.read_bytes() for path in (raft.tls_cert, raft.tls_key)]
        credentials = engine.Credentials(*files, raft.tls_ca.read_bytes())
        mode = stat.S_IMODE(raft.tls_key.stat().st_mode)
    except OSError as exc:
        return TlsFacts(fault=f"{exc.filename} cannot be read: {exc.strerror}")
    except engine.EngineError as exc:
        return TlsFacts(fault=str(exc))
    (_, places, _, not_after_s), _ = credentials.facts()
    return TlsFacts(
        places=tuple(places),
        days_left=int(not_after_s - time.time()) // DAY_S,
        key_mode=mode,
    )


def _api_tls_facts(api: ApiSection) -> ApiTlsFacts | None:
    if api.tls_cert is None or api.tls_key is None or find_spec(ENGINE) is None:
        return None
    engine = import_module(ENGINE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # OpenSSL's words name neither file nor key: it is noted what is looked at.
    key, path = "tls_cert", api.tls_cert
    try:
        *_, not_after_s = engine.certificate_facts(path.read_bytes())
        key, path = "tls_key", api.tls_key
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_bytes()
        # A key with a passphrase is refused, instead of asked for at the terminal.
        context.load_cert_chain(api.tls_cert, path, password=lambda: "")
        if api.tls_client_ca is not None:
            key, path = "tls_client_ca", api.tls_client_ca
            context.load_verify_locations(cadata=path.read_text(encoding="ascii"))
    except (OSError, ValueError, engine.EngineError) as exc:
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or exc
        return ApiTlsFacts(key=key, fault=f"{path} cannot be used: {reason}")
    return ApiTlsFacts(days_left=int(not_after_s - time.time()) // DAY_S, key_mode=mode)


def _content(names: set[str]) -> Content:
    if not names - LEFTOVERS:
        # A copy into a mount point was cut short: it is begun again.
        return Content.EMPTY
    return Content.POSTGRESQL if "PG_VERSION" in names else Content.OTHER


def _data_major(data_dir: Path) -> int | None:
    text = (data_dir / "PG_VERSION").read_text(encoding="ascii", errors="replace")
    # Before version 10 it says "9.6": the integer part is enough to refuse it.
    digits = text.strip().partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _postgresql_facts(section: PostgresqlSection, run_dir: Path) -> PostgresqlFacts:
    try:
        account = pwd.getpwnam(section.os_user)
    except KeyError:
        account = None
    return PostgresqlFacts(
        os_uid=None if account is None else account.pw_uid,
        missing_programs=tuple(
            name for name in PROGRAMS if not os.access(section.bin_dir / name, os.X_OK)
        ),
        version=server_version(section.bin_dir),
        data=directory_facts(section.data_dir),
        closed_parent=(
            None if account is None else closed_parent(section.data_dir, account)
        ),
        closed_program_parent=(
            None
            if account is None
            else closed_parent(section.bin_dir / "postgres", account)
        ),
        passwords=_password_facts(section.password_file),
        missing_launchers=tuple(
            name for name in current().programs if shutil.which(name) is None
        ),
        adopted=_runs_without_guard(section.data_dir),
        other_daemon=_daemon_of_another_node(section.data_dir, run_dir),
    )


def runs_server(data_dir: Path) -> bool:
    """Tell whether a server runs on ``data_dir``."""
    return _postmaster(data_dir) is not None


def _postmaster(data_dir: Path) -> Stat | None:
    """Return the server of ``data_dir``; None: there is none."""
    try:
        text = (data_dir / "postmaster.pid").read_text(encoding="ascii")
        pid = int(text.split("\n")[0])
        same = current().directory(pid) == str(data_dir.resolve())
        return current().stat(pid) if same else None
    except (OSError, ValueError):
        # Nothing runs there, or nobody may know.
        return None


def _runs_without_guard(data_dir: Path) -> bool:
    """Tell whether a server runs on ``data_dir`` whose parent is no guard."""
    postmaster = _postmaster(data_dir)
    if postmaster is None:
        return False
    words = current().command_line(postmaster.parent)
    return bool(words) and GUARD_WORDS not in words


def _daemon_of_another_node(data_dir: Path, run_dir: Path) -> int:
    """Return the daemon of another node that has its server there; 0: none."""
    postmaster = _postmaster(data_dir)
    return 0 if postmaster is None else other_daemon(postmaster.parent, str(run_dir))


def closed_parent(path: Path, account: pwd.struct_passwd) -> Path | None:
    """Return the first directory above ``path`` that ``account`` may not pass."""
    groups = set(os.getgrouplist(account.pw_name, account.pw_gid))
    for parent in reversed(path.parents):
        try:
            found = parent.stat()
        except FileNotFoundError:
            return None  # The daemon makes it, and those below.
        except OSError:
            return parent
        if account.pw_uid == found.st_uid:
            needed = stat.S_IXUSR
        elif found.st_gid in groups:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed and account.pw_uid != 0:
            return parent
    return None


def _optional_file(path: Path | None) -> FileFacts | None:
    return None if path is None else _file_facts(path)


def _password_facts(path: Path | None) -> FileFacts | None:
    if path is None:
        return None
    facts = _file_facts(path)
    if not facts.exists or facts.fault:
        return facts
    try:
        parse_passwords(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError) as exc:
        return FileFacts(
            exists=True, mode=facts.mode, length=facts.length, fault=str(exc)
        )
    return facts


def _file_facts(path: Path) -> FileFacts:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return FileFacts(exists=False)
    except OSError as exc:
        return FileFacts(exists=True, fault=exc.strerror)
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return FileFacts(exists=True, mode=mode, fault="is not a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as exc:
        return FileFacts(exists=True, mode=mode, fault=exc.strerror)
    if len(content) > SECRET_FILE_BYTES_MAX:
        fault = f"is larger than {SECRET_FILE_BYTES_MAX} bytes"
        return FileFacts(exists=True, mode=mode, fault=fault)
    return FileFacts(exists=True, mode=mode, length=len(strip_line_end(content)))


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
