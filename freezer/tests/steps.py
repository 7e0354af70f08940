"""Programs that an agent starts, with something to do before or after each."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_SCRIPT = """#!/bin/sh
[ "$1" = --version ] && exec {program} "$@"
[ -e "$0.before" ] && . "$0.before"
# Messages begin with its name.
PATH={folder}:$PATH {name} "$@"
code=$?
[ -e "$0.after" ] && . "$0.after"
[ -e "$0.begun" ] && mv "$0.begun" "$0.done"
exit $code
"""


class Steps:
    """Shell scripts in place of these programs.

    :param folder: for the scripts
    :ivar env: the environment of an agent that starts them
    """

    def __init__(self, folder: Path, programs: Iterable[str]) -> None:
        self._folder = folder
        folder.mkdir()
        places = f'{os.environ["PATH"]}:/usr/sbin:/sbin'
        for name in programs:
            script = folder / name
            program = shutil.which(name, path=places)
            assert program is not None
            where = {'folder': os.path.dirname(program), 'name': name}
            script.write_text(_SCRIPT.format(program=program, **where))
            script.chmod(0o755)
        self.env: dict[str, str | None] = {'PATH': f'{folder}:{places}'}

    def at(self, step: str, script: str) -> None:
        """Run this once: ``mount.after`` is after the program ``mount``. ``$PPID`` is
        the agent."""
        once = f'mv "$0.{step.split(".")[1]}" "$0.begun"\n{script}\n'
        (self._folder / step).write_text(once)

    def wait(self, step: str) -> None:
        """Until script and program have ended, whatever became of the agent."""
        done = self._folder / f'{step.split(".")[0]}.done'
        limit = time.monotonic() + 60
        while not done.exists():
            assert time.monotonic() < limit, f'{step} did not happen'
            time.sleep(0.05)
        done.unlink()
