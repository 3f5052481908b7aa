"""The service's unit, and the drop-ins for other ways to run it."""

from pathlib import Path
from typing import Final

PROGRAM: Final = Path("/usr/local/bin/pgbastion")
CAPABILITIES: Final = (
    "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_NET_BIND_SERVICE", "CAP_SETUID",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_IPC_LOCK", "CAP_SYS_PTRACE",
    "CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_SYS_RESOURCE",
)  # fmt: skip
AMBIENT: Final = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF")

_UNIT: Final = """\
[Unit]
Description=pgbastion, high availability for PostgreSQL
Documentation=file:///usr/share/doc/pgbastion/README.md
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program} start
Environment=PYTHONUNBUFFERED=1
# A file that cannot be used must not reach the daemon that runs.
ExecReload={program} check
ExecReload=/bin/kill -HUP $MAINPID

# Only the daemon is signalled: it stops PostgreSQL itself, and after a crash of the
# daemon the guard and PostgreSQL go on until the next one is there. To replace the
# program while PostgreSQL goes on:
#   systemctl kill --kill-who=main --signal=USR2 pgbastion
KillMode=process
Restart=always
RestartSec=100ms
OOMPolicy=continue
# The configuration cannot be used, or the node was removed: trying again helps nobody.
RestartPreventExitStatus=78 77
# Until the daemon says how long it may take, which follows failover.stop_timeout.
TimeoutStopSec=90s
TimeoutStartSec=infinity
# A daemon that decides nothing for so long is killed and started anew; PostgreSQL goes
# on, or ends with its lease. One that is stopped would not hear another signal, and a
# core would hold secrets.
WatchdogSec=30s
WatchdogSignal=SIGKILL

# The proxy's listeners: clients that come while the daemon is replaced wait in their
# queues.
FileDescriptorStoreMax=64

# The control group below the service belongs to the daemon.
Delegate=yes
# The shared page and the sockets; they outlive a restart of the daemon.
RuntimeDirectory=pgbastion
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes

LimitMEMLOCK=64M
LimitNOFILE=65536
# PostgreSQL's processes are as many as its settings allow.
TasksMax=infinity
# Daemon and guard have their turn before PostgreSQL's processes have theirs.
LimitNICE=-15
CapabilityBoundingSet={capabilities}

# PostgreSQL and what it starts run in here too: file systems stay as they are, since
# data, tablespaces and archives may lie anywhere, and memory may be written and run,
# since PostgreSQL compiles queries.
NoNewPrivileges=yes
LockPersonality=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET
SystemCallArchitectures=native
DevicePolicy=closed
DeviceAllow=/dev/watchdog rw

[Install]
WantedBy=multi-user.target
"""

_ONE_USER: Final = """\
# Way (b): the daemon, the guard and PostgreSQL run as one user; secrets can be read by
# it. The configuration says postgresql.os_user: {user}.
# Install as /etc/systemd/system/pgbastion.service.d/one-user.conf
[Service]
User={user}
Group={user}
AmbientCapabilities={ambient}
CapabilityBoundingSet=
CapabilityBoundingSet={ambient}
StateDirectory=pgbastion
StateDirectoryMode=0700
"""

_WITNESS: Final = """\
# A witness: it votes and proxies, has no PostgreSQL and needs no privilege. Its user:
#   useradd --system --no-create-home --shell /usr/sbin/nologin pgbastion
# Install as /etc/systemd/system/pgbastion.service.d/witness.conf
[Service]
User=pgbastion
Group=pgbastion
AmbientCapabilities=
CapabilityBoundingSet=
StateDirectory=pgbastion
StateDirectoryMode=0700
"""


def render_unit(program: Path = PROGRAM) -> str:
    """Return the unit that runs ``program`` as root, the packaged way."""
    return _UNIT.format(program=program, capabilities=" ".join(CAPABILITIES))


def render_one_user(user: str = "postgres") -> str:
    """Return the drop-in with which everything runs as one user."""
    return _ONE_USER.format(user=user, ambient=" ".join(AMBIENT))


def render_witness() -> str:
    """Return the drop-in of a node without PostgreSQL."""
    return _WITNESS
