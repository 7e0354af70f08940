"""A double of mongod: answers the few commands that mode mongo sends, on the wire.

https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/
"""

import fcntl
import socketserver
import struct
import threading
from pathlib import Path
from typing import Any, cast

import bson

_OP_MSG = 2013
_OP_QUERY = 2004
_HEADER = struct.Struct('<iiii')
_FAILED = {'ok': 0.0}


class Mongod(socketserver.ThreadingTCPServer):
    """It serves until it is closed.

    :param data: its ``dbPath``
    :ivar engine: its storage engine
    :ivar hello: what it says of its role
    :ivar locks: how often it is locked
    :ivar failing: command -> code and message of the error
    :ivar ran: names of the commands
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, data: str) -> None:
        super().__init__(('127.0.0.1', 0), _Session)
        self.data = data
        self.engine = 'wiredTiger'
        # WiredTiger's lock, but for its owner: this process can see it, too.
        self._file = Path(data, 'WiredTiger.lock').open('w')  # noqa: SIM115
        lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0)
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, lock)
        self.hello: dict[str, Any] = {
            'ismaster': True,
            'setName': 'rs0',
            'me': 'a:27017',
            'primary': 'a:27017',
        }
        self.locks = 0
        self.failing: dict[str, tuple[int, str]] = {}
        self.ran: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def uri(self) -> str:
        return f'mongodb://127.0.0.1:{self.server_address[1]}'

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._file.close()

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        self.ran.append(name)
        if name in self.failing:
            code, message = self.failing[name]
            return {**_FAILED, 'code': code, 'errmsg': message}
        if name.lower() in ('hello', 'ismaster'):
            return {'minWireVersion': 0, 'maxWireVersion': 17, **self.hello, 'ok': 1.0}
        if name == 'getCmdLineOpts':
            storage = {'dbPath': self.data, 'engine': self.engine}
            return {'parsed': {'storage': storage}, 'ok': 1.0}
        if name == 'buildInfo':
            return {'version': '6.0.20', 'ok': 1.0}
        if name == 'currentOp':
            return {'inprog': [], 'ok': 1.0} | (
                {'fsyncLock': True} if self.locks else {}
            )
        if name == 'fsync' and command.get('lock'):
            self.locks += 1
        elif name == 'fsyncUnlock':
            if not self.locks:
                message = 'fsyncUnlock called when not locked'
                return {**_FAILED, 'code': 20, 'errmsg': message}
            self.locks -= 1
        return {'lockCount': self.locks, 'ok': 1.0}


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = cast(Mongod, self.server)
        while head := self.rfile.read(_HEADER.size):
            length, number, _to, kind = _HEADER.unpack(head)
            body = self.rfile.read(length - _HEADER.size)
            if kind == _OP_QUERY:
                # flags, name of the collection, skip, limit, document: the first hello
                start = body.index(b'\0', 4) + 9
                answer = struct.pack('<iqii', 8, 0, 0, 1)
            else:
                # flags, kind of the section, document
                start = 5
                answer = struct.pack('<iB', 0, 0)
            size = struct.unpack_from('<i', body, start)[0]
            command = bson.decode(body[start : start + size])
            answer += bson.encode(server.answer(command))
            reply = 1 if kind == _OP_QUERY else _OP_MSG
            length = _HEADER.size + len(answer)
            self.wfile.write(_HEADER.pack(length, 0, number, reply) + answer)
