"""moto, a mock of AWS."""

import logging

import moto
from moto.server import ThreadedMotoServer

from freezer.tests.servers.base import Properties, Server


class Moto(Server):
    """moto in a thread of this process: fast, but lenient.

    It accepts any credentials and wrong digests. All that run in one process share
    their buckets, as moto has one state; :meth:`stop` leaves it to the process's end.
    """

    name = 'moto'
    title = 'moto'
    source = 'pip install moto[s3,server]'
    properties = Properties(checks_keys=False, object_lock=False)

    def __init__(self) -> None:
        super().__init__()
        self._port = 0
        self._server: ThreadedMotoServer | None = None

    @classmethod
    def available(cls) -> bool:
        return True

    @classmethod
    def version(cls) -> str:
        return moto.__version__

    def start(self) -> None:
        if self._server is not None:
            raise RuntimeError('moto is running')
        logging.getLogger('werkzeug').setLevel(logging.WARNING)  # else: each request
        self._server = ThreadedMotoServer('127.0.0.1', self._port, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self.endpoint = f'http://127.0.0.1:{self._port}'

    def kill(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    stop = kill
