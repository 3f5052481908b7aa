"""Who confirms commits changes under load; a setting changed by hand is mended."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.settings import Plan
from pgbastion.clock import boottime_ns
from support.lab_clients import post
from support.lab_faults import Clusters
from support.promises import nothing_lost

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

IN_FORCE_S = 10.0
# One probe of the profile, and what the machine may need besides.
MENDED_S = 2.0


@pytest.fixture(scope="module")
def three() -> Iterator[Clusters]:
    clusters = Clusters(Plan())
    yield clusters
    clusters.close()


def setting(lab: Lab) -> str:
    rows = lab.node(lab.primary()).query("SHOW synchronous_standby_names")
    return str(rows[0][0]) if rows else "?"


def synchronous(lab: Lab) -> dict[str, Any]:
    return dict(lab.node(lab.primary()).get("/cluster/state")["synchronous"])


def wait_in_force(lab: Lab, begin: str, count: int) -> None:
    def in_force() -> bool:
        promised = synchronous(lab)["num_sync"]
        return setting(lab).startswith(begin) and promised == count

    waits.wait_for(f"{begin!r} and {count} to confirm", in_force, IN_FORCE_S)


def test_a_setting_changed_by_hand_is_mended_within_a_probe(three: Clusters) -> None:
    with three.running() as lab:
        lab.wait_steady()
        primary = lab.node(lab.primary())
        waits.wait_for(
            "both standbys in the set",
            lambda: len(synchronous(lab)["names"]) == 2,
            IN_FORCE_S,
        )
        before = setting(lab)
        for by_hand in ("", "*"):
            primary.query(f"ALTER SYSTEM SET synchronous_standby_names = '{by_hand}'")
            primary.query("SELECT pg_reload_conf()")
            waits.wait_for(
                "the setting to be taken", lambda: setting(lab) != before, 1, 0.01
            )
            waits.wait_for(
                "the setting to be ours", lambda: setting(lab) == before, MENDED_S
            )
            wait_in_force(lab, "ANY 1 (", 1)
        log = primary.log.read_text(encoding="utf-8")
        assert log.count("sync_setting_changed_by_hand") == 2
        auto = (primary.data_dir / "postgresql.auto.conf").read_text(encoding="utf-8")
        assert "synchronous_standby_names" not in auto


def test_the_mode_changes_under_load_and_loses_nothing(three: Clusters) -> None:
    with three.running() as lab:
        lab.wait_steady()
        node, primary, epoch = lab.node("n2"), lab.primary(), lab.epoch()
        writers = lab.writers()
        with writers:
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
            for body, begin, count in (
                ({"mode": "async"}, "", 0),
                ({"mode": "sync"}, "FIRST 1 (", 1),
                ({"sync_count": 2, "strict": True}, "FIRST 2 (", 2),
                ({"mode": "quorum"}, "ANY 2 (", 2),
                ({"sync_count": "auto", "strict": False}, "ANY 1 (", 1),
            ):
                said = post(lab, node, "/cluster/replication", dict(body))
                assert said["changed"], said
                wait_in_force(lab, begin, count)
            writers.wait_for_write(boottime_ns(), waits.FIRST_ACKNOWLEDGED_S)
        refused = post(
            lab, node, "/cluster/replication", {"sync_count": 3, "strict": True}
        )
        assert refused["error"]["code"] == "never_satisfied"
        nothing_lost(lab.check(writers))
        assert (lab.primary(), lab.epoch()) == (primary, epoch)
