"""Runs one server, until it is interrupted."""

import contextlib
import signal
import sys

from freezer.tests.servers import KINDS


def main() -> None:
    """Run the server named on the command line until it is interrupted."""
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        sys.exit(f'usage: python -m freezer.tests.servers {"|".join(KINDS)}')
    with contextlib.suppress(KeyboardInterrupt), KINDS[sys.argv[1]]() as server:
        print(f'ENDPOINT={server.endpoint}')
        print(f'ACCESS_KEY={server.access_key}')
        print(f'SECRET_KEY={server.secret_key}', flush=True)
        signal.pause()


if __name__ == '__main__':
    main()
