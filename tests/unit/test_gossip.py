"""What is made of what gossip tells."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from pgbastion.api import answers
from pgbastion.api.gossip import gossip_answer
from pgbastion.model.gossip import GossipFacts, GossipNode, GossipView, name_clashes
from pgbastion.model.snapshot import GossipSnapshot
from pgbastion.observe.metrics import Metrics
from support.snapshots import primary_snapshot

OWN = GossipFacts("n1", "c1", "127.0.0.1:8300", "http://127.0.0.1:8080", "1.2.3")
SECOND = replace(OWN, name="n2", raft_address="127.0.0.2:8300")
THIRD = replace(OWN, name="n3", raft_address="127.0.0.3:8300", version="1.2.2")


def view(**states: str) -> GossipView:
    """Return a view of n2 and n3 in these states."""
    by_name = {"n2": SECOND, "n3": THIRD}
    return GossipView(
        nodes=tuple(
            GossipNode(
                address=by_name[name].raft_address.replace("8300", "7946"),
                state=state,  # type: ignore[arg-type]
                facts=by_name[name],
            )
            for name, state in states.items()
        ),
        sent=5,
        received=4,
        refused=3,
    )


def test_one_name_at_two_places_is_a_clash() -> None:
    double = GossipNode(
        address="127.0.0.9:7946",
        state="alive",
        facts=replace(OWN, raft_address="127.0.0.9:8300"),
    )

    clashes = name_clashes(OWN, GossipView(nodes=(double,)))

    assert clashes == {"n1": ("127.0.0.1:8300", "127.0.0.9:8300")}
    assert name_clashes(OWN, view(n2="alive", n3="alive")) == {}


def test_a_node_that_is_gone_clashes_with_nobody() -> None:
    moved = GossipNode(
        address="127.0.0.9:7946",
        state="down",
        facts=replace(OWN, raft_address="127.0.0.9:8300"),
    )

    assert name_clashes(OWN, GossipView(nodes=(moved,))) == {}


def test_those_that_are_gone_are_not_found() -> None:
    assert view(n2="down", n3="suspect").living() == (THIRD,)


def test_of_several_at_one_address_the_living_one_is_the_node() -> None:
    gone = GossipNode(address="127.0.0.8:7946", state="down", facts=SECOND)
    lives = GossipNode(address="127.0.0.2:7946", state="alive", facts=SECOND)

    found = GossipView(nodes=(gone, lives)).node_at("127.0.0.2:8300")

    assert found == lives


def test_peers_carry_what_gossip_says() -> None:
    told = GossipSnapshot(running=True, view=view(n2="suspect"))

    peers = answers.raft_peers(primary_snapshot(gossip=told))["peers"]

    hints = {peer["id"]: peer["gossip"] for peer in peers}
    assert hints["n2"] == {
        "state": "suspect",
        "version": "1.2.3",
        "api_url": "http://127.0.0.1:8080",
    }
    assert hints["n3"] is None


def test_everything_that_gossip_told_is_answered() -> None:
    unknown = GossipNode(address="127.0.0.7:7946", state="alive", facts=None)
    told = GossipSnapshot(
        running=True,
        view=replace(view(n3="down"), nodes=(*view(n3="down").nodes, unknown)),
        clashes={"n1": ("a:1", "b:1")},
    )

    answer = gossip_answer(primary_snapshot(gossip=told))

    assert [node["name"] for node in answer["nodes"]] == ["n3", None]
    assert answer["clashes"] == [{"name": "n1", "addresses": ["a:1", "b:1"]}]
    assert (answer["sent_total"], answer["refused_total"]) == (5, 3)


def test_a_clash_is_a_warning_of_the_node() -> None:
    told = GossipSnapshot(clashes={"n1": ("a:1", "b:1")})

    warnings = answers.health(primary_snapshot(gossip=told))["warnings"]

    assert warnings == ["several nodes are called n1: a:1, b:1"]


def test_gossip_is_in_the_metrics() -> None:
    told = GossipSnapshot(running=True, view=view(n2="alive", n3="down"))
    text = Metrics().render(primary_snapshot(gossip=told)).decode()

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    assert samples["pgbastion_gossip_nodes", "alive"] == 1
    assert samples["pgbastion_gossip_nodes", "suspect"] == 0
    assert samples["pgbastion_gossip_nodes", "down"] == 1
    assert samples["pgbastion_gossip_running",] == 1
    assert samples["pgbastion_gossip_datagrams_total", "refused"] == 3
