"""What the API says of the transport between the nodes. Pure."""

from datetime import UTC, datetime

from pgbastion.api.transport_shapes import CertificateFacts
from pgbastion.model.snapshot import CertificateSnapshot


def certificate(shown: CertificateSnapshot | None) -> CertificateFacts | None:
    """Describe the certificate that a node shows to the others."""
    if shown is None:
        return None
    return {
        "subject": shown.subject,
        "places": list(shown.places),
        "made_by": "node" if shown.own else "operator",
        "expires_at": _instant(shown.expires_s),
        "authority_expires_at": _instant(shown.authority_expires_s),
        "days_left": shown.days_left,
    }


def _instant(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
