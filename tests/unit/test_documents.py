"""What the documents point to exists: other documents, files, tests, make's targets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from support.guides import ROOT

DOCUMENTS: Final = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
SOURCES: Final = tuple(
    path
    for pattern in (
        "src/**/*.py",
        "scripts/**/*.py",
        "tests/**/*.py",
        "native/*/src/**/*.rs",
        "native/*/tests/**/*.rs",
    )
    for path in ROOT.glob(pattern)
)
PATHS: Final = frozenset(f"/{path.relative_to(ROOT)}" for path in SOURCES)
TESTS: Final = frozenset(
    name
    for path in SOURCES
    if path.name.startswith("test_")
    for name in (
        path.stem,
        *re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")),
    )
)


def anchors(document: Path) -> frozenset[str]:
    """Return what a link can point to in a document, as the forges make it."""
    headings = re.findall(r"^#+ (.*)$", document.read_text("utf-8"), re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    )


def quoted(text: str, pattern: str) -> Iterator[str]:
    """Yield each word between backticks that the pattern matches as a whole."""
    for word in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(pattern, word):
            yield word


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    here = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", here.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = here.parent / name if name else here
        assert target.exists(), f"{document}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{document}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_source_file_and_test_that_is_named_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in quoted(text, r"[\w./-]+\.(py|rs)"):
        assert any(path.endswith(f"/{name}") for path in PATHS), f"{document}: {name}"
    for name in quoted(text, r"test_\w+"):
        assert name in TESTS, f"{document}: {name}"


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    [benches] = re.findall(r"^BENCHES := (.*)$", makefile, re.MULTILINE)
    targets |= {f"bench-{name}" for name in benches.split()}
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for words in quoted(text, r"make( [\w.=-]+)+"):
            wanted = words.split()[1]
            assert wanted in targets, f"{document}: {words}"


def test_every_heading_that_the_code_gives_as_its_source_exists() -> None:
    for path in SOURCES:
        # Docstrings and comments of both languages, with their lines joined.
        text = re.sub(r"\s*\n\s*(#|//[/!]?)?\s*", " ", path.read_text("utf-8"))
        cited = re.findall(r'(docs/[\w./-]+\.md), ((?:(?:, | and )?"[^"]+")+)', text)
        for document, words in cited:
            target = ROOT / document
            for heading in re.findall(r'"([^"]+)"', words):
                slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                assert slug in anchors(target), f"{path}: {document}, {heading}"


def test_every_module_that_a_docstring_points_to_exists() -> None:
    for path in SOURCES:
        for name in re.findall(r":mod:`\.(\w+)`", path.read_text("utf-8")):
            module = path.parent / name
            assert module.with_suffix(".py").exists() or module.is_dir(), (
                f"{path}: {name}"
            )
