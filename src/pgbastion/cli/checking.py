"""Renders what ``pgbastion check`` found."""

from collections import Counter
from typing import Any

from pgbastion.config.problems import Severity
from pgbastion.config.reading import Report


def render_report(report: Report) -> str:
    """Return every problem with its place and remedy, and a last line that counts."""
    text = report.render()
    return f"{text}\n{_summary(report)}" if text else _summary(report)


def report_as_json(report: Report) -> dict[str, Any]:
    """Return the report for programs."""
    line_of = report.document.line_of if report.document else lambda _: None
    return {
        "file": str(report.source),
        "ok": not report.errors,
        "problems": [
            {
                "severity": problem.severity,
                "key": problem.key,
                "line": line_of(problem.key),
                "problem": problem.problem,
                "remedy": problem.remedy,
            }
            for problem in report.problems
        ],
    }


def _summary(report: Report) -> str:
    counts = Counter(problem.severity for problem in report.problems)
    parts = [_counted(counts[severity], severity) for severity in Severity]
    verdict = "cannot be used" if report.errors else "ok"
    return f"{report.source}: {verdict}: {', '.join(parts)}"


def _counted(count: int, severity: Severity) -> str:
    return f"{count} {severity}" if count == 1 else f"{count} {severity}s"
