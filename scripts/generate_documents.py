"""Write the documents that come from the code; with --check, refuse old ones."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from checks.log_events import render_log_events

from pgbastion.api.document import render_rest
from pgbastion.cli.document import render_commands
from pgbastion.cli.unit import render_one_user, render_unit, render_witness
from pgbastion.config.document import render_example, render_reference
from pgbastion.control.document import render_reasons, render_transitions
from pgbastion.observe.document import render_metrics

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENTS: Final[Mapping[str, Callable[[], str]]] = {
    "systemd/pgbastion.service": render_unit,
    "systemd/drop-ins/one-user.conf": render_one_user,
    "systemd/drop-ins/witness.conf": render_witness,
    "config/pgbastion.yaml.example": render_example,
    "docs/reference/commands.md": render_commands,
    "docs/reference/configuration.md": render_reference,
    "docs/reference/log-events.md": render_log_events,
    "docs/reference/metrics.md": render_metrics,
    "docs/reference/rest.md": render_rest,
    "docs/reference/transitions.md": render_transitions,
    "docs/reference/reasons.md": render_reasons,
}


def main() -> int:
    """Write all documents, or with --check name those that differ."""
    checking = sys.argv[1:] == ["--check"]
    old = []
    for name, render in DOCUMENTS.items():
        path = ROOT / name
        text = render()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if not checking:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if checking:
        for name in old:
            print(f"{name} is not what the code says: run {Path(__file__).name}")
        return 1 if old else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
