"""Builds a node: guard, page, engine and PostgreSQL, in the order of need."""

from collections.abc import Callable

from pgbastion.config.model import Config, PostgresqlSection
from pgbastion.config.secrets import Secrets
from pgbastion.consensus.engine import Engine, is_member
from pgbastion.errors import PgBastionError
from pgbastion.guard import page as words
from pgbastion.guard.page import Page
from pgbastion.model.cluster import join_host_port
from pgbastion.node.certificates import Certificates
from pgbastion.node.page import SharedPage
from pgbastion.node.parts import build_instance, watchdog_of
from pgbastion.node.running import Node
from pgbastion.postgres.guard_link import PAGE_NAME, GuardLink
from pgbastion.postgres.layout import resolve_account


async def build_node(
    config: Config,
    secrets: Secrets,
    *,
    on_ready: Callable[[], None],
    on_removed: Callable[[], None],
) -> Node:
    """Build the parts of a node, in the order in which they need each other.

    Raises:
        PgBastionError: A part cannot be had.
    """
    guard, instance = None, None
    certificates = Certificates(config, secrets.cluster)
    page_path = config.run_dir / PAGE_NAME
    node: Node | None = None

    def on_stopped() -> None:
        if node is not None and node.observer is not None:
            node.observer.on_stopped()

    def on_event() -> None:
        if node is not None:
            node.wake()

    if config.postgresql is not None:
        instance = build_instance(config, config.postgresql, secrets)
        guard = _make_guard(
            config, config.postgresql, on_stopped=on_stopped, on_event=on_event
        )
        if not is_member(config.raft.data_dir):
            await guard.start_afresh()
        await guard.connect()
        page = Page(str(page_path))
    else:
        page = _page_of_witness(str(page_path))
    try:
        engine = _build_engine(config, secrets, page, certificates)
    except PgBastionError:
        if guard is not None:
            await guard.dismiss()
        raise
    node = Node(
        config,
        secrets,
        engine=engine,
        page=SharedPage(page, page[words.GENERATION]),
        guard=guard,
        instance=instance,
        certificates=certificates,
        on_ready=on_ready,
        on_removed=on_removed,
    )
    return node


def _make_guard(
    config: Config,
    section: PostgresqlSection,
    *,
    on_stopped: Callable[[], None],
    on_event: Callable[[], None],
) -> GuardLink:
    account = resolve_account(section.os_user)
    return GuardLink(
        run_dir=config.run_dir,
        data_dir=section.data_dir,
        user=account.name,
        uid=account.uid,
        on_stopped=on_stopped,
        on_event=on_event,
        watchdog=watchdog_of(config),
    )


def _page_of_witness(path: str) -> Page:
    """Return the page of a node without a guard, which would hand out generations."""
    page = words.obtain(path)
    page[words.GENERATION] += 1
    return page


def _build_engine(
    config: Config, secrets: Secrets, page: Page, certificates: Certificates
) -> Engine:
    timings = config.timings
    return Engine(
        directory=config.raft.data_dir,
        listen=join_host_port(config.raft.bind_address, config.raft.bind_port),
        secret=secrets.cluster,
        heartbeat_ms=timings.heartbeat_ms,
        election_ms=timings.election_ms,
        page=config.run_dir / PAGE_NAME,
        generation=page[words.GENERATION],
        credentials=certificates.credentials,
    )
