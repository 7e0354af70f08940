"""What a job may do on this machine: the group ``policy`` of scheduler.conf.

It bounds jobs that others than the machine's operator can write: the jobs of
freezer-api, and job files that another user can write to. The agent runs as the
scheduler's user, so without bounds anyone who controls freezer-api could run any
command and write any file.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freezer.common import plugins, usage
from freezer.common.opts import ACTIONS
from freezer.exceptions import ConfigError
from freezer.scheduler.documents import action as actions
from freezer.scheduler.documents.action import Action
from freezer.scheduler.documents.document import Document
from freezer.scheduler.options import ALL, NONE
from freezer.utils.human import shortened

#: options with the path of something that the agent writes; other paths are read
_WRITTEN = (
    *('restore_abs_path', 'metadata_out', 'metrics_file', 'mount_point'),
    'lvm_dirmount',
)
# Options by which the agent reads other paths than those that options name, and the
# values that do so; None: all values.
_READ_ELSEWHERE = {
    'dereference_symlink': ('soft', 'all'),
    'files_from': None,
    'files_from0': None,
}
_PATHS = (usage.PATH, usage.FILE, usage.DIRECTORY)
# URL, HOST, [USER@]HOST[:PORT]; not HOSTNAME, which is the name of a backup.
_SERVER_METAVAR = re.compile(r'\b(URL|URI|HOST)\b')
# Narrower than any parser: no two programs may find different hosts in one text.
_SERVER = re.compile(
    r'(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:[^@\\/?#\s]*@)?'
    r'(?:(?P<address>[^@\\/?#\s\[\]:]*:[^@\\/?#\s\[\]:]*:[^@\\/?#\s\[\]]*)'
    r'|\[(?P<bracketed>[^@\\/?#\s\[\]]+)\](?::\d+)?'
    r'|(?P<name>[^@\\/?#\s\[\]:]+)(?::\d+)?)'
    r'(?:/[^@\\\s]*)?\Z'
)
_STANDARD_OUTPUT = '-'
# So many reasons are named, and so many characters of each.
_NAMED, _LENGTH = 5, 300


@dataclass(frozen=True)
class Policy:
    """Empty collections mean what the help of their options says."""

    apply_to: str
    actions: Sequence[str]
    storages: Sequence[str]
    engines: Sequence[str]
    endpoints: Sequence[str]
    read_roots: Sequence[str]
    write_roots: Sequence[str]
    command: Sequence[str]
    refused_options: Sequence[str]

    def check(self) -> None:
        """:raises ConfigError: a value is malformed"""
        for name in self.actions:
            if name not in ACTIONS:
                raise ConfigError(
                    f'policy-actions: {name} is not one of {", ".join(ACTIONS)}'
                )
        for option, roots in (('read', self.read_roots), ('write', self.write_roots)):
            for root in roots:
                if not os.path.isabs(root):
                    raise ConfigError(
                        f'policy-{option}-roots: {root} is not an absolute path'
                    )
        known = actions.keys()
        for name in self.refused_options:
            if _key(name) not in known:
                raise ConfigError(
                    f'policy-refused-options: {name} is not an option of the agent'
                )

    def problem(self, document: Document) -> str:
        """Why a job is refused, in one line that has no secret; empty if it is not."""
        if self.apply_to == NONE or (document.trusted and self.apply_to != ALL):
            return ''
        found = [
            reason for action in document.actions for reason in self._problems(action)
        ]
        if not found:
            return ''
        more = '; …' if len(found) > _NAMED else ''
        return (
            'refused by [policy] of scheduler.conf: '
            + '; '.join(
                shortened(each, _LENGTH) for each in dict.fromkeys(found[:_NAMED])
            )
            + more
        )

    def _problems(self, action: Action) -> Iterator[str]:
        if self.actions and action.name not in self.actions:
            yield f'action {action.name} is not in actions'
        if action.name == 'copy' and not self._allows_copies():
            yield (
                'action copy can read backups of files outside of read_roots: name it '
                'in actions'
            )
        if action.name != 'exec' and action.performer not in self.engines:
            yield f'engine {action.performer} is not in engines'
        for kind in action.storage_kinds:
            if self.storages and kind not in self.storages:
                yield f'storage {kind} is not in storages'
        for options in (action.options, *action.storages.values()):
            for given, text in options.items():
                yield from self._of_option(given, text, options, action)

    def _allows_copies(self) -> bool:
        return 'copy' in self.actions or _is_below('/', self.read_roots)

    def _of_option(
        self, given: str, text: str, options: Mapping[str, str], action: Action
    ) -> Iterator[str]:
        option = actions.keys().option(given, text)
        if option is None:
            return
        name = _key(option.name)
        refused = {_key(each) for each in self.refused_options}
        _option, value = actions.keys().setting(given, text) or ('', False)
        if value is not False and refused & {given, name, option.dest}:
            yield f'{given} is in refused_options'
        if option.default not in (None, '') and text == option.default:
            # Dashboards write the defaults into each job.
            return
        if name in _READ_ELSEWHERE and not _is_below('/', self.read_roots):
            values = _READ_ELSEWHERE[name]
            if values is None or text in values:
                yield f'{given} can read outside of read_roots'
        bounded = bound(option)
        if name == 'container' and _may_be_local(options, action):
            bounded = 'write_roots'
        if not self.endpoints and _gets_secret(given, options, action):
            yield (
                f'{given}: a password or token of this machine may be sent to that '
                f'server: name it in endpoints'
            )
        for each in [text] if bounded == 'command' else text.split('\n'):
            if not self._allows(bounded, name, each):
                shown = action.without_secrets(each)
                yield _REASONS[bounded].format(given=given, shown=shown)

    def _allows(self, bounded: str, name: str, value: str) -> bool:
        if bounded == 'command':
            return value in self.command
        if bounded == 'endpoints':
            return not self.endpoints or self._allows_server(value)
        if bounded == 'write_roots':
            printed = name == 'metadata_out' and value == _STANDARD_OUTPUT
            return printed or _is_below(value, self.write_roots)
        return bounded != 'read_roots' or _is_below(value, self.read_roots)

    def _allows_server(self, given: str) -> bool:
        if given.rstrip('/') in {each.rstrip('/') for each in self.endpoints}:
            return True
        host = _host(given)
        return bool(host) and host in {
            _host(each) for each in self.endpoints if '/' not in each
        }


_REASONS = {
    'command': '{given}: the command {shown!r} is not a command of the policy',
    'endpoints': '{given}: {shown} is not in endpoints',
    'write_roots': '{given}: {shown} is not below write_roots',
    'read_roots': '{given}: {shown} is not below read_roots',
}


def bound(option: Any) -> str:
    """Which option of the policy bounds the values of an option of the agent; empty if
    none does.

    :param option: of oslo.config
    """
    kind = usage.metavar(option)
    if kind in usage.COMMANDS:
        return 'command'
    if _SERVER_METAVAR.search(kind):
        return 'endpoints'
    if _key(option.name) in _WRITTEN:
        return 'write_roots'
    return 'read_roots' if kind in _PATHS else ''


def _host(server: str) -> str:
    """The host of a URL, of user@host:port, or alone; empty if it is not certain."""
    found = _SERVER.match(server)
    if found is None:
        return ''
    host: str = found['address'] or found['bracketed'] or found['name']
    return host.lower()


def _key(name: str) -> str:
    return name.strip().replace('-', '_')


def _may_be_local(options: Mapping[str, str], action: Action) -> bool:
    """Whether a container may be a directory of this machine. If the job names no
    storage, the agent's configuration files do."""
    kinds: Sequence[str] = action.main_kinds
    if options is not action.options:
        kinds = [options.get('storage', '')]
    return not kinds or 'local' in kinds


def _gets_secret(given: str, options: Mapping[str, str], action: Action) -> bool:
    """Whether an option may name a server that gets a secret which the job does not
    have itself: of the environment, the agent's configuration files or clouds.yaml."""
    if options is not action.options and not options.get('os_cloud'):
        # A section [storage:NAME] has all that it uses.
        return False
    kinds = action.main_kinds
    return any(
        _key(given) in declared.secret_receivers
        for kind, declared in plugins.options(plugins.STORAGES).items()
        if not kinds or kind in kinds
    )


def _is_below(path: str, roots: Sequence[str]) -> bool:
    """Whether a path is, or is below, one of the roots; links are followed."""
    real = os.path.realpath(os.path.expanduser(path))
    return any(
        os.path.commonpath((real, os.path.realpath(root))) == os.path.realpath(root)
        for root in roots
    )
