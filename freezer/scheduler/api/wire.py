"""The calls of freezer-api, version 2, and their errors.

The only module that uses keystoneauth1: an optional dependency ([scheduler-api]), so it
is imported when it is used. No call is retried here, except with a new token when the
old one is rejected; every call has a timeout.
"""

import importlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from freezer.exceptions import ConfigError, FreezerError
from freezer.scheduler.config import Service

LOG = logging.getLogger(__name__)

#: jobs per request, without and with a search. freezer-api 19 reads all jobs of the
#: project for each page of a search, and only that page without one
PAGE, SEARCH_PAGE = 100, 10_000
#: for connecting, and between two bytes of a response
TIMEOUT_SECONDS = 20.0
#: bounds of what freezer-api may send: bytes of a response; bytes and jobs of a list
MOST_BYTES, MOST_LIST_BYTES, MOST_JOBS = 32 << 20, 128 << 20, 50_000
_CHUNK = 1 << 16

# Worth a later retry, as is any 5xx. 401: keystoneauth1 has tried a new token.
_TEMPORARY = (401, 408, 425, 429)
_MAX_REASON = 200
_TIMED_OUT = 'timed out'
_URL = re.compile(r'https?://[^\s:/]+(:\d+)?')
JsonObject = dict[str, Any]


class ApiUnavailable(FreezerError):
    """freezer-api or Keystone is unreachable or returned a server error."""


class ApiOverloaded(ApiUnavailable):
    """No response in time, or one too large: a smaller request may succeed."""


class ApiRejected(FreezerError):
    """freezer-api or Keystone rejected the request; a retry would be rejected as well.

    :param status: the HTTP status; 0 if there was none
    """

    def __init__(self, text: str, status: int = 0) -> None:
        self.status = status
        super().__init__(text)


def check() -> None:
    """:raises ConfigError: keystoneauth1 is not installed"""
    try:
        importlib.import_module('keystoneauth1.session')
        importlib.import_module('keystoneauth1.identity.generic')
    except ImportError as error:
        raise ConfigError(
            "keystoneauth1 is not installed: pip install 'freezer[scheduler-api]', or "
            'use --no-api'
        ) from error


class Api:
    """freezer-api, with the rights of one project or one trust. Not thread-safe.

    Every call raises ApiUnavailable or ApiRejected if it fails.

    :param insecure: do not check certificates
    """

    def __init__(self, service: Service, insecure: bool, trust_id: str = '') -> None:
        self._service = service
        self._insecure = insecure
        self._trust_id = trust_id
        self._session = self._new_session()
        self._trusts: dict[str, Api] = {}
        #: how many calls have succeeded
        self.successes = 0
        self._project_id = ''
        self._url = ''
        self._received = 0
        # It can list the jobs of the project, but not search them.
        self._lists_all = False

    def with_trust(self, trust_id: str) -> 'Api':
        """freezer-api with the rights of this trust; itself if that is empty."""
        if not trust_id or trust_id == self._trust_id:
            return self
        if trust_id not in self._trusts:
            self._trusts[trust_id] = Api(self._service, self._insecure, trust_id)
        return self._trusts[trust_id]

    @property
    def project_id(self) -> str:
        """The project of the token."""
        if not self._project_id:
            self._project_id = str(self._keystone(self._session.get_project_id) or '')
            if not self._project_id:
                raise ApiUnavailable(
                    'the token of Keystone has no project: set project-name or '
                    'project-id, and its domain'
                )
        return self._project_id

    # -- Calls ------------------------------------------------------------------------

    def register(self, client: JsonObject) -> None:
        """Register the client, unless it is registered already."""
        self._call('POST', 'clients/', client, (200, 201, 409))

    def jobs(self, client_id: str, all_projects: bool) -> list[Any]:
        """All jobs of a client that are not completed.

        A job that changes meanwhile may be missing.
        """
        if self._lists_all:
            return self._list_jobs(client_id, all_projects)
        wanted = {
            'match_not': [{'status': 'completed'}],
            'match': [{'client_id': client_id}],
        }
        try:
            return list(self._pages(SEARCH_PAGE, all_projects, wanted))
        except ApiOverloaded as error:
            found = self._list_jobs(client_id, all_projects)
            LOG.warning('%s; from now on, listing all jobs of the project', error)
        self._lists_all = True
        return found

    def _list_jobs(self, client_id: str, all_projects: bool) -> list[Any]:
        return [
            each
            for each in self._pages(PAGE, all_projects, None)
            if not isinstance(each, dict)
            or (each.get('client_id') == client_id and not is_completed(each))
        ]

    def _pages(
        self, size: int, all_projects: bool, wanted: JsonObject | None
    ) -> Iterator[Any]:
        found, most = 0, self._received + MOST_LIST_BYTES
        while True:
            query = f'limit={size}&offset={found}&all_projects={all_projects}'
            page = self._list('jobs', f'jobs/?{query}', wanted)
            yield from page
            found += len(page)
            if len(page) < size:
                return
            if found > MOST_JOBS:
                raise ApiUnavailable(f'freezer-api lists more than {MOST_JOBS} jobs')
            if self._received > most:
                bound = f'{MOST_LIST_BYTES} bytes of jobs'
                raise ApiUnavailable(f'freezer-api lists more than {bound}')

    def job(self, job_id: str) -> JsonObject | None:
        """None if it does not exist."""
        found = self._call('GET', f'jobs/{quote(job_id, safe="")}', None, (200, 404))
        return found or None

    def update_job(self, job_id: str, changes: JsonObject) -> bool:
        """Replace these keys, each as a whole; False if the job does not exist."""
        path = f'jobs/{quote(job_id, safe="")}'
        return self._call('PATCH', path, changes, (200, 404)) is not None

    def has_backup(self, key: str, value: str) -> bool:
        """Whether there is a backup with this in its metadata."""
        wanted = {'match': [{key: value}]}
        return any(
            isinstance(each, dict)
            and isinstance(each.get('backup_metadata'), dict)
            and each['backup_metadata'].get(key) == value
            for each in self._list('backups', 'backups/?limit=10&offset=0', wanted)
        )

    def add_backup(self, backup: JsonObject) -> None:
        self._call('POST', 'backups/', backup, (200, 201))

    def session(self, session_id: str) -> JsonObject:
        """Empty if it does not exist."""
        path = f'sessions/{quote(session_id, safe="")}'
        return self._call('GET', path, None, (200, 404)) or {}

    def session_action(self, session_id: str, action: JsonObject) -> JsonObject:
        """Start or end a job in a session; returns the tag and result."""
        path = f'sessions/{quote(session_id, safe="")}/action'
        return self._call('POST', path, action, (200, 202)) or {}

    # -- HTTP -------------------------------------------------------------------------

    def _list(self, what: str, path: str, search: JsonObject | None) -> list[Any]:
        found = (self._call('GET', path, search, (200,)) or {}).get(what)
        if not isinstance(found, list):
            raise ApiUnavailable(f'the response of freezer-api has no list of {what}')
        return found

    def _call(
        self, method: str, path: str, body: JsonObject | None, expected: tuple[int, ...]
    ) -> JsonObject | None:
        """The JSON of the response; None for 404 and 409, if they are expected."""
        url = self._base() + path
        answer = self._keystone(
            self._session.request,
            *(url, method),
            json=body,
            raise_exc=False,
            # Jobs contain secrets.
            log=False,
            stream=True,
            headers={'Accept': 'application/json'},
        )
        status = answer.status_code
        call = f'freezer-api: {method} {path.partition("?")[0]}'
        content = _content(answer, call)
        self._received += len(content)
        if status not in expected:
            call += f': {status}'
            reason = _reason(content)
            if status == 504:
                raise ApiOverloaded(f'{call}{reason}')
            if status in _TEMPORARY or status >= 500:
                raise ApiUnavailable(f'{call}{reason}')
            raise ApiRejected(f'{call}{reason}', status)
        self.successes += 1
        if status in (404, 409):
            return None
        response = f'the response of freezer-api to {method} {path}'
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ApiUnavailable(f'{response} is not JSON') from error
        if not isinstance(found, dict):
            raise ApiUnavailable(f'{response} is not a JSON object')
        return found

    def _base(self) -> str:
        """The URL of freezer-api, with a slash at its end."""
        if not self._url:
            base = self._service.backup_url or self._keystone(
                self._session.get_endpoint,
                service_type='backup',
                interface=self._service.endpoint_type,
                region_name=self._service.region_name or None,
            )
            if not base:
                raise ApiUnavailable(
                    "Keystone's catalog has no backup service in this region: set "
                    'backup-url'
                )
            base = str(base).rstrip('/')
            if '/v2' not in base:
                base += f'/v2/{self.project_id}'
            self._url = base + '/'
        return self._url

    def _new_session(self) -> Any:
        identity = importlib.import_module('keystoneauth1.identity.generic')
        sessions = importlib.import_module('keystoneauth1.session')
        # Its errors are long, and reported here in one line.
        logging.getLogger('keystoneauth.identity').setLevel(logging.ERROR)
        service = self._service
        project = ('id', 'name', 'domain_id', 'domain_name')
        scope = {
            f'project_{each}': getattr(service, f'project_{each}') for each in project
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

    def _keystone(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """Call keystoneauth1, which first gets a token if it needs one."""
        exceptions = importlib.import_module('keystoneauth1.exceptions')
        try:
            return call(*arguments, **options)
        except exceptions.HTTPClientError as error:
            text = f'Keystone: {_line(error)}'
            if self._trust_id:
                # Another trust may be valid.
                raise ApiRejected(f'{text}; trust {self._trust_id}') from error
            raise ApiUnavailable(text) from error
        except (exceptions.ClientException, ValueError) as error:
            # ValueError: a response that is not JSON, or an invalid URL.
            where, reason = _connection_error(error)
            if where:
                text = f'cannot connect to {where}: {reason}'
                if reason == _TIMED_OUT:
                    raise ApiOverloaded(text) from error
                raise ApiUnavailable(text) from error
            raise ApiUnavailable(f'Keystone or its catalog: {_line(error)}') from error


def _connection_error(error: Exception) -> tuple[str, str]:
    """The URL, and the reason in the system's words; no URL for another error."""
    exceptions = importlib.import_module('keystoneauth1.exceptions')
    where = reason = ''
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, exceptions.ConnectionError) and not where:
            found = _URL.search(str(cause))
            where = found[0] if found else 'the server'
        if isinstance(cause, exceptions.ConnectTimeout):
            reason = _TIMED_OUT
        elif isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return where, reason or _line(error)


def _line(text: object) -> str:
    return ' '.join(str(text).split())[:_MAX_REASON]


def _content(answer: Any, call: str) -> bytes:
    """The body of a response; its size is bounded."""
    parts, size = [], 0
    try:
        for part in answer.iter_content(_CHUNK):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise ApiOverloaded(f'{call}: the response exceeds {MOST_BYTES} bytes')
    except OSError as error:
        # Of requests.
        raise ApiUnavailable(f'{call}: the response broke off') from error
    finally:
        answer.close()
    return b''.join(parts)


def is_completed(job: Mapping[str, Any]) -> bool:
    """Whether a document of freezer-api is a completed job."""
    schedule = job.get('job_schedule')
    return isinstance(schedule, dict) and schedule.get('status') == 'completed'


def _reason(content: bytes) -> str:
    """The error message of freezer-api, in one line."""
    try:
        found: Mapping[str, Any] = json.loads(content)
        text = found.get('description') or found.get('title') or ''
    except (ValueError, AttributeError, RecursionError):
        return ''
    return f': {_line(text)}' if text else ''
