"""Sends events to an operator's addresses, each at least once within a day.

What is not delivered yet lies in a folder of the hook, one file an event, so that a
restart forgets nothing. The folder is bounded: the oldest go first, and the log says
so. A receiver knows an event that comes twice, or from two nodes, by its id.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pgbastion.observe.events import Event
from pgbastion.observe.logging import get_logger

if TYPE_CHECKING:
    # Its import is a tenth of a daemon's start: it comes where there is an address.
    import httpx

SPOOLED_MAX: Final = 1_000
VALID_S: Final = 24 * 3_600
ANSWER_S: Final = 10.0
BACKOFF_S: Final = (1.0, 60.0)
"""Waits after a failure: the first, and the longest; each is twice the one before."""
FOLDER: Final = "webhooks"
PART: Final = ".part"

log = get_logger("webhooks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Where to send events, and with what they are signed."""

    url: str
    secret: bytes | None = field(default=None, repr=False)


class Webhook:
    """Delivers to one address.

    Args:
        hook: The address.
        directory: Where undelivered events lie; made when it is needed.
        backoff_s: The first and the longest wait after a failure.
    """

    def __init__(
        self,
        hook: Hook,
        directory: Path,
        *,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self._hook = hook
        name = hashlib.sha256(hook.url.encode()).hexdigest()[:16]
        self._directory = directory / FOLDER / name
        self._backoff_s = backoff_s
        # Events that are not on disk yet; a disk that hangs makes nobody wait.
        self._new: deque[Event] = deque(maxlen=SPOOLED_MAX)
        self._soon = asyncio.Event()

    def take(self, event: Event) -> None:
        """Have an event delivered."""
        self._new.append(event)
        self._soon.set()

    async def run(self) -> None:
        """Deliver for ever."""
        import httpx

        wait_s = self._backoff_s[0]
        self._soon.set()
        async with httpx.AsyncClient(timeout=ANSWER_S, trust_env=False) as client:
            while True:
                await self._soon.wait()
                self._soon.clear()
                if await self._deliver_all(client):
                    wait_s = self._backoff_s[0]
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await asyncio.Event().wait()
                wait_s = min(2 * wait_s, self._backoff_s[1])
                self._soon.set()

    async def _deliver_all(self, client: "httpx.AsyncClient") -> bool:
        try:
            await asyncio.to_thread(self._spool)
            for path in await asyncio.to_thread(self._spooled):
                if not await self._deliver(client, path):
                    return False
        except OSError as exc:
            log.warning("webhook_not_spooled", url=self._hook.url, error=str(exc))
            return False
        return not self._new

    async def _deliver(self, client: "httpx.AsyncClient", path: Path) -> bool:
        import httpx

        content = await asyncio.to_thread(path.read_bytes)
        try:
            answer = await client.post(
                self._hook.url, content=content, headers=self._headers(content)
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            self._failed(f"{type(exc).__name__}: {exc}")
            return False
        if not answer.is_success:
            self._failed(f"answer {answer.status_code}")
            return False
        log.state(self._hook.url, "webhook_delivers", url=self._hook.url)
        await asyncio.to_thread(path.unlink, missing_ok=True)
        return True

    def _failed(self, error: str) -> None:
        log.state(self._hook.url, "webhook_fails", url=self._hook.url, error=error)

    def _headers(self, content: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Pgbastion-Event-Id": str(json.loads(content)["id"]),
        }
        if self._hook.secret is not None:
            at = str(int(time.time()))
            # The time is signed too, so that a receiver can refuse what is old.
            signed = hmac.new(
                self._hook.secret, f"{at}.".encode() + content, hashlib.sha256
            )
            headers["Pgbastion-Timestamp"] = at
            headers["Pgbastion-Signature"] = f"sha256={signed.hexdigest()}"
        return headers

    # The folder, in threads

    def _spool(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while self._new:
            event = self._new[0]
            path = self._directory / f"{event.seq:020}.json"
            part = path.with_suffix(PART)
            content = json.dumps(event.as_json()).encode()
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)
            part.replace(path)
            self._new.popleft()

    def _spooled(self) -> list[Path]:
        """Return what is to be delivered, oldest first; drop what may not wait."""
        paths = sorted(self._directory.glob("*.json"))
        oldest = time.time() - VALID_S
        kept = [p for p in paths if p.stat().st_mtime >= oldest][-SPOOLED_MAX:]
        dropped = set(paths) - set(kept)
        for path in dropped:
            path.unlink(missing_ok=True)
        if dropped:
            log.warning(
                "webhook_events_dropped", url=self._hook.url, events=len(dropped)
            )
        return kept
