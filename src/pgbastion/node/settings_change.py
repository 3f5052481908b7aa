"""Has the cluster agree on settings of PostgreSQL, after a server has judged them."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from pgbastion.api.ports import Outcome, Refused
from pgbastion.errors import PostgresError
from pgbastion.model.commands import SetParameters
from pgbastion.model.settings import SettingsVersion
from pgbastion.node.proposing import CAUSE, Log, OperatorCommand, submit
from pgbastion.postgres.settings import Problem

Judge = Callable[[Mapping[str, str]], Awaitable[tuple[Problem, ...]]]


class SettingsChange:
    """Puts another version of the settings into the log.

    Args:
        host: The replicated state.
        judge: Returns what this node's running server would refuse; None: it has none.
        now: The wall-clock time, in words.
    """

    def __init__(
        self,
        host: Log,
        *,
        judge: Judge | None,
        now: Callable[[], str] = lambda: datetime.now(UTC).isoformat("T", "seconds"),
    ) -> None:
        self._host = host
        self._judge = judge
        self._now = now

    def on(self, host: Log) -> "SettingsChange":
        """Return the same on another log."""
        return SettingsChange(host, judge=self._judge, now=self._now)

    async def set_parameters(
        self, changes: Mapping[str, str | None], *, whole: bool, base: int | None
    ) -> Outcome:
        """Agree on settings; only those that change are judged."""
        newest = self._host.state.settings
        version = newest.version if newest else 0
        if base is not None and base != version:
            return _refused(
                "version_changed",
                f"the settings are at version {version}, not {base}",
                "look at /config and repeat with its version",
            )
        before = dict(newest.parameters) if newest else {}
        after = {} if whole else dict(before)
        for name, value in changes.items():
            if value is None:
                after.pop(name, None)
            else:
                after[name] = value
        wrong = await self._wrong(before, after)
        if wrong is not None:
            return wrong
        return await self._agree(after, version)

    async def undo(self) -> Outcome:
        """Agree on what the version before had, as a new version."""
        versions = self._host.state.settings_versions
        if not versions:
            return _refused(
                "nothing_to_undo", "no settings were agreed on", "look at /config"
            )
        before = versions[-2] if len(versions) > 1 else _nothing(versions[-1])
        if before is None:
            return _refused(
                "nothing_to_undo",
                "the version before is not kept any more",
                "send what it had to PUT /config",
            )
        return await self._agree(dict(before.parameters), versions[-1].version)

    async def _wrong(
        self, before: Mapping[str, str], after: Mapping[str, str]
    ) -> Refused | None:
        """Have the server judge what changes.

        What is only taken out needs no server, but logical slots need their level.
        """
        default = {"wal_level": "replica"} if "wal_level" in before else {}
        new = {n: v for n, v in {**default, **after}.items() if before.get(n) != v}
        if not new:
            return None
        if self._judge is None:
            return _no_server("it has no PostgreSQL")
        try:
            problems = await self._judge(new)
        except PostgresError as exc:
            return _no_server(str(exc))
        if not problems:
            return None
        return _refused(
            "settings_refused",
            "; ".join(f"{p.name}: {p.reason}" for p in problems),
            "nothing was changed; correct these and repeat",
        )

    async def _agree(self, parameters: Mapping[str, str], base: int) -> Outcome:
        command = SetParameters(
            base=base,
            parameters=tuple(sorted(parameters.items())),
            by=CAUSE,
            at=self._now(),
        )
        asked = OperatorCommand(
            command=command,
            done="the settings were agreed on",
            refused="the settings were not taken",
            look="look at /config, then repeat",
            facts=lambda changed: {"version": base + changed, "changed": changed},
        )
        return await submit(self._host, asked)


NO_SERVER: Final = "no_server"


def _no_server(why: str) -> Refused:
    return _refused(
        NO_SERVER,
        f"no running server of this node can judge the settings: {why}",
        "ask a node whose PostgreSQL runs",
    )


def _nothing(first: SettingsVersion) -> SettingsVersion | None:
    """Return what was before the first version; None: that one is not kept."""
    if first.version != 1:
        return None
    return SettingsVersion(version=0, parameters=(), by="", at="")


def _refused(code: str, message: str, remedy: str) -> Refused:
    return Refused(code=code, message=message, remedy=remedy)
