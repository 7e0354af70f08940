"""Tokens: of Keystone, or of Swift's own login (version 1).

A token is renewed before it expires, and when Swift rejects it. keystoneauth1 is
imported only for Keystone, and openstacksdk only for clouds.yaml.
"""

import abc
import contextlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from freezer.storage import exceptions as e
from freezer.storage.swift.errors import reason
from freezer.storage.swift.options import APPLICATION, TOKEN, V1, Login
from freezer.utils.text import printable


class Access(NamedTuple):
    """:ivar url: of the account, without a slash at its end"""

    url: str
    token: str


#: sends one GET: URL and headers -> status and headers
Get = Callable[[str, dict[str, str]], tuple[int, dict[str, str]]]


class Tokens(abc.ABC):
    """The account and a token for it. Safe to share between threads.

    Each method may raise StorageException; whether another attempt helps, its class
    says.
    """

    @abc.abstractmethod
    def access(self) -> Access:
        """The account, and a token that is valid for some time."""

    @abc.abstractmethod
    def renew(self, rejected: Access) -> None:
        """Get another token, unless another thread has got it meanwhile."""


def check_packages(login: Login) -> None:
    """:raises StorageConfigError: a package that the login needs is missing"""
    name = 'openstack' if login.cloud else 'keystoneauth1'
    if login.kind == V1 and not login.cloud:
        return
    if importlib.util.find_spec(name) is None:
        extra = 'openstack' if login.cloud else 'swift'
        package = 'openstacksdk' if login.cloud else 'keystoneauth1'
        raise e.StorageConfigError(
            f'storage swift needs the package {package} to log in with Keystone: pip '
            f"install 'freezer[{extra}]'"
        )


def open_tokens(login: Login, timeout: float, get: Get) -> Tokens:
    """Nothing is contacted before the first access.

    :param timeout: seconds for a request to Keystone
    :param get: for a login with Swift
    :raises StorageConfigError: there is no such cloud in clouds.yaml
    """
    if login.kind == V1 and not login.cloud:
        return _V1Tokens(login, get)
    return _KeystoneTokens(login, timeout)


class _V1Tokens(Tokens):
    def __init__(self, login: Login, get: Get) -> None:
        self._login = login
        self._get = get
        self._access: Access | None = None
        self._lock = threading.Lock()

    def access(self) -> Access:
        with self._lock:
            if self._access is None:
                self._access = self._log_in()
            return self._access

    def renew(self, rejected: Access) -> None:
        with self._lock:
            if self._access == rejected:
                self._access = None

    def _log_in(self) -> Access:
        login = self._login
        status, headers = self._get(
            login.auth_url,
            {'X-Auth-User': login.username, 'X-Auth-Key': login.password},
        )
        if status in (401, 403):
            raise _rejected(login.auth_url, f'HTTP {status}')
        if status >= 300:
            kind = e.ServerError if status >= 500 else e.Rejected
            raise kind(f'log in at {login.auth_url}: HTTP {status}')
        token = headers.get('x-auth-token') or headers.get('x-storage-token')
        url = login.storage_url or headers.get('x-storage-url')
        if not token or not url:
            raise e.MalformedAnswer(
                f'log in at {login.auth_url}: the answer has no token: this is not a '
                f'login of Swift'
            )
        return Access(url.rstrip('/'), token)


class _KeystoneTokens(Tokens):
    def __init__(self, login: Login, timeout: float) -> None:
        self._login = login
        self._lock = threading.Lock()
        with _config_errors(login.cloud):
            self._session, self._auth, self._filter = _open_session(login)
        self._session.timeout = timeout
        # It would send the password on, whatever the address.
        self._session.redirect = False
        self._where = login.auth_url or f'cloud {login.cloud}'

    def access(self) -> Access:
        # One at a time: threads that need a token share it.
        with self._lock, _keystone_errors(self._where):
            token = self._auth.get_token(self._session)
            url = self._login.storage_url or self._find_endpoint()
        if not token or not url:
            region = self._filter.get('region_name')
            place = f' in region {region}' if region else ''
            raise e.Rejected(
                f'{self._where}: the catalog has no object-store{place} for interface '
                f'{self._filter.get("interface")}: check --swift-region-name and '
                f'--swift-interface, and that the credentials are for a project'
            )
        return Access(url.rstrip('/'), token)

    def _find_endpoint(self) -> str | None:
        import keystoneauth1.exceptions as ks

        try:
            found: str | None = self._auth.get_endpoint(
                self._session, service_type='object-store', **self._filter
            )
        except ks.CatalogException:
            # Of some logins; others return None.
            return None
        return found

    def renew(self, rejected: Access) -> None:
        with self._lock, _keystone_errors(self._where):
            if self._auth.get_token(self._session) == rejected.token:
                self._auth.invalidate()


def _open_session(login: Login) -> tuple[Any, Any, dict[str, Any]]:
    """(session, plugin of the login, what chooses the endpoint)"""
    endpoint = {
        'interface': login.interface,
        'region_name': login.region_name or None,
    }
    if login.cloud:
        # Slow to import.
        import openstack.config

        cloud: Any = openstack.config.OpenStackConfig(app_name='freezer').get_one(
            login.cloud
        )
        session: Any = cloud.get_session()
        kind = 'object-store'
        endpoint = {
            'interface': cloud.get_interface(kind) or login.interface,
            'region_name': login.region_name or cloud.get_region_name(kind),
        }
        return session, session.auth, endpoint
    import keystoneauth1.session
    import requests

    client = requests.Session()
    if login.proxy:
        client.proxies = {'http': login.proxy, 'https': login.proxy}
    verify: Any = False if login.insecure else login.ca_bundle or True
    auth = _plugin(login)
    session = keystoneauth1.session.Session(auth=auth, session=client, verify=verify)
    return session, auth, endpoint


def _plugin(login: Login) -> Any:
    from keystoneauth1.identity import v3

    url = login.auth_url.rstrip('/')
    if not url.endswith('/v3'):
        url += '/v3'
    user: dict[str, Any] = {
        'username': login.username or None,
        'user_id': login.user_id or None,
        **_domain('user', login, not login.user_id),
    }
    if login.trust_id:
        scope: dict[str, Any] = {'trust_id': login.trust_id}
    else:
        scope = {
            'project_name': login.project_name or None,
            'project_id': login.project_id or None,
            **_domain('project', login, not login.project_id),
        }
    if login.kind == APPLICATION:
        by_id = bool(login.application_credential_id)
        return v3.ApplicationCredential(
            url,
            login.application_credential_secret,
            application_credential_id=login.application_credential_id or None,
            application_credential_name=login.application_credential_name or None,
            **({} if by_id else user),
        )
    if login.kind == TOKEN:
        return v3.Token(url, login.token, **scope)
    return v3.Password(url, login.password, **user, **scope)


def _domain(whose: str, login: Login, needed: bool) -> dict[str, str | None]:
    """A name needs a domain, and few have another one than ``Default``."""
    name = getattr(login, f'{whose}_domain_name')
    identifier = getattr(login, f'{whose}_domain_id')
    if needed and not identifier:
        name = name or 'Default'
    return {
        f'{whose}_domain_name': name or None,
        f'{whose}_domain_id': identifier or None,
    }


def _rejected(where: str, why: str) -> e.BadCredentials:
    return e.BadCredentials(
        f'{where} rejects the credentials: check user, password and project (--swift-… '
        f'or OS_*): {why}'
    )


@contextlib.contextmanager
def _config_errors(cloud: str | None) -> Iterator[None]:
    if cloud is None:
        yield
        return
    import keystoneauth1.exceptions as ks
    import openstack.exceptions

    try:
        yield
    except (
        openstack.exceptions.ConfigException,
        ks.MissingRequiredOptions,
        ks.NoMatchingPlugin,
    ) as error:
        raise e.StorageConfigError(
            f'os-cloud {cloud}: no such cloud in clouds.yaml, or its credentials are '
            f'incomplete: {reason(error)}'
        ) from error
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        # openstacksdk does not check the file.
        raise e.StorageConfigError(
            f'os-cloud {cloud}: clouds.yaml has a value of a wrong type: '
            f'{reason(error)}'
        ) from error


@contextlib.contextmanager
def _keystone_errors(where: str) -> Iterator[None]:
    """Errors of keystoneauth1 become those of a storage."""
    import keystoneauth1.exceptions as ks
    import requests

    try:
        yield
    except ks.SSLError as error:
        raise e.CertificateError(
            f'{where}: TLS failed: {reason(error)}; --swift-ca-bundle names a file '
            f'with the certificate of the authority'
        ) from error
    except (ks.Unauthorized, ks.AuthorizationFailure, ks.NotFound) as error:
        # A trust, or the user of an application credential, that is not there.
        raise _rejected(where, reason(error)) from error
    except ks.HttpError as error:
        status = int(error.http_status or 0)
        kind: type[e.StorageException] = e.Rejected
        if status == 429:
            kind = e.Throttled
        elif status >= 500:
            kind = e.ServerError
        raise kind(f'log in at {where}: {reason(error)}') from error
    except ks.InvalidResponse as error:
        target = error.response.headers.get('location', '')
        if not target:
            raise e.Rejected(f'log in at {where}: {reason(error)}') from error
        raise e.Rejected(
            f'log in at {where}: HTTP {error.response.status_code}: redirected to '
            f'{printable(target)[:300]}: a password is not sent there; if it is right, '
            f'give it as --swift-auth-url'
        ) from error
    except (ks.ConnectionError, ks.DiscoveryFailure) as error:
        raise e.Unreachable(f'log in at {where}: {reason(error)}') from error
    except ks.ClientException as error:
        raise e.Rejected(f'log in at {where}: {reason(error)}') from error
    except requests.RequestException as error:
        raise e.Unreachable(f'log in at {where}: {reason(error)}') from error
    except OSError as error:
        # requests looks for the file when it connects.
        raise e.CertificateError(
            f'log in at {where}: {reason(error)}: check --swift-ca-bundle'
        ) from error
