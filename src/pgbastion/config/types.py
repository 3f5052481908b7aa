"""Types of configuration values: what a text in the file has to look like.

Pure. Each type turns the file's form into the one that the program uses and refuses
everything else with a message that says how to write it.
"""

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field

from pgbastion.config.units import parse_duration_ms, parse_size_bytes

RAFT_PORT: Final = 8300
NODE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}", re.ASCII)
PARAMETER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_$][\w$]*)?")
HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?",
    re.ASCII,
)
# A PostgreSQL identifier holds 63 bytes; ":" separates role and password in files.
ROLE_BYTES_MAX: Final = 63


class Peer(NamedTuple):
    """Where another node's Raft port is."""

    host: str
    port: int


def parse_peer(text: str) -> Peer:
    """Return the peer named as HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.

    Raises:
        ValueError: It is none of these; the message says what is wrong.
    """
    host, port = _split_port(text.strip())
    try:
        return Peer(str(ipaddress.ip_address(host)), port)
    except ValueError:
        pass
    if re.fullmatch(r"[\d.]+", host) or not HOST_NAME.fullmatch(host):
        raise ValueError(f'"{host}" is neither an address nor a host name')
    return Peer(host.lower(), port)


def is_address(value: object) -> bool:
    """Tell whether ``value`` is the text of an IP address."""
    try:
        _address(value)
    except ValueError:
        return False
    return True


def _split_port(text: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed.groups()
        ipaddress.IPv6Address(host)
    elif text.count(":") > 1:
        raise ValueError("an IPv6 address stands in brackets: [2001:db8::1]:8300")
    else:
        host, colon, tail = text.partition(":")
        port = tail if colon else None
    return host, RAFT_PORT if port is None else _port(port)


def _port(text: str) -> int:
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65_535:
        raise ValueError(f'"{text}" is not a port, write a number from 1 to 65535')
    return int(text)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("has to be text; put it into quotes")  # noqa: TRY004
    if not value.strip():
        raise ValueError("is empty")
    if any(not char.isprintable() for char in value):
        raise ValueError("holds a line break or a control character")
    return value


def _duration(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("a duration needs a unit: 250ms, 5s, 1m30s")  # noqa: TRY004
    return parse_duration_ms(value)


def _size(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError("a size needs a unit: 512kB, 1MiB, 16MB")  # noqa: TRY004
    return parse_size_bytes(value)


def _absolute(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("is not an absolute path")
    if ".." in path.parts:
        raise ValueError('holds ".."; write the path that it means')
    return path


def _address(value: object) -> str:
    text = _text(value)
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as exc:
        raise ValueError(f'"{text}" is no IP address') from exc


def _reachable_address(value: object) -> str:
    address = ipaddress.ip_address(_address(value))
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{address} is not an address that others can connect to")
    return str(address)


def _node_name(value: object) -> str:
    text = _text(value)
    if not NODE_NAME.fullmatch(text):
        raise ValueError(
            "may hold letters, digits, dot, dash and underscore, begins with a letter "
            "or digit and has at most 50 characters"
        )
    return text


def _role(value: object) -> str:
    text = _text(value)
    if len(text.encode()) > ROLE_BYTES_MAX or ":" in text or '"' in text:
        raise ValueError('has more than 63 bytes, or holds ":" or a double quote')
    if text.startswith("pg_"):
        raise ValueError('begins with "pg_", which PostgreSQL keeps for itself')
    return text


def _peers(value: object) -> tuple[Peer, ...]:
    if not isinstance(value, list):
        raise ValueError("has to be a list: [10.0.0.1, 10.0.0.2]")  # noqa: TRY004
    peers, wrong = [], []
    for item in value:
        try:
            peers.append(parse_peer(_text(item)))
        except ValueError as exc:
            wrong.append(f"{item!r}: {exc}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(peers)


def _lines(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("has to be a list of lines")  # noqa: TRY004
    return tuple(_text(item) for item in value)


def _parameters(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("has to be a table of names and values")  # noqa: TRY004
    return {_parameter_name(name): _setting(name, v) for name, v in value.items()}


def _parameter_name(name: object) -> str:
    if not isinstance(name, str) or not PARAMETER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a PostgreSQL parameter")
    return name.lower()


def _setting(name: object, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str) and all(char.isprintable() for char in value):
        return value
    raise ValueError(f"{name}: has to be a number, a boolean or one line of text")


def _conninfo(value: object) -> str:
    # Loads libpq: only for files that have the key.
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    text = _text(value)
    try:
        conninfo_to_dict(text)
    except ProgrammingError as exc:
        # Its own message may repeat a password.
        raise ValueError("is not a connection string of PostgreSQL") from exc
    return text


def parts_of_conninfo(text: str) -> dict[str, str]:
    """Return the parts of a connection string that was already checked."""
    from psycopg.conninfo import conninfo_to_dict

    return {key: str(value) for key, value in conninfo_to_dict(text).items()}


def _sync_count(value: object) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10:
        return value
    raise ValueError('is neither "auto" nor a number from 1 to 10')


def _addresses(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        if not value:
            raise ValueError("is an empty list")
        return tuple(dict.fromkeys(_address(item) for item in value))
    return (_address(value),)


def _networks(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("has to be a list: [10.0.0.0/8]")  # noqa: TRY004
    return tuple(_network(item) for item in value)


def _network(value: object) -> str:
    text = _text(value)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as exc:
        raise ValueError(f'"{text}" is not a network: {exc}') from exc


class Form(NamedTuple):
    """How a value of this type looks in the file; for generated documents."""

    name: str


Text = Annotated[str, BeforeValidator(_text), Form("text")]
NodeName = Annotated[str, BeforeValidator(_node_name), Form("name")]
RoleName = Annotated[str, BeforeValidator(_role), Form("role")]
DurationMs = Annotated[int, BeforeValidator(_duration), Form("duration")]
SizeBytes = Annotated[int, BeforeValidator(_size), Form("size")]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute), Form("path")]
Address = Annotated[str, BeforeValidator(_address), Form("address")]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_addresses), Form("addresses")]
Networks = Annotated[tuple[str, ...], BeforeValidator(_networks), Form("networks")]
OwnAddress = Annotated[str, BeforeValidator(_reachable_address), Form("address")]
Port = Annotated[int, Field(ge=1, le=65_535), Form("port")]
Peers = Annotated[tuple[Peer, ...], BeforeValidator(_peers), Form("peers")]
Conninfo = Annotated[str, BeforeValidator(_conninfo), Form("connection string")]
Lines = Annotated[tuple[str, ...], BeforeValidator(_lines), Form("lines")]
Parameters = Annotated[
    Mapping[str, str], BeforeValidator(_parameters), Form("parameters")
]
# None stands for "auto": half the PostgreSQL nodes, rounded down.
SyncCount = Annotated[int | None, BeforeValidator(_sync_count), Form("sync_count")]


def positive(value_ms: int) -> int:
    """Refuse a duration of nothing where one is needed."""
    if value_ms <= 0:
        raise ValueError("has to be longer than 0")
    return value_ms


PositiveMs = Annotated[DurationMs, AfterValidator(positive)]
