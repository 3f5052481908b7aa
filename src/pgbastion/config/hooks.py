"""Types of the keys that name what is told of events: addresses and a program. Pure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import BeforeValidator

from pgbastion.config.types import Form

HOOKS_MAX: Final = 8
URL_LENGTH_MAX: Final = 2_000
_ENTRY: Final = frozenset({"url", "secret_file"})


class WebhookEntry(NamedTuple):
    """Where events are sent, and the file of the secret that signs them."""

    url: str
    secret_file: Path | None


def _webhooks(value: object) -> tuple[WebhookEntry, ...]:
    if not isinstance(value, list):
        raise ValueError("has to be a list: [{url: ...}]")  # noqa: TRY004
    if len(value) > HOOKS_MAX:
        raise ValueError(f"holds more than {HOOKS_MAX}")
    entries = tuple(_webhook(item) for item in value)
    if len({entry.url for entry in entries}) < len(entries):
        raise ValueError("names an address twice")
    return entries


def _webhook(item: object) -> WebhookEntry:
    if not isinstance(item, Mapping) or not isinstance(item.get("url"), str):
        raise ValueError("each entry needs a url")  # noqa: TRY004
    unknown = sorted(set(map(str, item)) - _ENTRY)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]}; an entry knows: secret_file, url")
    url, secret = item["url"], item.get("secret_file")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http or https address")
    if parts.username is not None or len(url) > URL_LENGTH_MAX:
        raise ValueError("carries a password, or is too long")
    if secret is None:
        return WebhookEntry(url, None)
    if not isinstance(secret, str) or not Path(secret).is_absolute():
        raise ValueError("secret_file is not an absolute path")
    return WebhookEntry(url, Path(secret))


Webhooks = Annotated[
    tuple[WebhookEntry, ...], BeforeValidator(_webhooks), Form("webhooks")
]
