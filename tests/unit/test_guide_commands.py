"""What the guides name exists: commands, options, headings that others point to."""

import re
import shlex
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup, TyperOption

from pgbastion.cli.app import app
from support.guides import GUIDES, ROOT, blocks

ANCHORS = ("rhelcentosrockyalma-linux-8-or-9", "debianubuntu", "windows-installation")


def commands_of(guide: str) -> list[list[str]]:
    """Return the lines that call our program, as words."""
    found = []
    for block in blocks(guide):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition("||")[0], comments=True)
            if "pgbastion" in words[:2] and "kill" not in words:
                found.append(words[words.index("pgbastion") + 1 :])
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_and_option_of_a_guide_exists(guide: str) -> None:
    for words in commands_of(guide):
        command: Any = typer.main.get_group(app)
        rest = list(words)
        while isinstance(command, TyperGroup):
            name = rest.pop(0)
            assert name in command.commands, f"{guide}: pgbastion {' '.join(words)}"
            command = command.commands[name]
        known = {"--help"}
        for option in command.params:
            if isinstance(option, TyperOption):
                known |= {*option.opts, *option.secondary_opts}
        for word in rest:
            if word.startswith("-"):
                named = word.partition("=")[0]
                assert named in known, f"{guide}: pgbastion {' '.join(words)}"


def test_the_headings_that_others_point_to_are_there() -> None:
    text = (ROOT / "INSTALL.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

    assert set(ANCHORS) <= anchors
