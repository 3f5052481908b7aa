"""The dump of a node's state machine, as people read it."""

from collections.abc import Callable

from pgbastion.control.transitions import TRANSITIONS, Duty, Found
from pgbastion.model.reasons import SENTENCES


def test_the_table_of_transitions_is_as_reviewed(
    golden: Callable[[str, str], None],
) -> None:
    lines = []
    for duty in Duty:
        for found in Found:
            row = TRANSITIONS[duty, found]
            lines += [
                f"{duty} <- {found}: {row.comment}",
                f"    {' > '.join(row.steps)}",
            ]
    golden("transitions.txt", "\n".join(lines) + "\n")


def test_the_list_of_reasons_is_as_reviewed(
    golden: Callable[[str, str], None],
) -> None:
    lines = [f"{reason}: {sentence}" for reason, sentence in SENTENCES.items()]
    golden("reasons.txt", "\n".join(lines) + "\n")
