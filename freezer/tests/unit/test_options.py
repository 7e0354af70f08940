"""Every option, entry point and import."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from freezer.common import job_options, opts, plugins, upstream, usage
from freezer.engine.engine import Engine
from freezer.exceptions import ConfigError
from freezer.mode.mode import Mode
from freezer.snapshot.snapshot import Snapshot
from freezer.storage.base import Storage
from freezer.tests.commands import run_command
from freezer.utils.plugin_options import PluginOptions

SECRET_WORDS = ('key', 'password', 'secret', 'token')
# They may contain a password.
ADDRESSES = {'uri'}
# They name files, or a key that is not told.
NO_SECRETS = {
    'ssh-key',
    'host-key',
    'ftp-keyfile',
    'password-file',
    'sse-customer-key-file',
}
NO_SECRETS |= {'sse-kms-key-id'}


def declared() -> Iterator[Any]:
    for _group, options in opts.list_opts():
        yield from options


OPTIONS = [pytest.param(option, id=option.name) for option in declared()]
ALL_OPTIONS = [
    *OPTIONS,
    *(pytest.param(option, id=option.name) for option in upstream.OPTIONS),
]


@pytest.mark.parametrize('option', OPTIONS)
def test_options_have_help(option: Any) -> None:
    assert option.help
    assert option.help != argparse.SUPPRESS
    assert option.help.rstrip().endswith('.')


@pytest.mark.parametrize('option', ALL_OPTIONS)
def test_secrets_are_marked(option: Any) -> None:
    named = any(word in option.name for word in SECRET_WORDS)
    named = named or option.name in ADDRESSES
    assert option.secret == (named and option.name not in NO_SECRETS)


def test_no_option_is_declared_twice() -> None:
    for options in opts.every_option().values():
        names = [option.dest for option in options]
        assert len(names) == len(set(names))


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install plugins that declare the options of a group: (kind, name, options)."""

    def install(*declared: tuple[str, str, dict[str | None, list[Any]]]) -> None:
        def options(kind: str) -> dict[str, PluginOptions]:
            return {n: PluginOptions(groups) for k, n, groups in declared if k == kind}

        monkeypatch.setattr(plugins, 'options', options)
        for function in (opts._by_owner, opts.absent_options):
            function.cache_clear()

    yield install
    monkeypatch.undo()
    for function in (opts._by_owner, opts.absent_options):
        function.cache_clear()


def test_two_plugins_declare_an_option_alike(declare: Callable[..., None]) -> None:
    declare(
        (plugins.STORAGES, 'ssh', {None: [cfg.StrOpt('host', help='Where.')]}),
        (plugins.MODES, 'sql', {None: [cfg.StrOpt('host', help='Where.')]}),
    )
    conf = opts.parse_alone(['--host', 'h'])
    assert conf.host == 'h'
    assert usage.text(opts.help_usage()).count('--host ') == 1


@pytest.mark.parametrize(
    'option',
    [
        cfg.StrOpt('host', help='Who.'),
        cfg.StrOpt('name', short='o', help='Its short form is taken.'),
        cfg.StrOpt('x', dest='host', help='So is its place in settings.'),
    ],
)
def test_two_plugins_declare_an_option_differently(
    declare: Callable[..., None], option: Any
) -> None:
    host = cfg.StrOpt('host', short='o', help='Where.')
    declare(
        (plugins.STORAGES, 'ssh', {None: [host]}),
        (plugins.MODES, 'sql', {None: [option]}),
    )
    with pytest.raises(ConfigError, match='storage ssh and mode sql declare '):
        opts.declare()


def test_a_plugin_declares_an_option_of_the_agent(declare: Callable[..., None]) -> None:
    declare((plugins.STORAGES, 'ssh', {None: [cfg.StrOpt('container', help='x')]}))
    with pytest.raises(ConfigError, match='the agent and storage ssh declare'):
        opts.declare()
    declare((plugins.STORAGES, 'ssh', {None: [cfg.BoolOpt('debug', help='x')]}))
    with pytest.raises(ConfigError, match='option debug of oslo'):
        opts.declare()


@pytest.mark.parametrize('group, name', [(None, 'ftp-host'), ('ftp', 'host')])
def test_an_option_of_freezer_19_gives_way(
    declare: Callable[..., None], group: str | None, name: str
) -> None:
    declare((plugins.STORAGES, 'ftp', {group: [cfg.StrOpt(name, help='Where.')]}))
    conf = opts.parse_alone(['--ftp-host', 'h'])
    assert (conf.ftp.host if group else conf.ftp_host) == 'h'
    opts.refuse_unavailable(conf)
    assert '--ftp-host' in usage.text(opts.help_usage())
    assert job_options.keys_of(conf)['ftp_host'].group == group


@pytest.mark.parametrize(
    'namespace, contract, names',
    [
        (plugins.STORAGES, Storage, {'local', 's3'}),
        (plugins.ENGINES, Engine, {'tar'}),
        (plugins.MODES, Mode, {'fs'}),
        (plugins.SNAPSHOTS, Snapshot, {'btrfs', 'lvm'}),
    ],
)
def test_plugins_load(namespace: str, contract: type, names: set[str]) -> None:
    found = plugins.names(namespace)
    assert names <= set(found)
    for name in found:
        assert issubclass(plugins.load(namespace, 'x', name), contract)


def test_a_plugin_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"storage 'nfs' .*available: .*local.*s3"):
        plugins.load(plugins.STORAGES, 'storage', 'nfs')


def imported(code: str) -> tuple[set[str], str]:
    """What a new interpreter has imported after some code, and what it printed."""
    show = '; import sys as s; print(*s.modules, file=s.stderr)'
    ended = run_command(sys.executable, '-c', code + show, check=True)
    return set(ended.stderr.split()), ended.stdout


HEAVY = {'botocore', 'urllib3', 'cryptography', 'backports', 'zlib_ng', 'prettytable'}


@pytest.mark.parametrize('module', ['freezer.agent', 'freezer.main', 'freezer.job'])
def test_what_is_imported_without_being_used(module: str) -> None:
    modules, _ = imported(f'import {module}')
    assert module in modules
    assert not modules & HEAVY


@pytest.mark.parametrize('option', ['--version', '--help'])
def test_answers_import_no_wire(option: str) -> None:
    modules, said = imported(
        f'import freezer.main, contextlib\n'
        f'with contextlib.suppress(SystemExit):\n'
        f'    freezer.main.main([{option!r}])\n'
        f'pass'
    )
    assert 'freezer-agent' in said
    assert not modules & HEAVY


def agent(*argv: str) -> subprocess.CompletedProcess[str]:
    return run_command(sys.executable, '-m', 'freezer.main', *argv)


def test_help_names_every_option() -> None:
    ended = agent('--help')
    assert ended.returncode == 0
    for group, options in opts.list_opts():
        for option in options:
            name = f'--{group}-{option.name}' if group else f'--{option.name}'
            assert name in ended.stdout
    # What is not there yet is not promised.
    assert '--backup-id' not in ended.stdout


def test_no_argument_is_help_and_a_failure() -> None:
    ended = agent()
    assert ended.returncode == 1
    assert '--help' in ended.stdout


def test_unknown_arguments_exit_2_and_are_not_repeated(tmp_path: Path) -> None:
    ended = agent('--secret-kex', 'sk/secret', '--acces-key=sk/secret')
    assert ended.returncode == 2
    assert '--secret-kex' in ended.stderr
    assert 'sk/secret' not in ended.stdout + ended.stderr
