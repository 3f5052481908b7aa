"""A PostgreSQL that somebody else set up, as the founder of a cluster finds it."""

import subprocess
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import as_os_user, os_user
from pgbastion.bench.lab.settings import POSTGRES_PORT

PROGRAM_S: Final = 60.0
THEIR_RULE: Final = "host all all 10.0.0.0/8 scram-sha-256"


class Stranger:
    """The server in the data directory of one node of a laboratory."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self._lab = lab
        self._node = node
        self.data = node.data_dir
        self.sockets = lab.directory / "their-sockets"

    def make(self) -> None:
        """Make the data directory, with settings and a rule of their own."""
        for made in (self.data, self.sockets):
            made.mkdir(mode=0o755)
            self._own(made)
        self.data.chmod(0o700)
        passwords = self._lab.directory / "their-password"
        passwords.write_text(self._lab.password)
        self._own(passwords)
        self._run(
            "initdb",
            f"--pgdata={self.data}",
            "--username=postgres",
            f"--pwfile={passwords}",
            "--auth=scram-sha-256",
        )
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                "work_mem = '7MB'\nmax_connections = 130\n"
                f"port = {POSTGRES_PORT}\nlisten_addresses = '{self._node.address}'\n"
                f"unix_socket_directories = '{self.sockets}'\n"
            )
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"{THEIR_RULE}\nhost all all 127.0.0.0/8 scram-sha-256\n")
        text = self._node.config.read_text()
        self._node.config.write_text(
            text.replace("data_dir: " + str(self.data), self._placed())
        )

    def _placed(self) -> str:
        return f"data_dir: {self.data}\n  socket_dir: {self.sockets}"

    def start(self) -> None:
        """Start the server; the laboratory's end kills it if nobody stops it."""
        self._run("pg_ctl", "start", "-w", "-D", str(self.data), "-l", self._log())

    def stop(self) -> None:
        """Stop it in order."""
        self._run("pg_ctl", "stop", "-w", "-D", str(self.data))

    def _log(self) -> str:
        return str(self.sockets / "log")

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*as_os_user(), str(self._lab.bin_dir / program), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PROGRAM_S,
            cwd="/",
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _own(self, path: Path) -> None:
        subprocess.run(["chown", os_user(), path], check=True)
