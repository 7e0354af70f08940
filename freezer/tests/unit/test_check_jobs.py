"""Checking the options of jobs, as the scheduler has the agent do it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freezer import check_jobs

KEYS = {'ACCESS_KEY': 'AK', 'SECRET_KEY': 'sk/secret', 'ENDPOINT': 'https://s3.test'}
LOCAL = {'storage': 'local', 'container': '/srv/backups'}
S3 = {'storage': 's3', 'container': 'backups/web1'}
SOURCE = {'path_to_backup': '/etc', 'backup_name': 'etc'}


def job(*parts: dict[str, Any], **options: Any) -> str:
    given: dict[str, Any] = {}
    for part in (*parts, options):
        given |= part
    return '[action]\n' + ''.join(f'{key} = {given[key]}\n' for key in given)


def check(*parts: dict[str, Any], **options: Any) -> str:
    found = check_jobs.check(job(*parts, **options), KEYS)
    assert not found.is_missing
    return found.error


@pytest.mark.parametrize(
    'options',
    [
        LOCAL | SOURCE,
        # None of these exists: an earlier action may make it.
        LOCAL | {'path_to_backup': '/none/here', 'encrypt_pass_file': '/none/pass'},
        S3 | SOURCE | {'incremental': 'true', 'max_level': '6', 's3_region': 'eu-1'},
        S3 | {'action': 'restore', 'restore_abs_path': '/etc'},
        S3 | {'action': 'verify'},
        S3 | {'action': 'admin', 's3_stale_after': '1d'},
        LOCAL | {'action': 'admin', 'remove_older_than': '30'},
        {'action': 'exec', 'command': 'sh -c "true && true"'},
        {'action': 'exec', 'command': 'false'},
        {'action': 'info', **LOCAL, 'metadata_out': '-'},
    ],
)
def test_a_job_that_can_run(options: dict[str, str]) -> None:
    assert check(options) == ''


@pytest.mark.parametrize(
    'options, text',
    [
        (SOURCE | {'container': '/c'}, 'no storage configured'),
        (SOURCE | LOCAL | {'storage': 'nfs'}, "'nfs' is not available"),
        (SOURCE | LOCAL | {'mode': 'sqlserver'}, "mode 'sqlserver' needs Windows"),
        (SOURCE | LOCAL | {'engine': 'zip'}, "engine 'zip' is not available"),
        (SOURCE | LOCAL | {'engine': 'rsyncv2'}, 'use --engine tar'),
        (LOCAL | {'action': 'find', 'include': 'x', 'engine': 'zfs'}, "'zfs' is not"),
        (LOCAL | {'action': 'restore', 'restore_abs_path': '/t', 'engine': 'x'}, "'x'"),
        (
            SOURCE | LOCAL | {'snapshot': 'lvm2'},
            "'lvm2' is not available; did you mean",
        ),
        (SOURCE | LOCAL | {'snapshot': 'vss'}, 'snapshot vss needs Windows'),
        (SOURCE | LOCAL | {'snapshot': '1', 'lvm_snapsize': 'big'}, 'neither a size'),
        (SOURCE | LOCAL | {'lvm_srcvol': 'vg0/srv'}, 'belongs to snapshot lvm'),
        (LOCAL | {'snapshot': 'auto'}, 'path-to-backup is required'),
        (SOURCE | LOCAL | {'max_level': '3'}, 'max-level needs --incremental'),
        (SOURCE | LOCAL | {'always_level': '1'}, 'always-level needs --incremental'),
        (LOCAL, 'path-to-backup is required'),
        (SOURCE | {'storage': 'local'}, 'storage local needs container'),
        (SOURCE | {'storage': 's3'}, 'storage s3 needs container'),
        (LOCAL | {'action': 'restore'}, 'restore-abs-path is required'),
        (LOCAL | {'action': 'exec'}, 'command is required'),
        (LOCAL | {'action': 'exec', 'command': 'False'}, 'command is required'),
        (LOCAL | {'action': 'admin'}, 'action admin needs'),
        (LOCAL | {'action': 'find'}, 'action find needs --include'),
        (LOCAL | {'action': 'diff'}, 'action diff needs --from-date'),
        (LOCAL | {'action': 'dump', 'include': 'a'}, 'omit --json and --metadata-out'),
        (SOURCE | LOCAL | {'include': '*.c'}, 'cannot be used with action backup'),
        (SOURCE | LOCAL | {'encryption': 'age'}, '--encryption needs a passphrase'),
        (SOURCE | LOCAL | {'remove_older_than': 'nan'}, 'not a number of days'),
        (SOURCE | LOCAL | {'restart_always_level': 'inf'}, 'not a number of days'),
        (SOURCE | LOCAL | {'hostname': '..'}, 'becomes part of a path'),
        (SOURCE | LOCAL | {'proxy': 'socks:x'}, 'must be a URL'),
        (SOURCE | S3 | {'s3_region': 'a b'}, 's3-region'),
        (SOURCE | S3 | {'s3_read_timeout': 'nan'}, 'not a number of seconds'),
        (SOURCE | S3 | {'endpoint': 's3.example.com'}, 'endpoint'),
        (SOURCE | S3 | {'container': '../x'}, 'container'),
        (SOURCE | S3 | {'s3_object_lock_days': '3'}, 'need each other'),
        (SOURCE | S3 | {'s3_tags': 'x'}, 'write name=value'),
        (SOURCE | S3 | {'s3_profile': 'p'}, 's3-profile cannot be combined'),
    ],
)
def test_a_job_that_cannot_run(options: dict[str, str], text: str) -> None:
    found = check(options)
    assert text in found
    assert '/dev/fd' not in found
    assert '\n' not in found


HTTPS = S3 | {'endpoint': 'https://s3.test'}


@pytest.mark.parametrize(
    'options, wrong',
    [
        (LOCAL | {'metadata_out': '/none/here/out'}, {'max_level': '3'}),
        (LOCAL | {'metadata_out': '/'}, {'hostname': '..'}),
        (LOCAL | {'metrics_file': '/none/x.prom'}, {'mode': 'x'}),
        (LOCAL | {'container': '{link}'}, {'engine': 'x'}),
        (LOCAL | {'container': '{link}/below'}, {'proxy': 'socks:x'}),
        (LOCAL | {'container': '{file}'}, {'encryption': 'age'}),
        (HTTPS | {'s3_ca_bundle': '/none/ca.pem'}, {'insecure': 'true'}),
        (HTTPS | {'s3_ca_bundle': '{file}'}, {'s3_region': 'a b'}),
        (HTTPS | {'s3_sse_customer_key_file': '/none/key'}, {'s3_sse': 'AES256'}),
        (HTTPS | {'s3_sse_customer_key_file': '{file}'}, {'insecure': 'true'}),
    ],
)
def test_files_that_an_earlier_action_makes(
    options: dict[str, str], wrong: dict[str, str], tmp_path: Path
) -> None:
    """They do not matter, while everything else does."""
    (tmp_path / 'link').symlink_to(tmp_path / 'not mounted')
    (tmp_path / 'file').touch()
    paths = {'link': tmp_path / 'link', 'file': tmp_path / 'file'}
    given = {key: value.format(**paths) for key, value in options.items()}
    assert check(given, SOURCE) == ''
    assert check(given, SOURCE, wrong) != ''


def test_sections_of_storages() -> None:
    near = '[storage:near]\nstorage = local\ncontainer = /a\n'
    far = '[storage:far]\nstorage = s3\ncontainer = b\nendpoint = https://s3.test\n'
    # A section gets nothing from the environment.
    found = check_jobs.check(job(SOURCE) + near + far, KEYS)
    assert found == (
        '[storage:far]: storage s3 needs access-key, secret-key in this section',
        False,
    )
    twice = near.replace('near', 'same')
    assert 'same container' in check_jobs.check(job(SOURCE) + near + twice, {}).error


@pytest.mark.parametrize('lacking', [[*KEYS], ['ENDPOINT'], ['SECRET_KEY']])
def test_what_the_environment_may_set_comes_last(lacking: list[str]) -> None:
    environ = {name: value for name, value in KEYS.items() if name not in lacking}
    found = check_jobs.check(job(S3, SOURCE), environ)
    assert found.is_missing
    for name in lacking:
        assert name in found.error
    for wrong in ({'s3_region': 'a b'}, {'max_level': '1'}, {'mode': 'x'}):
        assert not check_jobs.check(job(S3, SOURCE, wrong), environ).is_missing
    assert 'admin needs' in check_jobs.check(job(S3, action='admin'), environ).error


def test_as_a_process_it_writes_and_contacts_nothing(tmp_path: Path) -> None:
    texts = [job(S3, SOURCE, metrics_file=tmp_path / 'x.prom'), job(LOCAL)]
    network = ('unshare', '--map-root-user', '--net')
    done = subprocess.run(
        [*network, sys.executable, '-m', 'freezer.check_jobs'],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        cwd='/',
        env=KEYS | {'HOME': str(tmp_path), 'PYTHONPATH': ':'.join(sys.path)},
        check=True,
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {'error': '', 'is_missing': False}
    assert 'path-to-backup is required' in second['error']
    assert done.stderr == ''
    # The cache of entry points, which every command has.
    assert {path.name for path in tmp_path.iterdir()} <= {'.cache'}
