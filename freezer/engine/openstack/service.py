"""Requests to a service of an OpenStack cloud.

Imported when a service is used: it needs the extra ``openstack``.
"""

import contextlib
import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import keystoneauth1.adapter
import keystoneauth1.exceptions as ks
import openstack.config
import openstack.exceptions
import requests

from freezer.exceptions import CloudError, ConfigError
from freezer.storage.exceptions import (
    AccessDenied,
    BadCredentials,
    CertificateError,
    Conflict,
    IncompleteAnswer,
    MalformedAnswer,
    NotFound,
    Rejected,
    ServerError,
    StorageException,
    Throttled,
    Unreachable,
)
from freezer.storage.retry import Retry
from freezer.utils.http_dates import retry_after
from freezer.utils.progress import Progress
from freezer.utils.text import printable

T = TypeVar('T')

# Seconds for a connection, and for the next bytes of an answer.
TIMEOUT = (15.0, 60.0)
# The end of an upload waits for the store of the service.
UPLOAD_TIMEOUT = (15.0, 600.0)
# A token must be valid for so many seconds before a request that cannot be repeated.
_FRESH = 120
# Of an error page.
_LONGEST_REASON = 300


class Service:
    """A service of one cloud, with the credentials of the environment or clouds.yaml.

    Nothing is contacted before the first request.

    :param cloud: a name in clouds.yaml; None for OS_CLOUD, or OS_* variables
    :param kind: its type in the catalog of Keystone
    :param title: its name for the user
    :param version: of its API
    :param budget: seconds for one request with all its repetitions
    :param microversion: of its API; None if it has none
    :raises ConfigError: there is no such cloud, or its credentials are incomplete
    """

    def __init__(
        self,
        cloud: str | None,
        kind: str,
        title: str,
        version: str,
        budget: float,
        progress: Progress,
        microversion: str | None = None,
    ) -> None:
        self._kind = kind
        self.title = title
        self._retry = Retry(budget, progress=progress, store=title)
        with _config_errors():
            region: Any = openstack.config.OpenStackConfig(app_name='freezer').get_one(
                cloud or None
            )
            auth = region.config.get('auth', {})
            self._keystone = f'Keystone at {auth.get("auth_url")}'
            session: Any = region.get_session()
            # Of requests for tokens.
            session.timeout = TIMEOUT[1]
            self._adapter = keystoneauth1.adapter.Adapter(
                session=session,
                service_type=region.get_service_type(kind),
                interface=region.get_interface(kind),
                region_name=region.get_region_name(kind),
                endpoint_override=region.get_endpoint(kind),
                min_version=version,
                max_version=f'{version}.latest',
                default_microversion=microversion,
            )

    def run(self, call: Callable[[], T]) -> T:
        """The result of a call that may be repeated.

        :raises CloudError: the last error, once it is final or time is up
        """
        with cloud_errors_but():
            return self._retry.run(call)

    def call(self, method: str, path: str, **request: Any) -> Any:
        """The response to a request that may be repeated.

        :raises CloudError: it failed
        """
        return self.run(lambda: self.request(method, path, **request))

    def document(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object that answers a request that may be repeated.

        :raises CloudError: the request failed, or the answer is none
        """

        def attempt() -> dict[str, Any]:
            response = self.request(method, path, **request)
            try:
                found = response.json()
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise MalformedAnswer(
                    f'{self.title}: {method} {path} was not answered with JSON: a '
                    f'proxy may be in the way'
                )
            return found

        return self.run(attempt)

    def pages(
        self, path: str, key: str, query: Mapping[str, str] = {}
    ) -> Iterator[dict[str, Any]]:
        """The objects of a list that comes in pages, which link to the next one.

        :param key: of the list in the answer
        :raises CloudError: a request failed
        """
        while True:
            page = self.document('GET', path, params=query)
            yield from page.get(key, ())
            links = page.get(f'{key}_links') or ()
            following = [each['href'] for each in links if each.get('rel') == 'next']
            if not following:
                return
            query = dict(parse_qsl(urlsplit(following[0]).query))

    @property
    def project(self) -> str:
        """The ID of the project that the credentials are for.

        :raises CloudError: Keystone cannot be reached, or rejects them
        """

        def ask() -> str:
            with self._translated():
                return str(self._adapter.get_project_id() or '')

        return self.run(ask)

    def request(
        self,
        method: str,
        path: str,
        timeout: tuple[float, float] = TIMEOUT,
        headers: Mapping[str, str] = {},
        **request: Any,
    ) -> Any:
        """One attempt of a request. A rejected token is replaced once, by keystoneauth.

        :returns: the response, with a status below 400
        :raises StorageException: it failed; the class says whether another attempt may
            help
        """
        with self._translated():
            response: Any = self._adapter.request(
                path,
                method,
                raise_exc=False,
                timeout=timeout,
                # keystoneauth adds the token to it.
                headers={**headers},
                **request,
            )
        self._check(response)
        return response

    def request_once(self, method: str, path: str, **request: Any) -> Any:
        """A request whose body can be read only once: keystoneauth would repeat it with
        an empty body if the token is rejected, so this one does not get a new token.

        :raises StorageException: as :meth:`request`
        """
        with self._translated():
            session: Any = self._adapter.session
            auth: Any = session.auth
            if auth.get_access(session).will_expire_soon(_FRESH):
                auth.invalidate()
            headers = {**request.pop('headers', {}), **session.get_auth_headers(auth)}
        return self.request(
            method, path, authenticated=False, headers=headers, **request
        )

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A block that reads the body of a response.

        :raises IncompleteAnswer: the response breaks off
        """
        try:
            yield
        except (requests.RequestException, OSError) as error:
            raise IncompleteAnswer(
                f'{self.title}: the connection broke: {_reason(error)}'
            ) from error

    def _check(self, response: Any) -> None:
        status = int(response.status_code)
        if status < 400:
            return
        reason = _explanation(response)
        kind = _STATUSES.get(status, ServerError if status >= 500 else Rejected)
        if status == 401:
            reason = f'{reason}: the token was rejected'
        error = kind(f'{self.title}: {reason} (HTTP {status})')
        error.retry_after = retry_after(response.headers)
        raise error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of keystoneauth become those of :mod:`freezer.storage.exceptions`."""
        where = self._keystone
        try:
            yield
        except ks.SSLError as error:
            raise CertificateError(
                f'{self.title}: TLS failed: {_reason(error)}; OS_CACERT names a file '
                f'with the certificate of the authority'
            ) from error
        except (ks.Unauthorized, ks.AuthorizationFailure) as error:
            raise BadCredentials(
                f'{where} rejects the credentials: check the OS_* variables or '
                f'clouds.yaml: {_reason(error)}'
            ) from error
        except ks.DiscoveryFailure as error:
            raise Unreachable(f'{where}: {_reason(error)}') from error
        except ks.ConnectionError as error:
            raise Unreachable(f'{self.title}: {_reason(error)}') from error
        except ks.HttpError as error:
            status = int(error.http_status or 0)
            kind = _STATUSES.get(status, ServerError if status >= 500 else Rejected)
            raise kind(f'{where}: {_reason(error)}') from error
        except ks.CatalogException as error:
            raise Rejected(
                f'{where}: the catalog has no service of type {self._kind} that these '
                f'credentials and this region can use: {_reason(error)}'
            ) from error
        except ks.ClientException as error:
            raise Rejected(f'{where}: {_reason(error)}') from error
        except requests.RequestException as error:
            raise Unreachable(f'{self.title}: {_reason(error)}') from error
        except OSError as error:
            # requests looks for these files when it connects.
            raise CertificateError(
                f'{self.title}: {_reason(error)}: check OS_CACERT, OS_CERT and OS_KEY, '
                f'or clouds.yaml'
            ) from error


# HTTP status -> class; others by their hundreds.
_STATUSES: Mapping[int, type[StorageException]] = {
    401: BadCredentials,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    429: Throttled,
}


@contextlib.contextmanager
def cloud_errors_but(*kept: type[StorageException]) -> Iterator[None]:
    """A block whose failed requests are errors of the cloud, not of a storage.

    :param kept: passed on as they are
    :raises CloudError: a request failed
    """
    try:
        yield
    except kept:
        raise
    except StorageException as error:
        raise CloudError(error.message) from error


@contextlib.contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except (
        openstack.exceptions.ConfigException,
        ks.MissingRequiredOptions,
        ks.NoMatchingPlugin,
    ) as error:
        raise ConfigError(
            f'no credentials of an OpenStack cloud: {_reason(error)}: set OS_AUTH_URL, '
            f'OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME, or pass --os-cloud with a '
            f'name of clouds.yaml'
        ) from error
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        # openstacksdk does not check the file.
        raise ConfigError(
            f'clouds.yaml, or a variable OS_*, has a value of a wrong type: '
            f'{_reason(error)}'
        ) from error


# urllib3 names its objects around the error of the system or of OpenSSL.
_NESTED = re.compile(r'HTTPS?ConnectionPool.*?(\[(?:Errno|SSL)[^\]]*\][^\'")]*)')
_REQUEST_ID = re.compile(r' \(Request-ID: [^)]*\)')


def _reason(error: BaseException) -> str:
    """One line, without the parts that are of no use to the user."""
    text = ' '.join(str(error).split())
    if nested := _NESTED.search(text):
        text = text[: nested.start()] + nested[1].strip()
    text = _REQUEST_ID.sub('', text).rstrip('.')
    return printable(text)[:_LONGEST_REASON]


def _explanation(response: Any) -> str:
    """What the body of an error says: HTML, JSON or text, in one line."""
    try:
        text = response.text
    except (requests.RequestException, OSError):
        return 'no explanation'
    if '<body' in text:
        # The title repeats the status.
        text = re.sub(r'(?s).*<body[^>]*>|<h1>.*?</h1>', ' ', text)
    text = _message(text)
    text = html.unescape(re.sub('<[^>]*>', ' ', text))
    words = printable(' '.join(text.split())).rstrip('.')
    return words[:_LONGEST_REASON] or 'no explanation'


def _message(text: str) -> str:
    """The message in an error of Cinder or Nova, such as ``{"badRequest": {"message":
    …}}``; the text itself if it is something else."""
    try:
        (content,) = json.loads(text).values()
        return str(content['message'])
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return text
