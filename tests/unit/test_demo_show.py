"""The live demonstration where its output is no terminal."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from rich.console import Console

from pgbastion.demo.show import Show
from pgbastion.demo.stage import Picture, Stage

NODE = SimpleNamespace(
    address="127.0.77.3",
    postmaster=lambda: SimpleNamespace(pid=41),
    daemon=lambda: SimpleNamespace(pid=42),
)
STAGE = SimpleNamespace(
    nodes={"n1": NODE, "n3": NODE},
    keys=SimpleNamespace(password="secret", token_file=Path("/tmp/demo/token")),
    directory=Path("/tmp/demo"),
)


def picture(epoch: int) -> Picture:
    serves = {"role": "primary", "state": "running"}
    return Picture(cluster={"primary": "n1", "epoch": epoch}, health={"n1": serves})


def said(*, complete: bool, epochs: tuple[int, ...]) -> str:
    written = io.StringIO()
    show = Show(cast("Stage", STAGE), Console(file=written, width=200))
    show_any: Any = show
    show_any._complete = complete
    for epoch in epochs:
        show._tell(picture(epoch))
    return written.getvalue()


def test_what_to_try_is_said_once_as_soon_as_the_cluster_is_whole() -> None:
    told = said(complete=True, epochs=(1, 1, 2))

    assert told.count("kill the primary  kill -9 41") == 1
    assert told.count("psql postgresql://postgres:secret@127.0.77.3:5432") == 1
    # Before the first line of what goes on.
    assert told.index("kill -9 42") < told.index("epoch 1")


def test_nothing_is_proposed_before_the_cluster_is_whole() -> None:
    assert "kill" not in said(complete=False, epochs=(1, 2))


def test_a_line_is_said_when_something_has_changed() -> None:
    told = said(complete=False, epochs=(1, 1, 2, 2))

    assert [line.partition("  ")[0] for line in told.splitlines()] == [
        "epoch 1",
        "epoch 2",
    ]
