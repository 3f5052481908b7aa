"""Whether a server would start with a setting whose values no table lists.

A running server refuses a time zone that it does not know and goes on with the former
one; from then on it does not start any more.
"""

import re
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Final

from pgbastion.postgres.files import Files, make_dir
from pgbastion.postgres.layout import PgPaths
from pgbastion.postgres.programs import ProgramError, Programs
from pgbastion.postgres.render import settings_file

DEADLINE_S: Final = 10.0
_SAID: Final = re.compile(r"LOG:\s+(.*parameter \".*)")


class SettingTrial:
    """Has the server's program read a file with one setting, and no more."""

    def __init__(self, paths: PgPaths, files: Files, programs: Programs) -> None:
        self._paths = paths
        self._files = files
        self._programs = programs

    async def refusal(self, name: str, value: str) -> str | None:
        """Return what the program says against it; None: it takes it.

        Raises:
            PostgresError: It cannot be tried.
        """
        make = partial(tempfile.mkdtemp, prefix="trial-", dir=self._paths.run_dir)
        folder = Path(await self._files.run("make a directory", make))
        try:
            return await self._try(folder, name, value)
        finally:
            await self._files.run(f"remove {folder}", partial(shutil.rmtree, folder))

    async def _try(self, folder: Path, name: str, value: str) -> str | None:
        # In a file, since arguments can be read by everybody.
        own = partial(make_dir, folder, self._paths.account)
        await self._files.run(f"give {folder}", own)
        text = settings_file("One setting, to be tried.", {name: value})
        await self._files.write(folder / "postgresql.conf", text)
        try:
            await self._programs.run(
                "postgres", "-D", str(folder), "-C", name, deadline_s=DEADLINE_S
            )
        except ProgramError as exc:
            if exc.timed_out:
                raise
            said = _SAID.search(exc.output.stderr)
            return said[1] if said else "the server would not start with it"
        return None
