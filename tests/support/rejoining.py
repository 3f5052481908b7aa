"""A primary with standbys, a failover between them, and the way back."""

from pgbastion.model.cluster import ReplicationMode, SyncSet
from pgbastion.model.ids import Epoch, Timeline
from pgbastion.model.wal import WalEnd
from support.postgres import Lab, Server, until


async def pair(lab: Lab, **parameters: str) -> tuple[Server, Server]:
    """Give a primary with a table, and a standby that has it."""
    n2 = lab.server("n2", **parameters)
    n1 = await lab.primary("n1", n2, initdb=False, **parameters)
    await n1.primary.open()
    await n1.primary.slots.keep([n2.name])
    await n2.copy_from(n1)
    await n2.start()
    await n1.rows("CREATE TABLE public.t (node text)")
    await n1.rows("INSERT INTO public.t VALUES ('both')")
    written = await n1.primary.write_position()
    await until(lambda: n2.has_flushed(written))
    return n1, n2


async def pair_and_third(lab: Lab) -> tuple[Server, Server, Server]:
    """Give the same with a second standby."""
    n1, n2 = await pair(lab)
    n3 = lab.server("n3")
    await n1.primary.slots.keep([n2.name, n3.name])
    await n1.config.write_access([n1.host, n2.host, n3.host])
    await n3.copy_from(n1)
    await n3.start()
    written = await n1.primary.write_position()
    await until(lambda: n3.has_flushed(written))
    await until(lambda: n2.has_flushed(written))
    return n1, n2, n3


async def fail_over(n1: Server, n2: Server, timeline: int, epoch: int = 2) -> None:
    """Promote ``n2``; ``n1`` still runs and writes a row that nobody else has."""
    end = await n2.standby.cut(Epoch(epoch - 1), deadline_s=5)
    assert isinstance(end, WalEnd)
    await n1.rows("INSERT INTO public.t VALUES ('n1 alone')")
    await n2.standby.promote(Epoch(epoch), Timeline(timeline))
    promoted = await n2.standby.promoted(deadline_s=10)
    assert promoted is not None
    assert promoted.timeline == timeline
    await n2.standby.close()
    await n2.primary.set_sync(ReplicationMode.QUORUM, SyncSet(), await n2.data_id())
    await n2.primary.slots.keep([n1.name])
    await n2.primary.checkpoint()
    await n2.rows("INSERT INTO public.t VALUES ('n2')")


async def return_to(server: Server, primary: Server, epoch: int = 2) -> None:
    """Start ``server`` as a standby of ``primary`` and wait until it has its rows."""
    await server.configure()
    await server.standby.follow_files(primary.upstream, Epoch(epoch))
    await server.start()
    written = await primary.primary.write_position()
    await until(lambda: server.has_flushed(written))
    await until(lambda: agree(server, primary))


async def agree(one: Server, other: Server) -> bool:
    query = "SELECT array_agg(node ORDER BY node) FROM public.t"
    return await one.value(query) == await other.value(query)
