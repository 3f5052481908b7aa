"""The parts of answers that tell of the transport between the nodes, and of gossip."""

from typing_extensions import TypedDict


class CertificateFacts(TypedDict):
    """The certificate that a node shows to the others."""

    subject: str
    places: list[str]
    made_by: str
    expires_at: str
    authority_expires_at: str
    days_left: int


class GossipHint(TypedDict):
    """What gossip says of a member."""

    state: str
    version: str
    api_url: str


class GossipNodeFacts(TypedDict):
    """A node that gossip has heard of."""

    name: str | None
    address: str
    state: str
    cluster_id: str | None
    raft_address: str | None
    api_url: str | None
    version: str | None


class NameClash(TypedDict):
    """A name that several nodes have."""

    name: str
    addresses: list[str]


class GossipAnswer(TypedDict):
    """Everything that gossip has told this node."""

    node: str
    running: bool
    nodes: list[GossipNodeFacts]
    clashes: list[NameClash]
    sent_total: int
    received_total: int
    refused_total: int
