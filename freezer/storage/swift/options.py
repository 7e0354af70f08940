"""The options of storage swift, and checks of them. Pure: ``--help`` imports this."""

import dataclasses
import math
import os
import re
import urllib.parse
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Self

from oslo_config import cfg

from freezer.storage.exceptions import StorageConfigError
from freezer.storage.object_backups import plan
from freezer.utils import surroundings
from freezer.utils.openstack_options import OS_CLOUD
from freezer.utils.plugin_options import PluginOptions
from freezer.utils.text import unfit
from freezer.utils.types import Duration

PASSWORD = 'password'  # noqa: S105 - a kind of login, no secret
TOKEN = 'token'  # noqa: S105 - the same
APPLICATION = 'application-credential'
V1 = 'v1'
# As keystoneauth, python-swiftclient and Freezer 19 name them.
_KINDS = {
    'password': PASSWORD,
    'v3password': PASSWORD,
    'token': TOKEN,
    'v3token': TOKEN,
    'application-credential': APPLICATION,
    'v3applicationcredential': APPLICATION,
    'v1': V1,
    'v1password': V1,
}
# http://swift.example.com/auth/v1.0
_V1_URL = re.compile(r'/v1(\.\d+)?/?\Z')
_SECONDS = ('connect_timeout', 'timeout', 'retry_budget')
_INTERFACE = re.compile(r'(public|internal|admin)(URL)?\Z')

#: bytes of a container's name, and what no name of one has
_MAX_CONTAINER = 256

#: shared with engine glance, and options of Freezer 19
MAIN_OPTS = (
    OS_CLOUD,
    cfg.StrOpt(
        'os-trust-id',
        metavar='ID',
        help='Trust of Keystone to log in with, instead of a project. Also from '
        'OS_TRUST_ID in the environment.',
    ),
    cfg.StrOpt(
        'os-identity-api-version',
        metavar='VERSION',
        help='Version of the API of Keystone: 3, the only one there is today.',
    ),
)


def _text(name: str, metavar: str, text: str, *, secret: bool = False) -> cfg.StrOpt:
    return cfg.StrOpt(name, metavar=metavar, default='', help=text, secret=secret)


#: in group swift
SWIFT_OPTS = (
    _text(
        'auth-url',
        'URL',
        'Address of Keystone: https://keystone.example.com:5000/v3. For the login of '
        'Swift itself (version 1): https://swift.example.com/auth/v1.0. Also from '
        'OS_AUTH_URL.',
    ),
    _text(
        'auth-type',
        'TYPE',
        'How to log in: password, token or application-credential with Keystone; or '
        'v1. Default: what the other options are for. Also from OS_AUTH_TYPE.',
    ),
    _text('username', 'USER', 'Also from OS_USERNAME. With v1: account:user.'),
    _text('user-id', 'ID', 'Instead of the name. Also from OS_USER_ID.'),
    _text(
        'password',
        'PASSWORD',
        'Also from OS_PASSWORD in the environment, where, unlike on the command line, '
        'other users of the machine cannot see it.',
        secret=True,
    ),
    _text(
        'user-domain-name',
        'NAME',
        'Domain of the user. Also from OS_USER_DOMAIN_NAME. Default: Default.',
    ),
    _text('user-domain-id', 'ID', 'Also from OS_USER_DOMAIN_ID.'),
    _text(
        'project-name',
        'NAME',
        'Project that has the container. Also from OS_PROJECT_NAME.',
    ),
    _text('project-id', 'ID', 'Instead of the name. Also from OS_PROJECT_ID.'),
    _text(
        'project-domain-name',
        'NAME',
        'Domain of the project. Also from OS_PROJECT_DOMAIN_NAME. Default: Default.',
    ),
    _text('project-domain-id', 'ID', 'Also from OS_PROJECT_DOMAIN_ID.'),
    _text(
        'token',
        'TOKEN',
        'A token of Keystone instead of a password. A backup that lasts longer than '
        'it fails. Also from OS_TOKEN.',
        secret=True,
    ),
    _text(
        'application-credential-id',
        'ID',
        'Application credential to log in with: it needs no project. Also from '
        'OS_APPLICATION_CREDENTIAL_ID.',
    ),
    _text(
        'application-credential-name',
        'NAME',
        'The same by its name, which needs the user as well. Also from '
        'OS_APPLICATION_CREDENTIAL_NAME.',
    ),
    _text(
        'application-credential-secret',
        'SECRET',
        'Its secret. Also from OS_APPLICATION_CREDENTIAL_SECRET.',
        secret=True,
    ),
    _text(
        'region-name',
        'NAME',
        'Region whose Swift is used. Also from OS_REGION_NAME. Default: the first one '
        'of the catalog.',
    ),
    _text(
        'interface',
        'INTERFACE',
        'Which address of Swift in the catalog is used: public, internal or admin. '
        'Also from OS_INTERFACE. Default: public.',
    ),
    _text(
        'endpoint-type',
        'INTERFACE',
        'The same, by its name in Freezer 19: publicURL, internalURL or adminURL. Also '
        'from OS_ENDPOINT_TYPE.',
    ),
    _text(
        'storage-url',
        'URL',
        'Address of the account, if it is not the one that the login returns: '
        'https://swift.example.com/v1/ACCOUNT. Also from OS_STORAGE_URL.',
    ),
    cfg.StrOpt(
        'ca-bundle',
        metavar='FILE',
        help='Certificates of the authorities that Keystone and Swift are checked '
        'with. Also from OS_CACERT. Default: those of the system.',
    ),
    cfg.BoolOpt(
        'create-container',
        default=True,
        help='Create the container if it does not exist.',
    ),
    cfg.IntOpt(
        'concurrency',
        metavar='N',
        min=1,
        max=64,
        help='Segments or ranges to transfer at the same time. Default: 4 to 16, as '
        'many as fit into 128 MiB.',
    ),
    cfg.FloatOpt(
        'connect-timeout',
        metavar='SECONDS',
        default=10.0,
        min=0.1,
        help='Seconds to wait for a connection.',
    ),
    cfg.FloatOpt(
        'timeout',
        metavar='SECONDS',
        default=60.0,
        min=0.1,
        help='Seconds without progress after which a request is repeated.',
    ),
    cfg.FloatOpt(
        'retry-budget',
        metavar='SECONDS',
        default=900.0,
        min=0.0,
        help='Total seconds for one request including its repetitions. Until Swift '
        'has answered for the first time, at most 20 seconds.',
    ),
    cfg.Opt(
        'stale-after',
        type=Duration(),
        help='With action admin: remove data that was never committed, if its backup '
        'has not changed for this long: 24h, 90m. Use 0 only while no other machine '
        'is backing up to this container. Default: 24h.',
    ),
)

ENVIRONMENT = {
    'os_cloud': 'OS_CLOUD',
    'os_trust_id': 'OS_TRUST_ID',
    'os_identity_api_version': 'OS_IDENTITY_API_VERSION',
    'swift_ca_bundle': 'OS_CACERT',
    **{
        f'swift_{option.dest}': f'OS_{option.dest.upper()}'
        for option in SWIFT_OPTS[: [o.name for o in SWIFT_OPTS].index('ca-bundle')]
    },
}


@dataclasses.dataclass(frozen=True)
class Login:
    """How to get a token. Empty strings and None for what is not set.

    :ivar cloud: a name in clouds.yaml; then only ``interface``, ``region_name`` and
        ``storage_url`` count of the rest
    :ivar kind: PASSWORD, TOKEN, APPLICATION or V1
    :ivar ca_bundle: a file; None for the authorities of the system
    """

    cloud: str | None = None
    kind: str = PASSWORD
    auth_url: str = ''
    username: str = ''
    user_id: str = ''
    password: str = dataclasses.field(default='', repr=False)
    user_domain_name: str = ''
    user_domain_id: str = ''
    project_name: str = ''
    project_id: str = ''
    project_domain_name: str = ''
    project_domain_id: str = ''
    token: str = dataclasses.field(default='', repr=False)
    trust_id: str = ''
    application_credential_id: str = ''
    application_credential_name: str = ''
    application_credential_secret: str = dataclasses.field(default='', repr=False)
    region_name: str = ''
    interface: str = 'public'
    storage_url: str = ''
    ca_bundle: str | None = None
    insecure: bool = False
    proxy: str = ''

    @property
    def where(self) -> str:
        """The account, for messages and the journal: it is known without a login."""
        if self.storage_url:
            return self.storage_url
        if self.cloud:
            return f'cloud {self.cloud}'
        scope = (
            self.project_name
            or self.project_id
            or self.application_credential_id
            or self.application_credential_name
            or self.trust_id
            or self.username
        )
        region = f', {self.region_name}' if self.region_name else ''
        return f'{self.auth_url} ({scope}{region})'

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may repeat."""
        found = (self.password, self.token, self.application_credential_secret)
        return tuple(filter(None, found))


@dataclasses.dataclass(frozen=True)
class SwiftOptions:
    """The options, checked. Times in seconds."""

    login: Login
    create_container: bool = True
    concurrency: int | None = None
    connect_timeout: float = 10.0
    timeout: float = 60.0
    retry_budget: float = 900.0
    stale_after: float | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any], insecure: bool, proxy: str | None) -> Self:
        """:raises StorageConfigError: names every option that is malformed"""
        problems = list(_problems(given, insecure))
        if problems:
            raise StorageConfigError('; '.join(problems))
        own = {
            key.removeprefix('swift_'): value
            for key, value in given.items()
            if key.startswith('swift_')
        }
        fields = {field.name for field in dataclasses.fields(Login)}
        values: dict[str, Any] = {n: v or '' for n, v in own.items() if n in fields}
        values |= {
            'cloud': given['os_cloud'] or None,
            'kind': _kind(given),
            'trust_id': given['os_trust_id'] or '',
            'interface': _interface(given),
            'ca_bundle': own['ca_bundle'] or None,
            'insecure': insecure,
            'proxy': proxy or '',
        }
        login = Login(**values)
        rest = {field.name for field in dataclasses.fields(cls)} - {'login'}
        return cls(login, **{name: own[name] for name in rest})

    def at_once(self, size: int) -> int:
        """How many segments or ranges of so many bytes are under way at once."""
        return self.concurrency or plan.at_once(size)


def missing(given: Mapping[str, Any]) -> list[str]:
    """The options that a login lacks."""
    if given['os_cloud']:
        return []
    needed = ['swift-auth-url']
    kind = _kind(given)
    if kind == V1:
        needed += ['swift-username', 'swift-password']
    elif kind == PASSWORD:
        needed += ['swift-username|swift-user-id', 'swift-password']
    elif kind == APPLICATION:
        needed += [
            'swift-application-credential-id|swift-application-credential-name',
            'swift-application-credential-secret',
        ]
    else:
        needed += ['swift-token']
    if kind in (PASSWORD, TOKEN) and not given['os_trust_id']:
        needed.append('swift-project-name|swift-project-id')
    return [
        choice.partition('|')[0]
        for choice in needed
        if not any(given[name.replace('-', '_')] for name in choice.split('|'))
    ]


def _kind(given: Mapping[str, Any]) -> str:
    kind = _KINDS.get((given['swift_auth_type'] or '').lower())
    if kind:
        return kind
    if _V1_URL.search(given['swift_auth_url'] or ''):
        return V1
    if (
        given['swift_application_credential_id']
        or given['swift_application_credential_name']
    ):
        return APPLICATION
    return TOKEN if given['swift_token'] and not given['swift_password'] else PASSWORD


def _interface(given: Mapping[str, Any]) -> str:
    found = given['swift_interface'] or given['swift_endpoint_type'] or 'public'
    return str(found).removesuffix('URL')


def _problems(given: Mapping[str, Any], insecure: bool) -> Iterator[str]:
    for key, _group, option in OPTIONS:
        value = given[key]
        if isinstance(value, str) and (problem := unfit(value)):
            # Without the value, as it may be secret.
            yield f'{key.replace("_", "-")}: {problem}'
        # oslo.config's bounds let nan pass.
        if option.dest in _SECONDS and not math.isfinite(value):
            yield f'{key.replace("_", "-")}: not a number of seconds'
    kind = given['swift_auth_type']
    if kind and kind.lower() not in _KINDS:
        yield (
            f'swift-auth-type {kind!r}: is none of password, token, '
            f'application-credential and v1'
        )
    version = given['os_identity_api_version']
    if version and version not in ('3', '3.0', 'v3'):
        # With v1 it says nothing.
        yield f'os-identity-api-version {version!r}: only version 3 is available'
    for name in ('interface', 'endpoint_type'):
        text = given[f'swift_{name}']
        if text and not _INTERFACE.match(text):
            yield (
                f'swift-{name.replace("_", "-")} {text!r}: is none of public, internal '
                f'and admin'
            )
    for name in ('auth_url', 'storage_url'):
        if text := given[f'swift_{name}']:
            yield from _url_problems(f'swift-{name.replace("_", "-")}', text)
    bundle = given['swift_ca_bundle']
    if bundle and not insecure and surroundings.is_checked():
        yield from _bundle_problems(bundle)


def _url_problems(option: str, text: str) -> Iterator[str]:
    try:
        parts = urllib.parse.urlsplit(text)
        parts.port  # noqa: B018 - raises where it is not a number
    except ValueError as error:
        yield f'{option}: not a URL: {error}'
        return
    if parts.username is not None or parts.password is not None:
        # Not repeated: it may hold a password.
        yield f'{option}: must not hold a user or password'
    elif parts.scheme not in ('http', 'https') or not parts.hostname:
        yield f'{option} {text!r}: needs a scheme and a host, as https://example.com'
    elif parts.query or parts.fragment:
        yield f'{option} {text!r}: must have no query and no fragment'


def _bundle_problems(path: str) -> Iterator[str]:
    # Takes 5 ms to import, and few configurations need it.
    import ssl

    where = {'capath' if os.path.isdir(path) else 'cafile': path}
    try:
        ssl.create_default_context(**where)  # type: ignore[arg-type]
    except ssl.SSLError:
        yield f'swift-ca-bundle {path}: contains no PEM certificates'
    except OSError as error:
        yield f'swift-ca-bundle {path}: {error.strerror}'


def check_container(container: str) -> None:
    """:raises StorageConfigError: not ``container`` or ``container/prefix``"""
    if problem := unfit(container):
        raise StorageConfigError(f'container: {problem}: choose another name')
    name, *prefix = container.split('/')
    if not name or name in ('.', '..'):
        raise StorageConfigError(
            f'container {container!r}: {name!r} is not the name of a container; the '
            f'container of storage swift is container or container/prefix'
        )
    if len(name.encode()) > _MAX_CONTAINER:
        raise StorageConfigError(
            f'container {container!r}: its name has more than {_MAX_CONTAINER} bytes'
        )
    if any(part in ('', '.', '..') for part in prefix):
        raise StorageConfigError(
            f'container {container!r}: the prefix must not have empty parts, . or ..'
        )


def _place(container: str, options: Mapping[str, Any]) -> Hashable:
    if options['os_cloud']:
        account: Hashable = options['os_cloud']
    else:
        account = tuple(
            (options[f'swift_{name}'] or '').rstrip('/')
            for name in ('auth_url', 'project_name', 'project_id', 'storage_url')
        )
        if _kind(options) == V1:
            account = account, options['swift_username']
    return account, options['swift_region_name'], container.rstrip('/')


OPTIONS = PluginOptions(
    groups={None: MAIN_OPTS, 'swift': SWIFT_OPTS},
    environment=ENVIRONMENT,
    # A proxy sees what is sent to http, and with insecure all.
    secret_receivers=('swift_auth_url', 'swift_storage_url', 'proxy'),
    place=_place,
)
