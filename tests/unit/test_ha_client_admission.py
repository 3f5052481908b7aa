"""When the primary on a node takes clients."""

import pytest

from pgbastion.ha.client_admission import ClientAdmission
from pgbastion.model.views import NodeView, PostgresView
from pgbastion.model.wal import Lsn
from pgbastion.testing.views import (
    any_of,
    cluster_state,
    holder_view,
    opened,
    primary_server,
    row,
)

AFTER = Lsn(200)


def started_again(**changes: object) -> PostgresView:
    """Return a server that was started in place and shows what nobody confirmed."""
    values = {"promoted_at": AFTER, "started_ms": 5, **changes}
    return primary_server(**values)


def view(postgres: PostgresView) -> NodeView:
    return holder_view(postgres=postgres)


def test_a_primary_whose_standbys_have_everything_takes_clients() -> None:
    assert ClientAdmission().accepts(view(primary_server()))


@pytest.mark.parametrize(
    ("rows", "admits"),
    [
        ((), False),
        ((row(2, 199), row(3, 199)), False),
        ((row(2, 199), row(3, 200)), True),
        ((row(2, 199), row(3, 200, streaming=False)), False),
        ((row(2, 199), row(9, 200)), False),
    ],
    ids=["alone", "behind", "one_has_it", "one_that_is_gone", "a_stranger"],
)
def test_a_server_started_in_place_waits_for_as_many_as_a_commit_needs(
    rows: tuple[object, ...], admits: bool
) -> None:
    """Rule 29: a commit whose wait was cut shows, and may still vanish."""
    postgres = started_again(replication=rows)

    assert ClientAdmission().accepts(view(postgres)) is admits


def test_a_set_that_waits_for_nobody_holds_nobody_up() -> None:
    state = cluster_state(opened=opened(1, 3, any_of(0)))
    alone = started_again(replication=(), server_sync=any_of(0))

    assert ClientAdmission().accepts(holder_view(state=state, postgres=alone))


def test_once_it_has_caught_up_it_may_lose_its_standbys() -> None:
    admission = ClientAdmission()
    assert admission.accepts(view(primary_server()))

    assert admission.accepts(view(primary_server(replication=())))
    assert not admission.accepts(view(started_again(replication=())))


def test_a_server_that_was_not_looked_at_since_its_start_takes_nobody() -> None:
    assert not ClientAdmission().accepts(view(started_again(promoted_at=None)))


def test_the_setting_has_to_be_in_force() -> None:
    assert not ClientAdmission().accepts(view(primary_server(server_sync=None)))
