"""Golden files: `--rewrite` writes them anew, the difference is reviewed."""

from collections.abc import Callable
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the golden files anew"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Return a comparison of a text with the golden file of that name."""
    folder = Path(__file__).parent
    rewrite = bool(request.config.getoption("--rewrite", default=False))

    def compare(name: str, text: str) -> None:
        path = folder / name
        if rewrite:
            path.write_text(text)
        assert text == path.read_text(), (
            f"run this test with --rewrite and look at {name}"
        )

    return compare
