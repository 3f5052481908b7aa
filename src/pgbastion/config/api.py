"""The section of the REST API. Pure."""

from pydantic import Field

from pgbastion.config.proxy import EVERYWHERE
from pgbastion.config.section import Section
from pgbastion.config.types import AbsolutePath, Address, Port


class ApiSection(Section):
    """The REST API."""

    bind_address: Address = Field(EVERYWHERE, description="Address to listen on.")
    port: Port = Field(8_080, description="Its port.")
    auth_token_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/token"],
        description="One line, needed for everything that changes something. Default: "
        "derived from the secret, written to RAFT_DATA_DIR/api-token. Environment: "
        "PGBASTION_TOKEN.",
    )
    read_token_file: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/read-token"],
        description="One line; where given, reading needs it too, but for the role "
        "and health checks.",
    )
    tls_cert: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/api.crt"],
        description="The certificate of this port and of the metrics port in PEM, "
        "followed by the chain; both ports then speak TLS only. Read again when it "
        "changes, as are the key and the authority.",
    )
    tls_key: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/api.key"],
        description="The certificate's key in PEM, mode 0600.",
    )
    tls_client_ca: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/clients.crt"],
        description="An authority in PEM: a client that shows a certificate of it "
        "needs no token, for changing or reading; one of another authority is refused.",
    )
    tls_ca: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/ca.crt"],
        description="Authorities in PEM by which commands on this machine verify the "
        "nodes' API, else by the machine's own. Environment: PGBASTION_CA_FILE.",
    )
    client_cert: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/client.crt"],
        description="A certificate in PEM that commands on this machine show to the "
        "API; one of api.tls_client_ca needs no token. Environment: "
        "PGBASTION_CERT_FILE.",
    )
    client_key: AbsolutePath | None = Field(
        None,
        examples=["/etc/pgbastion/tls/client.key"],
        description="Its key in PEM, mode 0600. Environment: PGBASTION_KEY_FILE.",
    )
    requests_per_second: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="How often one address may ask; checks and /health do not count. "
        "0: any number.",
    )
