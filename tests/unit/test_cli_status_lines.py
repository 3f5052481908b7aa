"""What the table of members says besides."""

from pgbastion.cli.status import render_members

MEMBER = {"name": "n1", "role": "replica", "state": "streaming", "lag": 0}


def test_a_fenced_member_is_shown_as_such() -> None:
    shown = render_members({"members": [MEMBER, {**MEMBER, "fenced": True}]})

    _, free, fenced = shown.splitlines()
    assert "fenced" not in free
    assert "standby, fenced" in fenced


def test_what_is_scheduled_stands_below_the_table() -> None:
    at = "2030-01-31T03:00:00.000+00:00"
    best = render_members({"members": [], "scheduled_switchover": {"at": at}})
    named = render_members(
        {"members": [], "scheduled_switchover": {"at": at, "to": "n2"}}
    )

    assert best.endswith(f"scheduled: switchover to the best standby at {at}")
    assert named.endswith(f"scheduled: switchover to n2 at {at}")
