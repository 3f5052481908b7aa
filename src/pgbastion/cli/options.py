"""Options that several commands have, so that each means the same everywhere."""

from pathlib import Path
from typing import Annotated, Final

import typer

from pgbastion._build import VERSION

DEFAULT_CONFIG: Final = Path("/etc/pgbastion/pgbastion.yaml")
WAIT_S: Final = 120.0

CA_VARIABLE: Final = "PGBASTION_CA_FILE"
CERT_VARIABLE: Final = "PGBASTION_CERT_FILE"
KEY_VARIABLE: Final = "PGBASTION_KEY_FILE"

ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="PGBASTION_CONFIG",
        help="The configuration file.",
        show_default=True,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="PGBASTION_URL",
        help="Base addresses of nodes' APIs, with commas between them, instead of "
        "those that the configuration names.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask whether you mean it.")
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be done, and change nothing."),
]
WaitOption = Annotated[
    float, typer.Option("--wait", help="Seconds to wait for the outcome.")
]


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"pgbastion {VERSION}")
        raise typer.Exit


# Before the command's name, since they mean the same for all of them.
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        envvar=CERT_VARIABLE,
        help="A certificate in PEM to show to nodes, instead of a token.",
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key", envvar=KEY_VARIABLE, help="Its key, where the file has no key."
    ),
]
TrustedOption = Annotated[
    Path | None,
    typer.Option(
        "--cacert",
        envvar=CA_VARIABLE,
        help="Authorities in PEM by which nodes are verified.",
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Print the version and end.",
        is_eager=True,
        callback=_tell_version,
    ),
]
