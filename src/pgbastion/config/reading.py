"""Reads a configuration as it is written, without a look at the machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pgbastion.config.model import Config, Found, resolve, with_defaults
from pgbastion.config.parse import (
    FILE_BYTES_MAX,
    Document,
    parse_document,
    parse_file,
)
from pgbastion.config.problems import Problem, errors, render_problems
from pgbastion.errors import ConfigError

# What only a daemon's machine can say, and nobody who merely asks a node needs.
_ELSEWHERE: Final = Found(run_dir=Path("/run/pgbastion"), bin_dir=Path("/usr/bin"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of reading a configuration."""

    source: Path
    config: Config | None
    """None: the file is not understood."""
    problems: tuple[Problem, ...]
    document: Document | None

    def render(self, problems: list[Problem] | None = None) -> str:
        """Return the problems as text with their lines; by default all of them."""
        line_of = self.document.line_of if self.document else lambda _: None
        chosen = self.problems if problems is None else problems
        return render_problems(chosen, self.source, line_of)

    def usable(self) -> Config:
        """Return the configuration.

        Raises:
            ConfigError: It cannot be used; the message has every error.
        """
        found = self.errors
        if found or self.config is None:
            raise ConfigError(self.render(found))
        return self.config

    @property
    def errors(self) -> list[Problem]:
        """The problems with which the daemon does not start."""
        return errors(self.problems)


def understand(path: Path) -> Config:
    """Return the configuration in ``path``, unjudged: enough to ask its node.

    Raises:
        ConfigError: It is not understood; the message has every error.
    """
    document = read_document(path)
    if isinstance(document, Problem):
        return Report(
            source=path, config=None, problems=(document,), document=None
        ).usable()
    parsed = parse_file(with_defaults(document.values, _ELSEWHERE))
    if isinstance(parsed, list):
        return Report(
            source=path, config=None, problems=tuple(parsed), document=document
        ).usable()
    return resolve(parsed, source=path, found=_ELSEWHERE)


def read_document(path: Path) -> Document | Problem:
    """Return what the file holds, or why it cannot be read."""
    try:
        with path.open("rb") as file:
            # A device has no end.
            raw = file.read(FILE_BYTES_MAX + 1)
        text = raw.decode("utf-8")
    except OSError as exc:
        return Problem(
            key="",
            problem=f"cannot be read: {exc.strerror}",
            remedy="name the file with --config FILE or PGBASTION_CONFIG",
        )
    except UnicodeDecodeError as exc:
        return Problem(
            key="",
            problem=f"is not UTF-8 at byte {exc.start}",
            remedy="save it as UTF-8",
        )
    return parse_document(text)
