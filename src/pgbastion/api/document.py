"""The reference of the REST API, from the tables that it is served from."""

from collections.abc import Iterator

from pgbastion.api.bodies import Body
from pgbastion.api.checks import CHECKS
from pgbastion.api.endpoints import CHANGES, READS
from pgbastion.api.openapi import body_of, summary
from pgbastion.api.operations import ONE, operation
from pgbastion.api.states import PASSES

HEAD = """\
# REST API

Served on `api.port` of every node; any node answers for the cluster. The description
for programs is at `/openapi.json`. Answers are JSON and come from memory, whatever
PostgreSQL or its disk do. Everything that changes something needs the header
`Authorization: Bearer TOKEN`, or a client certificate of `api.tls_client_ca`. An error
is `{"error": {"code", "message", "remedy"}}`. What goes on after its answer is answered
with 202, its `id`, and in `operation` and `Location` where any node tells how far it
has come. Generated from the program.
"""
EVENTS = (
    "| `/events` | What happens, as server-sent events: `role`, `order`, "
    "`membership`, `pause`, `settings`, `split_brain`, `warning`. `Last-Event-ID`, or "
    "`?after=SEQ`, goes on from an event; the newest 1,000 are kept. |\n"
)
CHECKS_HEAD = """
## Checks

200 or 503, with GET, HEAD and OPTIONS; never refused for asking often, and open also
where reading needs a token. `?lag=1MB` fails a standby that is further behind;
`?replication_state=in archive recovery` asks for one that does not stream.
"""


def render_rest() -> str:
    """Return the reference of the REST API."""
    return "".join(
        [
            HEAD,
            "\n## Reading\n\n| GET, HEAD, OPTIONS | |\n|---|---|\n",
            *(f"| `{path}` | {summary(f)} |\n" for path, f in READS.items()),
            f"| `{ONE}` | {summary(operation)} |\n",
            "| `/metrics` | Metrics in Prometheus' text format; also on 9090. |\n",
            EVENTS,
            "| `/openapi.json` | The description of this API. |\n",
            CHECKS_HEAD,
            "\n| check | |\n|---|---|\n",
            *(f"| `{path}` | {summary(f)} |\n" for path, f in CHECKS.items()),
            "\n### What passes in which state\n\n",
            "Every other check fails with 503, and the body says why.\n\n",
            "| state of the node | checks that pass |\n|---|---|\n",
            *_states(),
            "\n## Changing\n",
            *_changes(),
        ]
    )


def _states() -> Iterator[str]:
    for state, passing in PASSES.items():
        paths = " ".join(f"`{path}`" for path in CHECKS if path in passing) or "none"
        yield f"| {state.value} | {paths} |\n"


def _changes() -> Iterator[str]:
    for (method, path), change in CHANGES.items():
        yield f"\n### {method} {path}\n\n{summary(change)}\n"
        yield from _fields(body_of(change))


def _fields(body: type[Body]) -> Iterator[str]:
    if body.model_fields:
        yield "\n| in the body | |\n|---|---|\n"
    for name, field in body.model_fields.items():
        needed = " Needed." if field.is_required() else ""
        yield f"| `{name}` | {field.description or ''}{needed} |\n"
