"""Asks a person before something that hurts."""

import sys

from pgbastion.cli.problems import UnconfirmedError


def confirm(question: str, *, yes: bool, unattended: bool = False) -> None:
    """Go on only when a person says yes, or ``--yes`` did.

    Args:
        question: What the person is asked.
        yes: Whether ``--yes`` did.
        unattended: Whether to go on where there is no terminal to ask on.

    Raises:
        UnconfirmedError: The answer is no, or there is no terminal to ask on.
    """
    if yes or (unattended and not sys.stdin.isatty()):
        return
    if not sys.stdin.isatty():
        raise UnconfirmedError(f"{question} Nobody can be asked here: add --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UnconfirmedError("nothing was changed")
