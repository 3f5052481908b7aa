"""Start the client programs of the laboratory and read what they recorded."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.errors import LabError
from pgbastion.bench.lab.overlaps import (
    DoubleClaim,
    Sample,
    Violation,
    double_claims,
    violations,
)
from pgbastion.bench.lab.sampler import CLAIM_BROKEN_NS, read_record
from pgbastion.bench.lab.writers import PASSWORD_VARIABLE, Acknowledged
from pgbastion.clock import boottime_ns

USER: Final = "lab"
# A sampled commit that waits for a standby keeps its backend after the socket was
# closed: the sampler must not use up the connections of the server.
SAMPLER_USER: Final = "lab_sampler"
SAMPLER_CONNECTIONS: Final = 30
_NEWEST_BYTES: Final = 1 << 14


def schema(password: str) -> list[str]:
    """Return the statements that make tables and roles; run them as superuser once."""
    login = f"LOGIN PASSWORD '{password}'"
    return [
        f"CREATE ROLE {USER} {login}",
        f"CREATE ROLE {SAMPLER_USER} CONNECTION LIMIT {SAMPLER_CONNECTIONS} {login}",
        # No key on the id: a row that is applied twice has to show.
        "CREATE TABLE lab_writes (id bigint NOT NULL)",
        "CREATE TABLE lab_samples (node text NOT NULL, at_ns bigint NOT NULL)",
        f"GRANT SELECT, INSERT ON lab_writes, lab_samples TO {USER}, {SAMPLER_USER}",
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a client program runs, how it signs in and where it leaves its record."""

    prefix: Sequence[str] = ()
    password: str
    directory: Path


class Client:
    """A client program that records until it is told to end; a context manager."""

    def __init__(self, place: Place, module: str, arguments: Sequence[str]) -> None:
        """Name the program, without starting it."""
        self.started_ns = boottime_ns()
        self.record = place.directory / f"{module}-{self.started_ns}.txt"
        self.summary: dict[str, Any] = {}
        self._command = [
            *place.prefix,
            sys.executable,
            "-m",
            f"pgbastion.bench.lab.{module}",
            *arguments,
            "--record",
            str(self.record),
        ]
        self._environment = {**os.environ, PASSWORD_VARIABLE: place.password}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start it; its record exists from now on."""
        self.record.touch()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it, and fail if it failed and nothing else did."""
        try:
            self.finish()
        except LabError:
            if error is None:
                raise

    def finish(self) -> None:
        """Tell the program to end, and take its summary; idempotent.

        Raises:
            LabError: It failed; the message ends with what it said.
        """
        process, self._process = self._process, None
        if process is None:
            return
        try:
            out, err = process.communicate(timeout=waits.CLIENT_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        if process.returncode != 0:
            raise LabError(f"{self.record.name} ended {process.returncode}: {err}")
        self.summary = json.loads(out.splitlines()[-1])


class Writers(Client):
    """The workload of `writers`, and what it saw acknowledged."""

    def __init__(
        self,
        place: Place,
        targets: Sequence[str],
        *,
        writers: int | None = None,
    ) -> None:
        """Write in turn to ``targets``, each ADDRESS:PORT of a proxy or server."""
        # Nanoseconds since boot: no two workloads share an id while they write less
        # than a billion rows a second.
        self.first_id = boottime_ns()
        first = ["--first", str(self.first_id)]
        arguments = ["--to", ",".join(targets), "--user", USER, *first]
        if writers is not None:
            arguments += ["--writers", str(writers)]
        super().__init__(place, "writers", arguments)

    def acknowledged(self) -> list[Acknowledged]:
        """Return the rows recorded so far."""
        text = self.record.read_text(encoding="ascii")
        # The last line may be half written.
        return [Acknowledged.parse(line) for line in text.split("\n")[:-1]]

    def attempted(self) -> range:
        """Return the ids that were sent, once the workload has ended."""
        return range(self.first_id, self.first_id + int(self.summary["attempted"]))

    def written_after(self, instant_ns: int) -> bool:
        """Tell whether a row that was sent after ``instant_ns`` was acknowledged."""
        return any(row.sent_ns > instant_ns for row in self._newest())

    def _newest(self) -> list[Acknowledged]:
        """Return the end of the record: this is asked often, and it grows for hours."""
        with self.record.open("rb") as record:
            start = max(record.seek(0, os.SEEK_END) - _NEWEST_BYTES, 0)
            record.seek(start)
            lines = record.read().decode("ascii").split("\n")[:-1]
        # The first line may have lost its beginning.
        return [Acknowledged.parse(line) for line in lines[start > 0 :]]

    def wait_for_write(self, after_ns: int, within_s: float) -> None:
        """Wait until a row that was sent after ``after_ns`` is acknowledged."""
        waits.wait_for(
            "an acknowledged write", lambda: self.written_after(after_ns), within_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerReport:
    """What the sampler saw."""

    writes: list[Sample]
    violations: list[Violation]
    double_claims: list[DoubleClaim]

    @property
    def longest_double_claim_ms(self) -> float:
        """How long two nodes both said that they are no standby; 0: never."""
        return max((claim.ms for claim in self.double_claims), default=0.0)


class Sampler(Client):
    """The sampler at every server."""

    def __init__(self, place: Place, servers: Mapping[str, str]) -> None:
        """Sample ``servers``: name to ADDRESS:PORT of PostgreSQL itself."""
        at = ",".join(f"{name}={where}" for name, where in servers.items())
        super().__init__(place, "sampler", ["--at", at, "--user", SAMPLER_USER])

    def report(self) -> SamplerReport:
        """Judge the record, once the sampler has ended."""
        writes, claims = read_record(self.record)
        return SamplerReport(
            writes=writes,
            violations=violations(writes),
            double_claims=double_claims(claims, CLAIM_BROKEN_NS),
        )
