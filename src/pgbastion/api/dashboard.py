"""The dashboard: one page, its style and its script, and what they show.

The files carry no data and no secret, so they need no token; what they show is read
from ``/ui/data`` as every other answer is, and what they change goes through the same
endpoints with the same token. The page keeps the token in memory only: there is no
cookie that a foreign page could use.
"""

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from typing_extensions import TypedDict

from pgbastion.api import answers, history, shapes
from pgbastion.api.explaining import ExplainAnswer, explain_cluster
from pgbastion.api.vip import vip
from pgbastion.model.snapshot import NodeSnapshot

FILES: Final = {
    "/ui": ("index.html", "text/html; charset=utf-8"),
    "/ui/style.css": ("style.css", "text/css; charset=utf-8"),
    "/ui/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/ui/draw.js": ("draw.js", "text/javascript; charset=utf-8"),
}
# Nothing from elsewhere, nothing inline, in nobody's frame.
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class TrafficFacts(TypedDict):
    """What this node's proxy carries, in sums."""

    sessions: int
    held: int
    draining: bool
    bytes_to_servers: int
    bytes_to_clients: int


class DashboardAnswer(TypedDict):
    """Everything that the dashboard shows, as of one instant."""

    health: shapes.HealthAnswer
    cluster: shapes.ClusterAnswer
    state: shapes.ClusterStateAnswer
    replication: shapes.ReplicationAnswer
    explain: ExplainAnswer
    history: shapes.ClusterHistoryAnswer
    directives: shapes.DirectivesAnswer
    traffic: TrafficFacts
    vip: shapes.VipAnswer


def dashboard_data(snapshot: NodeSnapshot) -> DashboardAnswer:
    """Tell everything that the dashboard shows, as of one instant."""
    return {
        "health": answers.health(snapshot),
        "cluster": answers.cluster(snapshot),
        "state": answers.cluster_state(snapshot),
        "replication": answers.replication(snapshot),
        "explain": explain_cluster(snapshot),
        "history": history.cluster_history(snapshot),
        "directives": answers.directives(snapshot),
        "traffic": _traffic(snapshot),
        "vip": vip(snapshot),
    }


def _traffic(snapshot: NodeSnapshot) -> TrafficFacts:
    counts = snapshot.proxy
    return {
        "sessions": counts.connections,
        "held": counts.held,
        "draining": counts.draining,
        "bytes_to_servers": sum(t.bytes_to_server for t in counts.traffic),
        "bytes_to_clients": sum(t.bytes_to_client for t in counts.traffic),
    }


def dashboard_files() -> list[Route]:
    """Return the routes of the page's files."""
    folder = files("pgbastion.api") / "ui"
    return [
        _file(path, (folder / name).read_bytes(), media_type)
        for path, (name, media_type) in FILES.items()
    ]


def _file(path: str, content: bytes, media_type: str) -> Route:
    headers = {**_HEADERS, "Content-Type": media_type}

    async def answer(request: Request) -> Response:
        del request
        return Response(content, headers=headers)

    return Route(path, answer, methods=["GET"])
