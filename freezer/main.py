"""The command freezer-agent: arguments in, exit code out.

Exit codes: 0 success; 1 failure, with one line on standard error that says why; 2 an
unknown argument; 3 done, but something is missing; for action exec, that of the
command.
"""

import os
import sys
from collections.abc import Sequence

from freezer.common import version
from freezer.utils import startup


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``freezer-agent``."""
    argv = sys.argv[1:] if argv is None else argv
    if '--version' in argv:
        return version.show('freezer-agent')
    _reserve_std_fds()
    startup.defer_seldom_used()
    with startup.no_garbage_collection():
        # Imported late: --version does not need it, and takes less than half the time.
        from freezer.agent import Agent
    startup.collect_less_often()
    return Agent().run(argv)


def _reserve_std_fds() -> None:
    """Prevent files and connections from getting a descriptor below 3.

    If the agent is started without one of its standard streams, messages of a library
    or a child would be written into such a file.
    """
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


if __name__ == '__main__':
    sys.exit(main())
