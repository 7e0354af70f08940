"""freezer-api's calls, version 2, and what their answers mean.

The only module that knows keystoneauth1, which is imported when it is used. No call is
tried again here, but for a token that is not valid any more; each ends in finite time.
"""

import importlib
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler.config import Service

LOG = logging.getLogger(__name__)

#: jobs of one answer
PAGE = 10
#: of a connection, and between two bytes of an answer
TIMEOUT_SECONDS = 20.0

# It may be otherwise in a while. 401: after a new token was asked for and given.
_LATER = (401, 408, 425, 429)
_LONGEST_REASON = 200
_URL = re.compile(r'https?://[^\s:/]+(:\d+)?')
Document = dict[str, Any]


class Away(FreezerError):
    """freezer-api, or Keystone, does not answer as it would if it were well."""


class Refused(FreezerError):
    """The answer to the same question will be the same.

    :param status: of HTTP; 0 if there was none
    """

    def __init__(self, text: str, status: int = 0) -> None:
        self.status = status
        super().__init__(text)


def check() -> None:
    """:raises ConfigError: what is needed is not installed"""
    try:
        importlib.import_module('keystoneauth1.session')
        importlib.import_module('keystoneauth1.identity.generic')
    except ImportError as error:
        raise ConfigError(
            "keystoneauth1 is not installed: pip install 'freezer[scheduler-api]', or "
            'give --no-api'
        ) from error


class Api:
    """freezer-api as one project sees it, or one trust. For one thread.

    :param insecure: certificates are not checked
    :raises Away: from every call
    :raises Refused: from every call
    """

    def __init__(self, service: Service, insecure: bool, trust_id: str = '') -> None:
        self._service = service
        self._insecure = insecure
        self._trust_id = trust_id
        self._session = self._new_session()
        self._trusts: dict[str, Api] = {}
        #: how often it has answered as it would if it were well
        self.answers = 0
        self._found_project = ''
        self._found_base = ''

    def trusted(self, trust_id: str) -> 'Api':
        """The same, by a trust; itself without one."""
        if not trust_id or trust_id == self._trust_id:
            return self
        if trust_id not in self._trusts:
            self._trusts[trust_id] = Api(self._service, self._insecure, trust_id)
        return self._trusts[trust_id]

    @property
    def project_id(self) -> str:
        """That the token is for."""
        if not self._found_project:
            self._found_project = str(self._ask(self._session.get_project_id) or '')
            if not self._found_project:
                raise Away(
                    'Keystone gave a token for no project: set project-name or '
                    'project-id, and its domain'
                )
        return self._found_project

    # -- Calls ------------------------------------------------------------------------

    def register(self, client: Document) -> None:
        """Say who we are; also if we are known already."""
        self._call('POST', 'clients/', client, (200, 201, 409))

    def jobs(self, client_id: str, everybodys: bool) -> list[Any]:
        """All of a client that have not come to their end."""
        wanted = {
            'match_not': [{'status': 'completed'}],
            'match': [{'client_id': client_id}],
        }
        found: list[Any] = []
        while True:
            query = f'limit={PAGE}&offset={len(found)}&all_projects={everybodys}'
            page = self._list('jobs', f'jobs/?{query}', wanted)
            found += page
            if len(page) < PAGE:
                return found

    def job(self, job_id: str) -> Document | None:
        """None if there is none."""
        found = self._call('GET', f'jobs/{quote(job_id, safe="")}', None, (200, 404))
        return found or None

    def update_job(self, job_id: str, changes: Document) -> bool:
        """Whether the job is there. What is changed is replaced as a whole."""
        return (
            self._call('PATCH', f'jobs/{quote(job_id, safe="")}', changes, (200, 404))
            is not None
        )

    def has_backup(self, key: str, value: str) -> bool:
        """Whether there is one with this in its metadata."""
        wanted = {'match': [{key: value}]}
        return any(
            isinstance(each, dict)
            and isinstance(each.get('backup_metadata'), dict)
            and each['backup_metadata'].get(key) == value
            for each in self._list('backups', 'backups/?limit=10&offset=0', wanted)
        )

    def add_backup(self, backup: Document) -> None:
        self._call('POST', 'backups/', backup, (200, 201))

    def session(self, session_id: str) -> Document:
        """Empty if there is none."""
        return (
            self._call(
                'GET', f'sessions/{quote(session_id, safe="")}', None, (200, 404)
            )
            or {}
        )

    def act(self, session_id: str, action: Document) -> Document:
        """Start or end a job in a session; what is said to that."""
        path = f'sessions/{quote(session_id, safe="")}/action'
        return self._call('POST', path, action, (200, 202)) or {}

    # -- HTTP -------------------------------------------------------------------------

    def _list(self, what: str, path: str, search: Document) -> list[Any]:
        found = (self._call('GET', path, search, (200,)) or {}).get(what)
        if not isinstance(found, list):
            raise Away(f'freezer-api answers without a list of {what}')
        return found

    def _call(
        self, method: str, path: str, body: Document | None, expected: tuple[int, ...]
    ) -> Document | None:
        """The JSON of the answer; None of one that there is no such thing."""
        url = self._base() + path
        answer = self._ask(
            self._session.request,
            *(url, method),
            json=body,
            raise_exc=False,
            # Jobs have secrets in them.
            log=False,
            headers={'Accept': 'application/json'},
        )
        status = answer.status_code
        if status not in expected:
            said = f'freezer-api: {method} {path.partition("?")[0]}: {status}'
            reason = _reason(answer)
            kind = Away if status in _LATER or status >= 500 else Refused
            if kind is Away:
                raise Away(f'{said}{reason}')
            raise Refused(f'{said}{reason}', status)
        self.answers += 1
        if status in (404, 409):
            return None
        try:
            found = answer.json()
        except ValueError as error:
            raise Away(f'freezer-api answers {method} {path} with no JSON') from error
        if not isinstance(found, dict):
            raise Away(f'freezer-api answers {method} {path} with no JSON object')
        return found

    def _base(self) -> str:
        """With a slash at its end."""
        if not self._found_base:
            base = self._service.backup_url or self._ask(
                self._session.get_endpoint,
                service_type='backup',
                interface=self._service.endpoint_type,
                region_name=self._service.region_name or None,
            )
            if not base:
                raise Away(
                    'the catalogue of Keystone has no service of the type backup, or '
                    'not in this region: set backup-url'
                )
            base = str(base).rstrip('/')
            if '/v2' not in base:
                base += f'/v2/{self.project_id}'
            self._found_base = base + '/'
        return self._found_base

    def _new_session(self) -> Any:
        identity = importlib.import_module('keystoneauth1.identity.generic')
        sessions = importlib.import_module('keystoneauth1.session')
        # It says at length what is said here in a line.
        logging.getLogger('keystoneauth.identity').setLevel(logging.ERROR)
        service = self._service
        scope = {
            'project_id': service.project_id,
            'project_name': service.project_name,
            'project_domain_id': service.project_domain_id,
            'project_domain_name': service.project_domain_name,
        }
        if self._trust_id:
            scope = {'trust_id': self._trust_id}
        scope = {key: value for key, value in scope.items() if value}
        auth: Any
        if service.username and service.password:
            auth = identity.Password(
                service.auth_url,
                username=service.username,
                password=service.password,
                user_domain_id=service.user_domain_id or None,
                user_domain_name=service.user_domain_name or None,
                **scope,
            )
        else:
            auth = identity.Token(service.auth_url, token=service.token, **scope)
        return sessions.Session(
            auth=auth,
            verify=False if self._insecure else (service.cacert or True),
            cert=service.cert or None,
            timeout=TIMEOUT_SECONDS,
            user_agent='freezer-scheduler',
        )

    def _ask(self, call: Any, *arguments: Any, **how: Any) -> Any:
        """Call keystoneauth1, which may ask Keystone first."""
        wrong = importlib.import_module('keystoneauth1.exceptions')
        try:
            return call(*arguments, **how)
        except wrong.HTTPClientError as error:
            said = f'Keystone: {_line(error)}'
            if self._trust_id:
                # Others may be valid.
                raise Refused(f'{said}; trust {self._trust_id}') from error
            raise Away(said) from error
        except wrong.ClientException as error:
            where, reason = _unreached(error)
            if where:
                raise Away(f'{where} cannot be reached: {reason}') from error
            raise Away(f'Keystone or its catalogue: {_line(error)}') from error
        except ValueError as error:
            # Of answers that are no JSON, and of URLs that are none.
            raise Away(f'Keystone or its catalogue: {_line(error)}') from error


def _unreached(error: Exception) -> tuple[str, str]:
    """Where nobody was, and the system's word for why; empty if it is another error."""
    wrong = importlib.import_module('keystoneauth1.exceptions')
    where = reason = ''
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, wrong.ConnectionError) and not where:
            found = _URL.search(str(cause))
            where = found[0] if found else 'it'
        if isinstance(cause, wrong.ConnectTimeout):
            reason = 'no answer in time'
        elif isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return where, reason or _line(error)


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())[:_LONGEST_REASON]


def _reason(answer: Any) -> str:
    """What freezer-api says of it, in a line."""
    try:
        found: Mapping[str, Any] = answer.json()
        said = found.get('description') or found.get('title') or ''
    except (ValueError, AttributeError):
        return ''
    text = ' '.join(str(said).split())[:_LONGEST_REASON]
    return f': {text}' if text else ''
