"""The pieces that all commands are made of."""

import io

import pytest

from pgbastion.cli.confirming import confirm
from pgbastion.cli.consensus import render_facts
from pgbastion.cli.problems import UnconfirmedError, UnfinishedError
from pgbastion.cli.progress import SHOW_EVERY, Progress, wait_for, watched
from pgbastion.cli.tables import render_table


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_columns_are_as_wide_as_their_widest_value_and_numbers_are_set_right() -> None:
    table = render_table(("node", "lag"), [("n1", 7), ("node2", 1024)], right=("lag",))

    assert table.splitlines() == ["NODE    LAG", "n1        7", "node2  1024"]


def test_nothing_is_a_dash_and_an_empty_table_has_its_headings() -> None:
    assert render_table(("a", "b"), [(None, "")]).splitlines()[1] == "-  -"
    assert render_table(("a", "b"), []) == "A  B"


def test_what_a_node_reports_cannot_move_the_cursor() -> None:
    assert "\x1b" not in render_table(("a",), [("x\x1b[2J\n",)])


def test_a_question_is_answered_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for said in ("n\n", "\n", "", "yess\n"):
        monkeypatch.setattr("sys.stdin", Terminal(said))
        with pytest.raises(UnconfirmedError, match="nothing was changed"):
            confirm("really?", yes=False)
    monkeypatch.setattr("sys.stdin", Terminal("Yes\n"))
    confirm("really?", yes=False)


def test_progress_is_shown_on_a_terminal_and_erased() -> None:
    out = Terminal()
    with Progress("switchover", out) as progress:
        progress.say("being prepared")

    assert "switchover: being prepared (0 s)" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")


def test_how_much_of_a_long_work_is_done_is_shown() -> None:
    out = Terminal()
    steps = [1] * (2 * SHOW_EVERY)

    seen = watched(steps, what="asked", total=len(steps), size=int, out=out)

    assert list(seen) == steps
    assert "asked: 50%" in out.getvalue()


def test_progress_is_not_written_into_a_file() -> None:
    out = io.StringIO()
    with Progress("switchover", out) as progress:
        progress.say("being prepared")

    assert out.getvalue() == ""


def test_waiting_ends_with_what_is_found_or_says_that_it_goes_on() -> None:
    looks = iter([None, None, 7])
    assert wait_for(lambda _: next(looks), what="it", within_s=5, every_s=0) == 7
    with pytest.raises(UnfinishedError, match="it: not finished"):
        wait_for(lambda _: None, what="it", within_s=0)


def test_what_the_engine_says_is_one_line_a_fact() -> None:
    told = {"node": "n1", "note": "", "voters": [1, 2], "certificate": {"days_left": 9}}

    assert render_facts(told).splitlines() == [
        "node: n1",
        "voters: 1, 2",
        "certificate days_left: 9",
    ]
