"""Requests to one account: with a token, translated, repeated."""

import copy
import functools
import logging
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self, TypeVar

import urllib3
import urllib3.exceptions

from freezer.storage import exceptions as e
from freezer.storage.http import pools
from freezer.storage.http.wire import Wire
from freezer.storage.object_backups.plan import MOST_AT_ONCE
from freezer.storage.retry import Retry
from freezer.storage.swift import errors
from freezer.storage.swift.login import Access, Tokens, open_tokens
from freezer.storage.swift.options import SwiftOptions
from freezer.utils.progress import Progress

LOG = logging.getLogger(__name__)
T = TypeVar('T')

#: bytes of an answer that is read as a whole: a page of a listing has 10,000 names of
#: 1,024 bytes, each of which may take six times as many
MAX_ANSWER = 128 * 1024 * 1024
_READ_BLOCK = 256 * 1024
_WIRE_ERRORS = (urllib3.exceptions.HTTPError, OSError, UnicodeError)


class Answer(NamedTuple):
    """
    :ivar reason: the words after the status
    :ivar headers: by their names in lower case
    :ivar body: empty if it was read into memory of the caller
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Into(NamedTuple):
    """Memory that the body of an answer is read into.

    :ivar check: called with the headers, before the body is read
    :ivar received: called with the number of bytes of each block
    """

    view: memoryview
    check: Callable[[Mapping[str, str]], None]
    received: Callable[[int], None]


class Requests:
    """Sends requests to one account. Safe to share between threads."""

    def __init__(
        self, options: SwiftOptions, wire: Wire, progress: Progress | None = None
    ) -> None:
        self.progress = progress or Progress()
        self.wire = wire
        self.where = options.login.where
        self.retry = Retry(
            options.retry_budget, wire.now, progress=self.progress, store=self.where
        )
        self._options = options
        self._opened: _Opened | None = None
        self._lock = threading.Lock()
        self._shared = self

    def _connection(self) -> '_Opened':
        """Pools and tokens; copies of this object share them."""
        shared = self._shared
        with shared._lock:
            if shared._opened is None:
                shared._opened = _Opened(shared._options, shared.wire)
            return shared._opened

    def within(self, seconds: float) -> Self:
        """The same, but no request takes longer than that, repetitions included."""
        limited = copy.copy(self)
        limited.retry = self.retry.within(seconds)
        return limited

    def limited(self, seconds: float, when: Callable[[], bool]) -> Self:
        """See :meth:`Retry.limited`."""
        limited = copy.copy(self)
        limited.retry = self.retry.limited(seconds, when)
        return limited

    def account(self) -> str:
        """URL of the account; logs in."""
        return self.run(lambda: self._connection().tokens.access().url)

    @property
    def checks_certificates(self) -> bool:
        return not self._options.login.insecure

    def close(self) -> None:
        with self._shared._lock:
            if self._shared._opened is not None:
                self._shared._opened.pools.clear()
                self._shared._opened = None

    def run(self, call: Callable[[], T], cancelled: threading.Event | None = None) -> T:
        """The result of a call that sends requests, repeated as the budget allows.

        :param cancelled: once set, nothing more is sent or repeated
        :raises StorageException: the last error, once it is final or time is up
        """

        def attempt() -> T:
            with self.wire.cancelled_by(cancelled):
                return call()

        return self.retry.run(attempt, cancelled)

    def send(
        self,
        doing: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | bytearray | None = None,
        into: Into | None = None,
        most: float | None = None,
    ) -> Answer:
        """One attempt of a request. A rejected token is replaced once.

        :param doing: the request, in words, for messages
        :param path: below the account, not quoted
        :param most: bytes after which the answer is cut off; without it, a longer one
            than :data:`MAX_ANSWER` is an error
        :raises StorageException: it failed; the class says whether another attempt may
            help
        """
        opened = self._connection()
        where = f'{doing} at {self.where}'
        send = functools.partial(
            self._send_once, opened, where, method, path, query, headers or {}
        )
        if opened.suspect:
            self._check_token(opened)
        access = opened.tokens.access()
        answer = send(access, body, into, most)
        if answer.status == 401:
            opened.tokens.renew(access)
            access = opened.tokens.access()
            answer = send(access, body, into, most)
        if answer.status >= 300:
            secrets = (*self._options.login.secrets, access.token)
            raise _without(secrets, errors.of_answer(*answer, where))
        return answer

    def _check_token(self, opened: '_Opened') -> None:
        """Replace the token if it is rejected."""
        access = opened.tokens.access()
        where = f'check the token at {self.where}'
        answer = self._send_once(opened, where, 'HEAD', '', None, {}, access)
        # Another error says nothing of the token.
        if answer.status == 401:
            opened.tokens.renew(access)
        opened.suspect = False

    def _send_once(
        self,
        opened: '_Opened',
        where: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        access: Access,
        body: bytes | bytearray | None = None,
        into: Into | None = None,
        most: float | None = None,
    ) -> Answer:
        url = access.url + (f'/{urllib.parse.quote(path)}' if path else '')
        if query:
            url += '?' + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        try:
            given = {**headers, 'X-Auth-Token': access.token}
            return opened.send(method, url, given, body, into, most)
        except e.StorageException:
            raise
        except _WIRE_ERRORS as error:
            if body:
                # It may have closed the connection because it rejects the token.
                opened.suspect = True
            secrets = (*self._options.login.secrets, access.token)
            raise _without(secrets, errors.of_connection(error, where)) from error


def _without(secrets: Iterable[str], error: e.StorageException) -> e.StorageException:
    text = error.message
    for secret in secrets:
        text = text.replace(secret, '***')
    made = type(error)(text)
    made.retry_after = error.retry_after
    return made


class _Opened:
    """Connections and tokens of one account.

    :ivar suspect: whether the token may be rejected: it is asked for before the next
        request with a body, which Swift may answer by closing the connection
    """

    def __init__(self, options: SwiftOptions, wire: Wire) -> None:
        login = options.login
        self._options = options
        self._wire = wire
        self._proxies = _Proxies(login.proxy)
        self._timeout = urllib3.Timeout(options.connect_timeout, options.timeout)
        # Reads the authorities once, not for each connection: that takes 15 ms.
        self._context = pools.tls_context(not login.insecure, login.ca_bundle)
        self.suspect = False
        self.pools = _Managers(self._open_pools)
        self.tokens: Tokens = open_tokens(login, options.timeout, self._get)

    def _open_pools(self, proxy: str) -> urllib3.PoolManager:
        return pools.open_pools(
            self._wire,
            (self._options.concurrency or MOST_AT_ONCE) + 2,
            self._options.timeout,
            self._context,
            proxy,
        )

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | bytearray | None = None,
        into: Into | None = None,
        most: float | None = None,
    ) -> Answer:
        """
        :raises HTTPError, OSError: the connection failed
        :raises StorageException: cancelled, or ``into`` does not fit
        """
        proxy = self._proxies.of(url)
        raw = (
            self.pools.get(proxy)
            .connection_from_url(url)
            .urlopen(
                method,
                pools.target(url, proxy),
                body=memoryview(body) if body else None,
                headers=dict(headers),
                timeout=self._timeout,
                retries=urllib3.Retry(False),
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                enforce_content_length=True,
            )
        )
        found = {name.lower(): value for name, value in raw.headers.items()}
        reason = raw.reason or ''
        if into is not None and raw.status < 300:
            self._receive(raw, found, into)
            return Answer(raw.status, reason, found, b'')
        if raw.status >= 300:
            most = None
        return Answer(raw.status, reason, found, self._read(raw, url, most))

    def _receive(self, raw: Any, headers: Mapping[str, str], into: Into) -> None:
        """Read the body into memory. It may end early: the caller counts the bytes."""
        view, size = into.view, self._wire.read_size
        try:
            into.check(headers)
            filled = 0
            while filled < len(view):
                count = pools.receive(raw, view[filled : filled + size])
                if not count:
                    break
                filled += count
                into.received(count)
                self._wire.received(count)
        finally:
            pools.close(raw)

    def _read(self, raw: Any, url: str, most: float | None) -> bytes:
        content = bytearray()
        for block in raw.stream(_READ_BLOCK):
            content += block
            self._wire.received(len(block))
            if most is not None and len(content) > most:
                raw.close()
                break
            if most is None and len(content) > MAX_ANSWER:
                raw.close()
                raise e.Rejected(
                    f'{urllib.parse.urlsplit(url).netloc}: an answer has more than '
                    f'{MAX_ANSWER} bytes, and Swift has none of that size: check the '
                    f'address and --proxy'
                )
        return bytes(content)

    def _get(self, url: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
        """For a login with Swift."""
        try:
            answer = self.send('GET', url, headers)
        except e.StorageException:
            raise
        except _WIRE_ERRORS as error:
            raise errors.of_connection(error, f'log in at {url}') from error
        return answer.status, dict(answer.headers)


class _Managers:
    """The pools of each proxy, opened at their first use."""

    def __init__(self, make: Callable[[str], urllib3.PoolManager]) -> None:
        self._make = make
        self._made: dict[str, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def get(self, proxy: str) -> urllib3.PoolManager:
        with self._lock:
            if proxy not in self._made:
                self._made[proxy] = self._make(proxy)
            return self._made[proxy]

    def clear(self) -> None:
        with self._lock:
            for manager in self._made.values():
                manager.clear()
            self._made.clear()


class _Proxies:
    """:param given: URL of the option; without it, the environment's count"""

    def __init__(self, given: str) -> None:
        self._given = given
        self._find = functools.lru_cache(16)(self._look_up)

    def of(self, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        return self._find(parts.scheme, parts.netloc)

    def _look_up(self, scheme: str, host: str) -> str:
        if self._given:
            return self._given
        if urllib.request.proxy_bypass(host):
            return ''
        found = urllib.request.getproxies().get(scheme, '')
        return found if '://' in found or not found else f'http://{found}'
