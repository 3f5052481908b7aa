"""The guides' commands, run as they stand on a cluster of three."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbastion.config.reading import understand
from pgbastion.demo.stage import READY_S, Stage
from support.guides import blocks, environment, run_blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage(profile="normal") as made:
        made.start()
        made.wait_complete(READY_S)
        yield made
    for node in made.nodes.values():
        # It has ended; nobody else asks how.
        node.exit_code()


def operator(stage: Stage, scratch: Path) -> dict[str, str]:
    """Return the shell of who works on the first node."""
    first = stage.nodes["n1"]
    section = understand(first.config).postgresql
    assert section is not None
    urls = [f"http://{node.address}:8080" for node in stage.nodes.values()]
    return environment(
        section.bin_dir,
        PGBASTION_CONFIG=str(first.config),
        PGBASTION_URL=",".join(urls),
        PGBASTION_TOKEN=stage.keys.token_file.read_text().strip(),
        PGUSER="postgres",
        PGPASSWORD=stage.keys.password,
        SCRATCH=str(scratch),
        **{f"NODE{name[1:]}": node.address for name, node in stage.nodes.items()},
    )


def test_the_tutorial_works_as_written(stage: Stage, tmp_path: Path) -> None:
    stage.wait_complete(READY_S)

    said = run_blocks(
        blocks("docs/tutorial/first-cluster.md", "run"), operator(stage, tmp_path)
    )

    assert "is the primary" in said
    assert "\nkept\n" in said


def test_the_switchover_guide_works_as_written(stage: Stage, tmp_path: Path) -> None:
    stage.wait_complete(READY_S)

    said = run_blocks(
        blocks("docs/howto/switch-over.md", "run"), operator(stage, tmp_path)
    )

    assert "is ready" in said
    assert "done: " in said


def test_the_quick_checks_of_the_readme_work_as_written(
    stage: Stage, tmp_path: Path
) -> None:
    stage.wait_complete(READY_S)

    said = run_blocks(blocks("README.md", "run"), operator(stage, tmp_path))

    assert '"role":' in said
    assert " is ready" in said
    assert said.splitlines()[-2:] == ["t", "t"]


def test_the_operations_guide_works_as_written(stage: Stage, tmp_path: Path) -> None:
    stage.wait_complete(READY_S)
    shell = operator(stage, tmp_path)
    # One address, as somebody has it who looks at one node.
    shell["PGBASTION_URL"] = shell["PGBASTION_URL"].partition(",")[0]

    said = run_blocks(blocks("OPERATIONS.md", "run"), shell)

    assert "paused" in said
    assert "0 differ" in said
    assert (tmp_path / "bundle.tar.gz").stat().st_size > 0
