"""A real Prometheus that watches a laboratory by the alert rules that are shipped."""

import contextlib
import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from pgbastion.bench.lab import waits
from pgbastion.bench.lab.cluster import Lab
from pgbastion.bench.lab.network import WATCH

ALERTS: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
PORT: Final = 9095
METRICS_PORT: Final = 9090
# A daemon that gets little processor time still answers within this.
SCRAPED: Final = "1500ms"
EVALUATED: Final = "500ms"
ANSWER_S: Final = 5.0
READY_S: Final = 30.0

# Rules that wait for up to half a minute wait as they are shipped. Longer waits, and
# the windows of rates, are cut: a minute becomes a second.
REAL_WAIT_S: Final = 30
MINUTE_LASTS_S: Final = 1
# Ten gigabytes of WAL are not written for one test: this is what a slot may keep.
SHIPPED_WAL_BYTES: Final = "10737418240"
WAL_BYTES: Final = str(160 << 20)

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600}


def shipped() -> dict[str, dict[str, Any]]:
    """Return the shipped rules by the name of their alert."""
    groups = YAML(typ="safe").load(ALERTS)["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def hastened(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule whose long waits and windows are short; the rest is unchanged."""
    made = dict(rule)
    if "for" in rule and _seconds(rule["for"]) > REAL_WAIT_S:
        made["for"] = _short(rule["for"])
    made["expr"] = re.sub(
        r"\[(\d+[smh])\]", lambda m: f"[{_short(m[1])}]", rule["expr"]
    ).replace(SHIPPED_WAL_BYTES, WAL_BYTES)
    return made


def _seconds(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]]


def _short(text: str) -> str:
    return f"{_seconds(text) * MINUTE_LASTS_S // 60}s"


class Prometheus:
    """Scrapes every node of a laboratory and evaluates the hastened rules."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._directory = lab.directory / "prometheus"

    @contextlib.contextmanager
    def running(self) -> Iterator["Prometheus"]:
        """Run it until the block ends.

        It skips the test where Prometheus is not installed.
        """
        program = shutil.which("prometheus")
        if program is None:
            pytest.skip("not run: prometheus is not installed")
        self._directory.mkdir()
        self._write()
        command = [
            *self._lab.network.command(WATCH),
            program,
            f"--config.file={self._directory}/prometheus.yml",
            f"--storage.tsdb.path={self._directory}/data",
            f"--web.listen-address={self._address}:{PORT}",
        ]
        with (
            (self._lab.directory / "prometheus.log").open("wb") as log,
            subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._directory
            ) as process,
        ):
            try:
                waits.wait_for("Prometheus", self._scrapes_all, READY_S)
                yield self
            finally:
                process.kill()

    def firing(self) -> list[dict[str, str]]:
        """Return the labels of every alert that fires now."""
        alerts = self._ask("/api/v1/alerts")["alerts"]
        return [dict(a["labels"]) for a in alerts if a["state"] == "firing"]

    @property
    def _address(self) -> str:
        return self._lab.network.addresses[WATCH]

    def _write(self) -> None:
        hosts = [node.address for node in self._lab.nodes.values()]
        settings = {
            "global": {
                "scrape_interval": SCRAPED,
                "scrape_timeout": SCRAPED,
                "evaluation_interval": EVALUATED,
            },
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {
                    "job_name": "lab",
                    "static_configs": [
                        {"targets": [f"{host}:{METRICS_PORT}" for host in hosts]}
                    ],
                }
            ],
        }
        rules = [hastened(rule) for rule in shipped().values()]
        alerts = {"groups": [{"name": "shipped", "rules": rules}]}
        for name, content in (("prometheus", settings), ("alerts", alerts)):
            (self._directory / f"{name}.yml").write_text(json.dumps(content))

    def _scrapes_all(self) -> bool:
        try:
            targets = self._ask("/api/v1/targets")["activeTargets"]
        except (OSError, http.client.HTTPException, ValueError):
            # In its first moments it answers in words.
            return False
        return bool(targets) and all(target["health"] == "up" for target in targets)

    def _ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection(self._address, PORT, timeout=ANSWER_S)
        with contextlib.closing(connection):
            with self._lab.network.inside(WATCH):
                connection.connect()
            connection.request("GET", path)
            with connection.getresponse() as response:
                return json.loads(response.read())["data"]
