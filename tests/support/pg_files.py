"""A server's directories, and what pg_control says, where a test makes them up."""

import os
import pwd
from pathlib import Path
from typing import Final

from pgbastion.model.ids import Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.layout import Account, PgPaths
from pgbastion.postgres.parse import ControlData, ControlState

CONTROL: Final = ControlData(
    state=ControlState.SHUT_DOWN,
    system_identifier="1",
    control_version=1300,
    catalog_version=1,
    checkpoint=WalEnd(timeline=Timeline(2), lsn=Lsn(900)),
    redo=Lsn(900),
    min_recovery=None,
    backup_in_progress=False,
    settings={},
    wal_log_hints=True,
    checksums=False,
    wal_block_bytes=8192,
    wal_segment_bytes=1 << 24,
)


def own_account() -> Account:
    """Return the user that runs this test."""
    entry = pwd.getpwuid(os.geteuid())
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def paths_below(
    root: Path, *, bin_dir: Path | None = None, account: Account | None = None
) -> PgPaths:
    """Return a server's directories below ``root``; nothing is made."""
    return PgPaths(
        bin_dir=bin_dir or root,
        data_dir=root / "data",
        run_dir=root / "run",
        socket_dir=root / "run",
        state_dir=root / "state",
        account=account or own_account(),
    )
