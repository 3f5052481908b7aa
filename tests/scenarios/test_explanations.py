"""What simulated clusters say of themselves, each brought into a situation."""

from collections.abc import Callable

import pytest

from pgbastion.control.explain import explain
from pgbastion.control.explain_text import LINES_MAX, render_explanation
from support.situations import SITUATIONS
from support.telling import staged, steady, take


@pytest.mark.slow
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_explanation_of_a_situation_is_as_reviewed(
    name: str, golden: Callable[[str, str], None]
) -> None:
    script, shape = SITUATIONS[name]
    with staged(shape) as stage:
        lines = render_explanation(explain(take(stage, script(stage))))

    assert len(lines) <= LINES_MAX
    golden(f"explanations/{name}.txt", "\n".join(map(steady, lines)) + "\n")
