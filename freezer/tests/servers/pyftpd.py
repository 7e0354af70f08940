"""The process of ``ftpd.Pyftpd``. Its settings are JSON:

* ``without``: commands that it does not know
* ``permissions``: of the user, as pyftpdlib has them
* ``home``: its root
* ``at_once``: connections from one address
* ``replies``: command -> reply, instead of running it
* ``lines``: line of a command -> the line that is run instead
* ``lower``: names are written in lower case
* ``confirmation``: reply after a transfer
* ``data_timeout``: seconds without data
"""

import json
import logging
import sys
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import (
    DTPHandler,
    FTPHandler,
    TLS_DTPHandler,
    TLS_FTPHandler,
)
from pyftpdlib.servers import FTPServer


def main() -> None:
    logging.basicConfig(level=logging.DEBUG)
    given = json.loads(sys.argv[1])
    users = DummyAuthorizer()
    permissions = given.get('permissions', 'elradfmwMT')
    home = given.get('home', '/')
    users.add_user(given['user'], given['password'], home, perm=permissions)
    folder = given['certificate']
    base: Any = TLS_FTPHandler if folder else FTPHandler
    without, replies = given.get('without', ()), given.get('replies', {})

    class Data(TLS_DTPHandler if folder else DTPHandler):  # type: ignore[misc]
        timeout = given.get('data_timeout', 300)

    class Handler(base):  # type: ignore[misc]
        authorizer = users
        dtp_handler = Data
        proto_cmds = {  # noqa: RUF012 - pyftpdlib has it so
            name: value
            for name, value in base.proto_cmds.items()
            if name not in without
        }

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            line = given.get('lines', {}).get(line, line)
            cmd, _, arg = line.partition(' ')
            if given.get('lower'):
                arg = arg.lower()
            super().pre_process_command(line, cmd.upper(), arg)

        def respond(self, resp: str, *args: Any, **more: Any) -> None:
            if resp.startswith('226'):
                resp = given.get('confirmation', resp)
            super().respond(resp, *args, **more)

        def process_command(self, cmd: str, *args: Any, **more: Any) -> None:
            if cmd in replies:
                self.respond(replies[cmd])
            else:
                super().process_command(cmd, *args, **more)

    Handler.passive_ports = given['data_ports']
    if folder:
        Handler.certfile = f'{folder}/cert.pem'
        Handler.keyfile = f'{folder}/key.pem'
        Handler.tls_control_required = Handler.tls_data_required = True
    server = FTPServer((given['address'], given['port']), Handler)
    server.max_cons_per_ip = given.get('at_once', 0)
    server.serve_forever()


if __name__ == '__main__':
    main()
