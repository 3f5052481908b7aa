"""What was acknowledged last is only where nobody may be promoted."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from ruamel.yaml import YAML

from pgbastion.bench.lab import processes, waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns
from support.lab_clients import post
from support.lab_faults import Clusters, receivers
from support.promises import nothing_lost

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    # The simulator plays the same two in every run.
    pytest.mark.skipif(
        not os.environ.get("PGBASTION_TEST_FULL"), reason="of the whole matrix"
    ),
]

KNOWN_S = 10.0


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(Plan())
    yield clusters
    clusters.close()


def tag_nofailover(lab: Lab, name: str, *, on: bool) -> None:
    """Change the tag in a node's file and have its daemon read it."""
    node = lab.node(name)
    settings = YAML().load(node.config)
    settings["tags"] = {"nofailover": on}
    YAML().dump(settings, node.config)
    daemon = node.daemon()
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGHUP)

    def known() -> bool:
        asked = {"to": name, "dry_run": True}
        said = post(lab, node, "/cluster/switchover", asked)
        return ("nofailover" in str(said)) is on

    waits.wait_for(f"the tag of {name}", known, KNOWN_S)


def wait_primary(lab: Lab, *names: str) -> str:
    """Return who of these becomes the primary, by their own word."""
    asked = [lab.node(name) for name in names]

    def known() -> str | None:
        primary = lab.reported_primary(asked)
        return primary if primary in names else None

    return waits.wait_for(f"one of {names} to be the primary", known, waits.STEADY_S)


def events(lab: Lab, name: str, event: str) -> int:
    log = lab.node(name).log.read_text(encoding="utf-8")
    return log.count(f'"event": "{event}"')


def test_who_may_be_promoted_first_gets_what_only_a_barred_standby_has(
    three: Clusters,
) -> None:
    with three.running() as lab:
        lab.wait_steady()
        primary = lab.primary()
        barred, allowed = (n.name for n in lab.servers() if n.name != primary)
        tag_nofailover(lab, barred, on=True)
        with lab.writers() as writers:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            lab.network.cut(primary, allowed)
            lab.network.cut(allowed, primary)
            cut_ns = boottime_ns()
            # What was on its way when it was cut is not what is waited for.
            writers.wait_for_write(cut_ns, waits.FIRST_ACKNOWLEDGED_S)
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            lab.node(primary).kill()
            lab.network.heal(primary, allowed)
            lab.network.heal(allowed, primary)
            assert wait_primary(lab, allowed, barred) == allowed
            writers.wait_for_write(boottime_ns(), waits.STEADY_S)
        assert events(lab, allowed, "catching_up") == 1
        assert events(lab, allowed, "not_caught_up") == 0
        lab.node(primary).start()
        lab.wait_steady(waits.REJOINED_S)
        nothing_lost(lab.check(writers))
        tag_nofailover(lab, barred, on=False)


def confirming(lab: Lab, name: str) -> int:
    return int(lab.node(name).get("/cluster/state")["synchronous"]["num_sync"])


def test_who_may_be_promoted_first_gets_what_only_a_barred_former_primary_has(
    three: Clusters,
) -> None:
    """It is started again, as a standby, to be read; it follows the next primary."""
    with three.running() as lab:
        lab.wait_steady()
        old = lab.primary()
        others = [n.name for n in lab.servers() if n.name != old]
        before = {name: events(lab, name, "catching_up") for name in others}
        for name in others:
            post(lab, lab.node(old), "/cluster/fence", {"node": name})
        waits.wait_for(
            "commits to wait for nobody", lambda: confirming(lab, old) == 0, KNOWN_S
        )
        silent = receivers([lab.node(name) for name in others])
        with lab.writers() as writers, ExitStack() as stack:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            stack.callback(processes.kill, silent)
            processes.freeze(lambda: silent)
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            for name in others:
                post(lab, lab.node(old), "/cluster/unfence", {"node": name})
            stops = {"node": old, "force": True}
            said = post(lab, lab.node(old), "/cluster/fence", stops)
            assert "error" not in said, said
            server = lab.node(old).postmaster()
            waits.wait_for(
                f"the server of {old} to end",
                lambda: lab.node(old).postmaster() != server,
                waits.DAEMON_STOP_S,
                0.02,
            )
            # What they were sent meanwhile goes with them.
            stack.close()
            new = wait_primary(lab, *others)
            writers.wait_for_write(boottime_ns(), waits.STEADY_S)
        assert events(lab, new, "catching_up") > before[new]
        lab.wait_standby(old)
        post(lab, lab.node(new), "/cluster/unfence", {"node": old})
        lab.wait_steady()
        nothing_lost(lab.check(writers))
