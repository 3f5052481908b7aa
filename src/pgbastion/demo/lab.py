"""Three nodes with real PostgreSQL, whose links are cut and healed by commands.

Built on the demonstration's nodes, in network namespaces where this user may make them.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from pgbastion.bench.lab.errors import CannotRun
from pgbastion.cli.status import Answer, render_status
from pgbastion.demo import EXIT_CANNOT_RUN, EXIT_OK, EXIT_WRONG, ends_like_ctrl_c
from pgbastion.demo.faults import FAULTS
from pgbastion.demo.stage import READY_S, Picture, Stage
from pgbastion.errors import ConfigError, DemoError, PgBastionError

HELP: Final = """\
  status                 who is what, as most nodes see it
  explain [NODE]         what a node says of it
  cut NODE               lose everything between a node and the others
  heal NODE              end that
  fault KIND NODE        {faults}
  end                    end the faults, newest first
  start NODE             start a node's daemon
  run NODE COMMAND ...   run pgbastion COMMAND as that node's operator
  quit                   end the nodes and remove their files"""


class Lab:
    """The words of a laboratory; each does one thing to its cluster."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._faults: list[tuple[str, AbstractContextManager[None]]] = []
        self._words: Mapping[str, Callable[[list[str]], None]] = {
            "status": self._status,
            "explain": self._explain,
            "cut": self._cut,
            "heal": self._heal,
            "fault": self._fault,
            "end": self._end,
            "start": self._start,
            "run": self._run,
            "help": self._help,
        }

    def do(self, line: str) -> bool:
        """Do what a line says; tell whether there is more to come."""
        words = line.split()
        if not words:
            return True
        if words[0] in ("quit", "exit"):
            return False
        word = self._words.get(words[0], self._help)
        try:
            word(words[1:])
        except (KeyError, IndexError):
            print(f"not understood: {line.strip()}; help has the words")
        except PgBastionError as exc:
            print(exc)
        return True

    def close(self) -> None:
        """End all faults."""
        self._end([])

    def _status(self, words: list[str]) -> None:
        del words
        picture = self._stage.look()
        print(render_status(_answer(picture)))

    def _explain(self, words: list[str]) -> None:
        names = words or list(self._stage.nodes)
        for name in names:
            told = self._stage.nodes[name].get("/cluster/explain")
            if told is not None:
                print("\n".join(told["lines"]))
                return
        print(f"silent: {', '.join(names)}")

    def _cut(self, words: list[str]) -> None:
        self._stage.cut_off(self._stage.nodes[words[0]].name)

    def _heal(self, words: list[str]) -> None:
        self._stage.heal(self._stage.nodes[words[0]].name)

    def _fault(self, words: list[str]) -> None:
        kind, name = words[0], self._stage.nodes[words[1]].name
        fault = FAULTS[kind].inject(self._stage, name)
        fault.__enter__()
        self._faults.append((f"{kind} {name}", fault))

    def _end(self, words: list[str]) -> None:
        del words
        while self._faults:
            what, fault = self._faults.pop()
            fault.__exit__(None, None, None)
            print(f"ended: {what}")

    def _start(self, words: list[str]) -> None:
        self._stage.nodes[words[0]].start()

    def _run(self, words: list[str]) -> None:
        node = self._stage.nodes[words[0]]
        program = Path(sys.executable).with_name("pgbastion")
        own = node.network.environment(node.name)
        subprocess.run(
            [*node.network.command(node.name), str(program), *words[1:]],
            env={**os.environ, **own, "PGBASTION_CONFIG": str(node.config)},
            check=False,
        )

    def _help(self, words: list[str]) -> None:
        del words
        print(HELP.format(faults=" | ".join(FAULTS)))


def _answer(picture: Picture) -> Answer:
    health = next(iter(picture.health.values()), {})
    return Answer(url="", health=health, cluster=picture.cluster)


def run(*, profile: str) -> int:
    """Run a laboratory on the commands of standard input; return the exit code."""
    with ends_like_ctrl_c():
        try:
            return _run_commands(profile)
        except (CannotRun, ConfigError, DemoError) as why:
            print(f"pgbastion lab: {why}", file=sys.stderr)
            return EXIT_CANNOT_RUN
        except PgBastionError as error:
            print(f"pgbastion lab: {error}", file=sys.stderr)
            return EXIT_WRONG
        except KeyboardInterrupt:
            return EXIT_OK


def _run_commands(profile: str) -> int:
    with Stage(profile=profile, namespaces=os.geteuid() == 0) as stage:
        stage.start()
        stage.wait_complete(READY_S)
        lab = Lab(stage)
        lab.do("status")
        print("help has the words, quit ends it", flush=True)
        try:
            _take_lines(lab)
        finally:
            lab.close()
    return EXIT_OK


def _take_lines(lab: Lab) -> None:
    while True:
        if sys.stdin.isatty():
            print("lab> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or not lab.do(line):
            return
        sys.stdout.flush()
