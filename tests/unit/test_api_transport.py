"""What API, metrics and status say of the transport between the nodes."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from pgbastion.api import answers
from pgbastion.cli.status import Answer, render_status
from pgbastion.control.explain import explain
from pgbastion.model.snapshot import ApiCertificateSnapshot, CertificateSnapshot
from pgbastion.observe.metrics import Metrics
from support.snapshots import primary_snapshot

DAY_S = 86_400
SHOWN = CertificateSnapshot(
    subject="CN=n1",
    places=("10.0.1.1", "n1"),
    own=False,
    expires_s=20_000 * DAY_S,
    authority_expires_s=30_000 * DAY_S,
    left_s=50 * DAY_S,
    expires_soon=False,
)
SOON = replace(SHOWN, left_s=3 * DAY_S, expires_soon=True)
GONE = replace(SHOWN, left_s=-1, expires_soon=True)


def test_the_certificate_is_in_the_raft_state() -> None:
    assert answers.raft_state(primary_snapshot(certificate=SHOWN))["certificate"] == {
        "subject": "CN=n1",
        "places": ["10.0.1.1", "n1"],
        "made_by": "operator",
        "expires_at": "2024-10-04T00:00:00+00:00",
        "authority_expires_at": "2052-02-20T00:00:00+00:00",
        "days_left": 50,
    }


def test_plain_transport_has_no_certificate() -> None:
    assert answers.raft_state(primary_snapshot())["certificate"] is None


def test_the_end_of_a_certificate_is_a_warning() -> None:
    def warnings(certificate: CertificateSnapshot | None) -> list[str]:
        return answers.health(primary_snapshot(certificate=certificate))["warnings"]

    assert warnings(None) == warnings(SHOWN) == []
    assert "n1 between the nodes expires in 3 days" in warnings(SOON)[0]
    assert "has expired" in warnings(GONE)[0]


def test_status_shows_the_warning() -> None:
    health = answers.health(primary_snapshot(certificate=SOON))
    answer = Answer(url="", health={**health}, cluster={})

    assert "warning: the certificate of n1" in render_status(answer)


def test_expiry_is_a_metric_of_node_and_authority() -> None:
    text = Metrics().render(primary_snapshot(certificate=SHOWN)).decode()

    samples = {
        (sample.name, sample.labels.get("of")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    name = "pgbastion_certificate_expiry_timestamp_seconds"
    assert samples[name, "node"] == SHOWN.expires_s
    assert samples[name, "authority"] == SHOWN.authority_expires_s
    assert samples["pgbastion_raft_tls", None] == 1


def test_plain_transport_is_a_metric_too() -> None:
    text = Metrics().render(primary_snapshot()).decode()

    assert "pgbastion_raft_tls 0.0" in text
    assert "pgbastion_certificate_expiry_timestamp_seconds{" not in text


def test_the_api_has_a_certificate_of_its_own() -> None:
    shown = ApiCertificateSnapshot(expires_s=7, left_s=3 * DAY_S, expires_soon=True)
    gone = replace(shown, left_s=-1)
    text = Metrics().render(primary_snapshot(api_certificate=shown)).decode()

    assert 'expiry_timestamp_seconds{of="api"} 7.0' in text
    for certificate, word in ((shown, "expires in 3 days"), (gone, "has expired")):
        snapshot = primary_snapshot(api_certificate=certificate)
        (warning,) = answers.health(snapshot)["warnings"]
        assert word in warning
        assert warning in explain(snapshot).warnings
