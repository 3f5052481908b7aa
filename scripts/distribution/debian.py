"""The Debian package: the same runtime, the unit, the example configuration."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_HOME: Final = "usr/lib/pgbastion"
_CONTROL: Final = """\
Package: pgbastion
Version: {version}
Architecture: {architecture}
Maintainer: The pgbastion authors <pgbastion@localhost>
Installed-Size: {size_kib}
Depends: libc6 (>= {libc})
Recommends: postgresql, iproute2
Section: database
Priority: optional
Description: high availability for PostgreSQL in one daemon a node
 Consensus, management of PostgreSQL, a proxy, a virtual address and a REST API
 in one process, with one configuration file and one service a node.
"""
_POSTINST: Final = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    install -d -m 0755 /etc/pgbastion /var/lib/pgbastion
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        # A new program takes over, PostgreSQL goes on; a first install starts nothing.
        if [ -n "$2" ] && systemctl is-active --quiet pgbastion; then
            systemctl kill --kill-who=main --signal=USR2 pgbastion || true
        fi
    fi
fi
"""
_PRERM: Final = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now pgbastion || true
fi
"""
_POSTRM: Final = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
if [ "$1" = purge ]; then
    # What describes the node goes; data directories and the Raft log never do.
    rm -rf /etc/pgbastion
    rmdir /var/lib/pgbastion 2>/dev/null ||
        echo "pgbastion: /var/lib/pgbastion is not empty and stays" >&2
fi
"""


def make_package(runtime: Path, out: Path, *, version: str) -> Path:
    """Build the package from ``runtime``; needs dpkg-deb."""
    architecture = _ARCHITECTURES[platform.machine()]
    with tempfile.TemporaryDirectory(prefix="pgb-deb-") as scratch:
        tree = Path(scratch) / "tree"
        tree.mkdir(mode=0o755)
        shutil.copytree(runtime, tree / _HOME, symlinks=True)
        _put_files(tree)
        size_kib = sum(p.lstat().st_size for p in tree.rglob("*")) // 1024
        control = tree / "DEBIAN"
        control.mkdir(mode=0o755)
        (control / "control").write_text(
            _CONTROL.format(
                version=version,
                architecture=architecture,
                size_kib=size_kib,
                libc=platform.libc_ver()[1],
            ),
            encoding="ascii",
        )
        scripts = {"postinst": _POSTINST, "prerm": _PRERM, "postrm": _POSTRM}
        for name, text in scripts.items():
            (control / name).write_text(text, encoding="ascii")
            (control / name).chmod(0o755)
        made = out / f"pgbastion_{version}_{architecture}.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return made


def _put_files(tree: Path) -> None:
    (interpreter,) = (tree / _HOME / "bin").glob("python3*")
    program = tree / "usr" / "bin" / "pgbastion"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nexec /{_HOME}/bin/{interpreter.name} -I -m pgbastion "$@"\n',
        encoding="ascii",
    )
    program.chmod(0o755)
    unit = (ROOT / "systemd" / "pgbastion.service").read_text(encoding="utf-8")
    target = tree / "lib" / "systemd" / "system" / "pgbastion.service"
    target.parent.mkdir(parents=True)
    target.write_text(
        unit.replace("/usr/local/bin/pgbastion", "/usr/bin/pgbastion"), encoding="utf-8"
    )
    documents = tree / "usr" / "share" / "doc" / "pgbastion"
    (documents / "examples").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "pgbastion.yaml.example", documents / "examples")
    for name in ("README.md", "LICENSE", "INSTALL.md", "OPERATIONS.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, documents)
    for path in documents.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
