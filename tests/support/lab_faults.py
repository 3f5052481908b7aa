"""Clusters for tests of faults: one serves many, until one of them breaks it."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.errors import CannotRun
from pgbastion.bench.lab.faults import FAULTS, Outcome
from pgbastion.bench.lab.node import Node
from pgbastion.bench.lab.servers import as_os_user
from pgbastion.bench.lab.settings import Plan
from pgbastion.bench.lab.trial import Trial, run_trial
from support.promises import nothing_lost, one_writer

KEPT_LOGS = Path(__file__).resolve().parents[2] / "test-results" / "lab"

# What two nodes may both say for a moment: a node that was just thawed answers until
# its guard has run.
DOUBLE_CLAIM_MS_MAX = 200
# One whose clocks stood as well believes in its lease until it is told otherwise: one
# renewal of the profile, its deadline, an orderly stop.
PAUSED_CLAIM_MS_MAX = 5_000
STARTED_S = 30.0


class Clusters:
    """Hands out a running cluster; builds a new one after a test that failed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lab: Lab | None = None

    @contextmanager
    def running(self) -> Iterator[Lab]:
        """Give a cluster; what fails in the block keeps its logs and ends it."""
        try:
            yield self._started()
        except CannotRun as why:
            pytest.skip(f"not run: {why}")
        except BaseException:
            self._give_up()
            raise

    def close(self) -> None:
        lab, self._lab = self._lab, None
        if lab is not None:
            lab.__exit__(None, None, None)

    def _started(self) -> Lab:
        if self._lab is None:
            lab = Lab(self._plan, keep_logs_in=KEPT_LOGS)
            lab.__enter__()
            self._lab = lab
            lab.start()
        return self._lab

    def _give_up(self) -> None:
        if self._lab is not None:
            sys.stdout.write(f"logs: {self._lab.keep_logs()}\n")
        self.close()


def receivers(standbys: Sequence[Node]) -> list[processes.Process]:
    """Return the processes that receive WAL on these nodes."""
    found = []
    for node in standbys:
        rows = node.query("SELECT pid FROM pg_stat_wal_receiver")
        process = processes.find(int(rows[0][0])) if rows else None
        assert process is not None, f"{node.name} does not stream"
        found.append(process)
    return found


def survive(clusters: Clusters, fault: str) -> Trial:
    """Hit a cluster with the fault; fail unless it kept every promise."""
    with clusters.running() as lab:
        trial = run_trial(lab, FAULTS[fault])
        sys.stdout.write(f"{fault}: {trial}\n")
        nothing_lost(trial.checks)
        assert len(trial.checks) == lab.plan.postgres_nodes
        one_writer(trial.sampled)
        most_ms = PAUSED_CLAIM_MS_MAX if fault == "node-paused" else DOUBLE_CLAIM_MS_MAX
        assert trial.sampled.longest_double_claim_ms <= most_ms
        assert trial.sampled.writes, "the sampler saw no primary at all"
        assert_outcome(trial, FAULTS[fault].outcome)
    return trial


def assert_outcome(trial: Trial, outcome: Outcome) -> None:
    """Fail unless the fault led to what it has to lead to."""
    match outcome:
        case Outcome.NEW_PRIMARY:
            assert trial.new_primary != trial.old_primary
            assert trial.role_changed
        case Outcome.NEW_SERVER:
            assert trial.role_changed
            assert not trial.same_server
        case Outcome.ANY_PRIMARY:
            # Who it is does not matter; that nothing is lost was looked at before.
            assert trial.new_primary
        case Outcome.RESTARTED:
            assert trial.new_primary == trial.old_primary
            assert not trial.role_changed
            assert not trial.same_server
        case Outcome.SAME_PRIMARY:
            assert trial.new_primary == trial.old_primary
            assert not trial.role_changed
            assert trial.same_server


def a_standby(lab: Lab) -> Node:
    """Return a server that is not the primary."""
    primary = lab.primary()
    return next(node for node in lab.servers() if node.name != primary)


@contextmanager
def started_by_hand(lab: Lab, node: Node) -> Iterator[None]:
    """Start the node's PostgreSQL as a primary, as a human would, without a daemon."""
    assert node.stop() == 0
    (node.data_dir / "standby.signal").unlink()
    command = [*as_os_user(), str(lab.bin_dir / "postgres"), "-D", str(node.data_dir)]
    program = node.run([*command, "-c", "unix_socket_directories="])
    try:
        waits.wait_for(
            "a primary beside the cluster",
            lambda: node.query("SELECT 1 WHERE NOT pg_is_in_recovery()"),
            STARTED_S,
            0.02,
        )
        yield
    finally:
        program.send_signal(signal.SIGINT)
        program.wait(STARTED_S)
