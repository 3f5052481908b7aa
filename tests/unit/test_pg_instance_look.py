"""What a look at the server says while other work on the same server goes on."""

import asyncio
from pathlib import Path

import pytest

from pgbastion.errors import PostgresError
from pgbastion.model.ids import DataId, Epoch, NodeId, Timeline
from pgbastion.model.wal import Lsn, WalEnd
from pgbastion.postgres.config_files import Secrets
from pgbastion.postgres.disk import DiskAnswer
from pgbastion.postgres.instance import Bounds, Instance
from pgbastion.postgres.layout import Account, PgIdentity, PgPaths, PgRoles
from pgbastion.postgres.mark import Mark
from pgbastion.postgres.probe import ProbeResult, ServerFacts
from pgbastion.postgres.settings_state import NOTHING, SettingsState
from pgbastion.testing.views import member

NOWHERE = Path("/nonexistent")
LOOK_S = 0.2


def an_instance() -> Instance:
    return Instance(
        paths=PgPaths(
            bin_dir=NOWHERE,
            data_dir=NOWHERE,
            run_dir=NOWHERE,
            socket_dir=NOWHERE,
            state_dir=NOWHERE,
            account=Account(name="root", uid=0, gid=0),
        ),
        identity=PgIdentity(
            node=NodeId("n1"), listen=("127.0.0.1",), port=5442, roles=PgRoles()
        ),
        secrets=Secrets(dict.fromkeys(PgRoles().all, "secret")),
        parameters={},
        hba=(),
        bounds=Bounds(look_s=LOOK_S, cut_s=1.0),
    )


async def a_probe(*, deadline_s: float, fresh: bool = False) -> ProbeResult:
    """Answer as a standby that receives nothing: only its checkpoint says where."""
    del deadline_s, fresh
    return ProbeResult(
        sent_ns=1,
        answered_ns=2,
        evidence_ns=1,
        reason="",
        facts=ServerFacts(
            in_recovery=True,
            timeline=None,
            checkpoint_timeline=Timeline(3),
            flush_lsn=None,
            receive_lsn=None,
            replay_lsn=Lsn(100),
            replayed=WalEnd(timeline=Timeline(4), lsn=Lsn(90)),
            replay_paused=False,
            receiver=None,
            sync_names="",
            started_us=1,
            loaded_at="then",
            postmaster_pid=1,
        ),
        disk=DiskAnswer(sent_ns=1, answered_ns=2),
    )


def test_the_end_of_wal_has_its_timeline_whatever_is_forgotten_meanwhile() -> None:
    """A take-over, or a start, may forget the last server in the middle of a look."""
    instance = an_instance()

    async def forget_meanwhile(
        nodes: object, *, in_recovery: bool, loaded_at: str
    ) -> None:
        del nodes, loaded_at
        assert in_recovery
        await instance._forget()

    instance._probe.look = a_probe  # type: ignore[method-assign]
    instance._side.ask = forget_meanwhile  # type: ignore[method-assign]

    facts = asyncio.run(instance.look(lambda _: None))

    assert facts.wal_end == WalEnd(timeline=Timeline(3), lsn=Lsn(100))
    assert facts.replayed == WalEnd(timeline=Timeline(4), lsn=Lsn(90))


def test_a_server_that_did_not_hear_of_new_members_is_told_again() -> None:
    """Else it would not let them in until something else has it read its files."""
    instance = an_instance()
    told = 0

    async def write_access(hosts: object) -> None:
        del hosts

    async def reload() -> None:
        nonlocal told
        told += 1
        if told == 1:
            raise PostgresError("it does not answer")

    async def refresh_three_times() -> None:
        with pytest.raises(PostgresError):
            await instance.refresh_access([member(1), member(2)])
        for _ in range(2):
            await instance.refresh_access([member(1), member(2)])

    instance.config.write_access = write_access  # type: ignore[assignment,method-assign]
    instance._primary.reload = reload  # type: ignore[method-assign]
    asyncio.run(refresh_three_times())

    assert told == 2


def test_a_cut_that_failed_half_way_is_made_anew_before_the_promotion() -> None:
    """L1: the mark says that it is cut, and in async nobody surveys it again."""
    instance = an_instance()
    did: list[str] = []

    async def own_mark() -> Mark:
        return Mark(
            cluster_id="c", data_id=DataId("d"), node=NodeId("n1"), cut_epoch=Epoch(2)
        )

    async def is_cut() -> bool:
        return "cut" in did

    async def cut(epoch: Epoch, *, deadline_s: float) -> None:
        assert (epoch, deadline_s) == (2, 1.0)
        did.append("cut")

    async def promote(epoch: Epoch, timeline: Timeline) -> None:
        assert (epoch, timeline) == (3, 7)
        did.append("promoted")

    instance._directory.own_mark = own_mark  # type: ignore[method-assign]
    for what in (is_cut, cut, promote):
        setattr(instance._standby, what.__name__, what)

    async def promote_twice() -> None:
        await instance.promote(Epoch(3), Timeline(7))
        await instance.promote(Epoch(3), Timeline(7))

    asyncio.run(promote_twice())

    assert did == ["cut", "promoted", "promoted"]


def test_a_look_does_not_wait_for_other_work_on_its_connections() -> None:
    """A renewal must not find old evidence because a change of the set takes long."""
    instance = an_instance()
    noted: list[int] = []
    noted_before: list[int] = []
    other_work = asyncio.Event()

    async def wait() -> None:
        noted_before.append(len(noted))
        await other_work.wait()

    async def nothing() -> SettingsState:
        return NOTHING

    async def no_dangers(*, in_recovery: bool) -> None:
        del in_recovery

    async def look_often() -> None:
        facts = await instance.look(noted.append)
        assert facts.answered
        assert noted == [1]
        other_work.set()
        await instance.look(noted.append)
        # What was under way was neither asked for again nor cut off.
        assert noted_before == [1]
        await instance.look(noted.append)
        # Evidence is told first each time: the third look asks for the second time.
        assert noted_before == [1, 3]
        await instance._forget()

    instance._probe.look = a_probe  # type: ignore[method-assign]
    instance._primary.end_dangers = no_dangers  # type: ignore[method-assign]
    instance._standby.warm = wait  # type: ignore[method-assign]
    instance._side._settings_watch.ask = nothing  # type: ignore[method-assign]

    asyncio.run(look_often())
