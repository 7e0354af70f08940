"""The policy for jobs that others can write."""

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from freezer.common import opts, upstream, usage
from freezer.exceptions import ConfigError
from freezer.scheduler import config
from freezer.scheduler.documents.document import Document, DocumentError, parse
from freezer.scheduler.policy import Policy, bound
from freezer.scheduler.sources import directory

BACKUP = {'action': 'backup', 'storage': 's3', 'path_to_backup': '/data/x'}
STRICT = (
    *(
        '--policy-actions',
        'backup,restore,exec,admin',
        '--policy-storages',
        's3,local,ssh',
    ),
    *('--policy-endpoints', 'https://s3.example.com:8443,proxy.example.com,::1'),
    *('--policy-read-roots', '/data,/etc/keys', '--policy-write-roots', '/restored'),
    *('--policy-command', '/usr/bin/check --all', '--policy-command', 'true'),
    *('--policy-refused-options', 'insecure,s3-profile'),
)


def policy(*options: str) -> Policy:
    return config.load(('start', *options), {}).policy


def job(*actions: dict[str, Any], in_api: bool = True) -> Document:
    document = {'job_actions': [{'freezer_action': each} for each in actions]}
    return parse('x.conf', json.dumps(document).encode(), 'x', in_api)


ALLOWED = [
    {},
    {'endpoint': 'https://s3.example.com:8443'},
    {'endpoint': 'https://s3.example.com:8443/'},
    {'endpoint': 'http://proxy.example.com:1234'},
    {'path_to_backup': '/data'},
    {'path_to_backup': '/data/a/../b'},
    {'encrypt_pass_file': '/etc/keys/one'},
    {'metadata_out': '-'},
    {'metrics_file': '/restored/metrics'},
    {'dereference_symlink': 'none'},
    {'action': 'restore', 'restore_abs_path': '/restored/a'},
    {'action': 'exec', 'command': 'true'},
    {'action': 'exec', 'command': '/usr/bin/check --all'},
    {'on_failure_command': 'true'},
    {'pre_command': ['/usr/bin/check', '--all']},
    {'storage': 'local', 'container': '/restored/box'},
    {'storage': None, 'storage:a': {'storage': 's3', 'container': 'bucket'}},
    {'insecure': 'false'},
    {'endpoint': 'https://PROXY.example.com/path'},
    {'proxy': 'http://user:word@proxy.example.com:3128'},
    {'ssh_host': 'proxy.example.com'},
    {'ssh_host': '::1'},
    {'endpoint': 'https://[::1]:8443'},
    {'ssh_jump_host': 'somebody@proxy.example.com:2222'},
    {'ssh_jump_host': '[::1]:22'},
    # Dashboards write it into each job.
    {'ssh_key': '~/.ssh/id_rsa'},
    {'storage': 'ssh', 'container': '/etc'},
]


@pytest.mark.parametrize('options', ALLOWED, ids=str)
def test_allowed(options: dict[str, Any]) -> None:
    assert policy(*STRICT).problem(job(BACKUP | options)) == ''


REFUSED = [
    ({'action': 'info'}, 'action info is not in actions'),
    ({'action': 'verify'}, 'action verify is not in actions'),
    ({'endpoint': 'https://evil.example'}, 'endpoint: https://evil.example is not in'),
    ({'endpoint': 'http://s3.example.com:8443'}, 'is not in endpoints'),
    ({'endpoint': 'https://s3.example.com:8443@evil.example'}, 'is not in endpoints'),
    ({'endpoint': 'https://proxy.example.com.evil.example'}, 'is not in endpoints'),
    ({'endpoint': 'https://proxy.example.com@evil.example'}, 'is not in endpoints'),
    ({'endpoint': 'evil.example/proxy.example.com'}, 'is not in endpoints'),
    ({'endpoint': 'https://evil.example\\@proxy.example.com'}, 'is not in endpoints'),
    ({'endpoint': 'https://evil.example#@proxy.example.com'}, 'is not in endpoints'),
    ({'endpoint': 'https://evil.example?@proxy.example.com'}, 'is not in endpoints'),
    ({'endpoint': 'https://[evil'}, 'is not in endpoints'),
    ({'endpoint': 'https://proxy.example.com:evil'}, 'is not in endpoints'),
    ({'endpoint': 'https:proxy.example.com'}, 'is not in endpoints'),
    ({'proxy': 'http://[::1'}, 'is not in endpoints'),
    ({'proxy': 'http://user:word@evil.example'}, 'is not in endpoints'),
    ({'ssh_host': 'evil.example'}, 'ssh_host: evil.example is not in endpoints'),
    ({'ftp_host': 'evil.example'}, 'ftp_host: evil.example is not in endpoints'),
    ({'storage': 'ftp', 'ftp_password_file': '/etc/shadow'}, 'not below read_roots'),
    ({'ssh_host': 's3.example.com'}, 'is not in endpoints'),
    ({'ssh_host': '::1%proxy.example.com'}, 'is not in endpoints'),
    ({'ssh_jump_host': 'evil.example'}, 'ssh_jump_host: evil.example is not in'),
    ({'ssh_jump_host': 'proxy.example.com@evil.example:22'}, 'is not in endpoints'),
    ({'ssh_key': '/root/key'}, 'ssh_key: /root/key is not below read_roots'),
    ({'ssh_known_hosts': '/root/hosts'}, 'is not below read_roots'),
    (
        {
            'storage': None,
            'storage:a': {
                'storage': 'ssh',
                'ssh-host': 'proxy.example.com',
                'ssh_jump_host': 'evil.example',
                'container': 'x',
            },
        },
        'ssh_jump_host: evil.example is not in endpoints',
    ),
    ({'proxy': 'http://evil.example:3128'}, 'proxy: http://evil.example:3128 is not'),
    ({'path_to_backup': '/'}, 'path_to_backup: / is not below read_roots'),
    ({'path_to_backup': '/etc'}, 'is not below read_roots'),
    ({'path_to_backup': '/data2'}, 'is not below read_roots'),
    ({'path_to_backup': '/data/../etc/shadow'}, 'is not below read_roots'),
    ({'path_to_backup': '/data//..//etc'}, 'is not below read_roots'),
    ({'path_to_backup': 'data'}, 'is not below read_roots'),
    ({'path_to_backup': '~/x'}, 'is not below read_roots'),
    (
        {'path_to_backup': ['/data/x', '/etc']},
        'path_to_backup: /etc is not below read_roots',
    ),
    ({'files_from': '/data/list'}, 'files_from can read outside of read_roots'),
    ({'files_from': '-'}, 'files_from can read outside of read_roots'),
    ({'files_from0': ['/data/list']}, 'files_from0 can read outside of read_roots'),
    (
        {'path_to_backup': None, 'src_file': '/etc'},
        'src_file: /etc is not below read_roots',
    ),
    ({'dereference_symlink': 'all'}, 'dereference_symlink can read outside'),
    ({'dereference_symlink': 'soft'}, 'dereference_symlink can read outside'),
    ({'encrypt_pass_file': '/root/pass'}, 'encrypt_pass_file: /root/pass is not'),
    ({'exclude_from': '/root/list'}, 'exclude_from: /root/list is not'),
    ({'s3_ca_bundle': '/tmp/evil.pem'}, 's3_ca_bundle: /tmp/evil.pem is not'),
    ({'metadata_out': '/etc/cron.d/x'}, 'is not below write_roots'),
    ({'metrics_file': '/etc/x'}, 'is not below write_roots'),
    ({'metrics_file': '/restored/../etc/x'}, 'is not below write_roots'),
    ({'action': 'restore', 'restore_abs_path': '/'}, 'is not below write_roots'),
    ({'action': 'restore', 'restore_abs_path': '/data'}, 'is not below write_roots'),
    ({'action': 'restore', 'restore_abs_path': '-'}, 'is not below write_roots'),
    ({'metrics_file': '-'}, 'is not below write_roots'),
    ({'mount_point': '/data/x'}, 'mount_point: /data/x is not below write_roots'),
    ({'engine': 'glance', 'path_to_backup': None}, 'engine glance is not in engines'),
    ({'engine_name': 'glance'}, 'engine glance is not in engines'),
    ({'mode': 'cinder'}, 'engine cinder is not in engines'),
    ({'engine': 'osbrick'}, 'engine cinder is not in engines'),
    ({'mode': 'nova'}, 'engine nova is not in engines'),
    ({'mode': 'cindernative'}, 'engine cindernative is not in engines'),
    ({'action': 'exec', 'command': 'id'}, "command: the command 'id' is not a command"),
    ({'action': 'exec', 'command': 'true | sh'}, 'is not a command of the policy'),
    ({'action': 'exec', 'command': 'true  '.strip() + ' x'}, 'is not a command'),
    ({'action': 'exec', 'command': '/usr/bin/check'}, 'is not a command'),
    ({'on_success_command': 'id'}, 'on_success_command: the command'),
    ({'on_failure_command': 'id'}, 'on_failure_command: the command'),
    ({'encrypt_pass_command': 'id'}, 'encrypt_pass_command: the command'),
    ({'pre_command': 'id'}, 'pre_command: the command'),
    ({'post_command': ['id', '-u']}, "post_command: the command 'id -u' is not"),
    ({'stream_command': 'id'}, 'stream_command: the command'),
    ({'stream_arguments': '--result-file=/x'}, 'stream_arguments: the command'),
    ({'restore_command': 'id'}, 'restore_command: the command'),
    ({'Stream-Command': ['id', '-u']}, "stream_command: the command 'id -u' is not"),
    ({'RESTORE-COMMAND': 'id'}, 'restore_command: the command'),
    ({'engine': 'stream', 'stream': 'pg_dump'}, 'engine stream is not in engines'),
    ({'storage': 'local', 'container': '/etc'}, 'container: /etc is not below write'),
    ({'storage': 'local', 'container': 'etc'}, 'is not below write_roots'),
    ({'storage': 'local', 'container': '-'}, 'is not below write_roots'),
    # Then the agent's configuration files name the storage.
    ({'storage': None, 'container': '/etc'}, 'is not below write_roots'),
    ({'storage': 'False', 'container': '/etc'}, 'is not below write_roots'),
    (
        {'storage': None, 'storage:a': {'storage': 'local', 'container': '/etc'}},
        'container: /etc is not below write_roots',
    ),
    (
        {'storage': None, 'storage:a': {'storage': 's3', 'endpoint': 'http://evil'}},
        'endpoint: http://evil is not in endpoints',
    ),
    ({'insecure': 'true'}, 'insecure is in refused_options'),
    ({'s3_profile': 'admin'}, 's3_profile is in refused_options'),
    ({'s3-profile': 'admin'}, 's3_profile is in refused_options'),
]


@pytest.mark.parametrize('options, reason', REFUSED, ids=str)
def test_refused(options: dict[str, Any], reason: str) -> None:
    found = policy(*STRICT).problem(job(BACKUP | options))
    assert reason in found
    assert found.startswith('refused by [policy] of scheduler.conf: ')
    # Also as the second action of a job.
    assert policy(*STRICT).problem(job(BACKUP, BACKUP | options)) == found


SWIFT = {'storage': 'swift', 'swift_username': 'u', 'swift_password': 'p'}
EVIL = 'https://evil.example/v3'
OFFSITE = {
    'copy_to': 'a',
    'storage:a': {'storage': 's3', 'container': 'box'},
}
TAKES_SECRETS = [
    {**SWIFT, 'swift_auth_url': EVIL},
    {'storage': 'swift', 'swift-storage-url': EVIL},
    {'storage': 'swift', 'proxy': 'http://evil.example'},
    # The agent's configuration files may set storage swift.
    {'storage': None, 'swift_auth_url': EVIL},
    {
        'storage': None,
        'storage:a': {'storage': 'swift', 'os_cloud': 'c', 'swift_storage_url': EVIL},
    },
    {'storage': 'ssh', 'ssh_host': 'evil.example'},
    {'storage': 'ssh', 'ssh-jump-host': 'evil.example'},
    {'storage': 'ftp', 'ftp_host': 'evil.example'},
    {'storage': 'ftps', 'ftp_host': 'evil.example'},
    {'storage': None, 'ftp_host': 'evil.example'},
    {'action': 'copy', 'storage': 'ssh', 'ssh_host': 'evil.example', **OFFSITE},
]


@pytest.mark.parametrize('options', TAKES_SECRETS, ids=str)
def test_no_secret_is_sent_to_a_server_of_the_job(options: dict[str, Any]) -> None:
    """Even if there is no policy: the environment may have OS_PASSWORD."""
    found = policy().problem(job(BACKUP | options))
    assert 'a password or token of this machine may be sent to that server' in found
    allowed = policy('--policy-endpoints', 'evil.example')
    assert allowed.problem(job(BACKUP | options)) == ''


@pytest.mark.parametrize(
    'options',
    [
        {'storage': 'swift'},
        {'proxy': 'http://proxy.example.com', 'endpoint': 'https://s3.example.com'},
        {'storage': None, 'storage:a': {**SWIFT, 'swift_auth_url': EVIL}},
        {'storage': None, 'storage:a': {'storage': 'ssh', 'ssh_host': 'far.example'}},
        # Main options of a copy, and its target.
        {'action': 'copy', 'container': 'bucket', 'ssh_host': 'x', **OFFSITE},
    ],
    ids=str,
)
def test_a_job_with_its_own_secrets(options: dict[str, Any]) -> None:
    assert policy().problem(job(BACKUP | options)) == ''


BOX = {'storage': 'local', 'container': '/restored/box'}
SSH = {'storage': 'ssh', 'ssh_host': 'proxy.example.com', 'container': '/backups'}


@pytest.mark.parametrize(
    'options, reason',
    [
        ({'container': 'bucket', 'storage:a': BOX}, ''),
        ({**BOX, 'storage:a': SSH}, ''),
        ({**SSH, 'storage:a': BOX}, ''),
        ({'storage': None, 'storage:a': BOX, 'storage:b': SSH}, ''),
        (
            {'container': 'bucket', 'storage:a': {**BOX, 'container': '/etc'}},
            'container: /etc is not below write_roots',
        ),
        (
            {'storage': 'local', 'container': '/etc', 'storage:a': SSH},
            'container: /etc is not below write_roots',
        ),
        (
            {'storage': None, 'storage:a': SSH, 'storage:b': BOX | {'container': '/'}},
            'container: / is not below write_roots',
        ),
        (
            {'storage': None, 'container': '/etc', 'storage:a': SSH},
            'container: /etc is not below write_roots',
        ),
        (
            {**BOX, 'storage:a': {**SSH, 'ssh_host': 'evil.example'}},
            'ssh_host: evil.example is not in endpoints',
        ),
        (
            {**SSH, 'ssh_host': 'evil.example', 'storage:a': BOX},
            'ssh_host: evil.example is not in endpoints',
        ),
        (
            {'storage:a': {'storage': 'ftp', 'container': 'x'}},
            'storage ftp is not in storages',
        ),
        ({'storage': 'ftp', 'storage:a': BOX}, 'storage ftp is not in storages'),
    ],
    ids=str,
)
def test_both_sides_of_a_copy(options: dict[str, Any], reason: str) -> None:
    copy = {'action': 'copy', 'storage': 's3', 'copy_to': 'a', **options}
    found = policy(STRICT[0], f'{STRICT[1]},copy', *STRICT[2:]).problem(job(copy))
    assert reason in found
    assert bool(found) == bool(reason)
    assert 'action copy is not in actions' in policy(*STRICT).problem(job(copy))


def test_a_copy_reads_all_that_was_backed_up() -> None:
    copy = job({'action': 'copy', 'storage': 's3', 'container': 'bucket', **OFFSITE})
    assert policy().problem(copy) == ''
    bounded = ('--policy-read-roots', '/data')
    found = policy(*bounded).problem(copy)
    assert 'action copy can read backups of files outside of read_roots' in found
    assert policy(*bounded, '--policy-actions', 'backup,copy').problem(copy) == ''


# Options that may look as if they named a file, a server or a command, or that choose
# what is read and written, and why the policy bounds their values no further.
UNBOUNDED = {
    'access-key': 'a key of S3',
    'secret-key': 'a key of S3',
    'host-key': 'a fingerprint; ssh-host is bounded',
    'exclude-if-present': 'a name below the source',
    'hostname': 'a part of the name of a backup',
    'stream-name': 'the name of a file below restore-abs-path',
    'copy-to': 'a section of the job, whose options are bounded',
    'container': 'bounded where it is a directory; elsewhere on the server',
    'storage': 'bounded by storages',
    'engine': 'bounded by engines',
    'os-cloud': "the operator's clouds.yaml; bounded by refused_options",
    'glance-image-name': 'of engine glance',
    'glance-restore-name': 'of engine glance',
    'cinder-vol-name': 'of engine cinder',
    'cinder-restore-name': 'of engine cinder',
    'cinder-restore-type': 'of engine cinder',
    'cinder-restore-az': 'of engine cinder',
    'nova-inst-name': 'of engine nova',
    'nova-restore-name': 'of engine nova',
    'nova-restore-flavor': 'of engine nova',
    'nova-restore-az': 'of engine nova',
    'nova-restore-network': 'of engine nova',
    'nova-leave-out': 'of engine nova',
    'cindernative-backup-container': 'of mode cindernative',
    'cindernative-restore-name': 'of mode cindernative',
    'mode': 'code that is installed; bounded by refused_options',
    'snapshot': 'code that is installed; bounded by refused_options',
    'lvm-snapname': 'a name of a new volume',
    'profile': "the operator's keys of S3; bounded by refused_options",
    'encrypt-pass-fd': 'refused in every job',
    'backup-name': 'a part of the name of a backup',
    'ssh-username': 'of ssh-host',
    'user-domain-name': 'of the login with Keystone; auth-url is bounded',
    'project-name': 'of the login with Keystone',
    'project-domain-name': 'of the login with Keystone',
    'application-credential-name': 'of the login with Keystone',
    'region-name': "of Keystone's catalog",
}
TELLING_METAVAR = re.compile(r'PATH|FILE|DIR|URL|HOST|COMMAND|SERVER|NAME|FD')
TELLING_NAME = re.compile(
    r'(^|-)(file|files|path|dir|directory|host|url|uri|endpoint|proxy|server|command|'
    r'key|keyfile|certfile|cert|ca|bundle|conf|config|cloud|container|storage|engine|'
    r'snapshot|profile|from|from0|out|point|fd)$'
)


def test_each_option_is_bounded() -> None:
    """A new option that names a file, a server or a command needs a bound, or a reason
    above."""
    known = set()
    for group, options in opts.every_option().items():
        for option in options:
            known.add(option.name)
            if option in upstream.OPTIONS:
                key = option.name.replace('-', '_')
                with pytest.raises(DocumentError, match='does not have this option'):
                    job(BACKUP | {key: 'value'})
                continue
            if isinstance(option.default, bool):
                continue
            telling = TELLING_METAVAR.search(usage.metavar(option)) or (
                TELLING_NAME.search(option.name)
            )
            if telling and option.name not in UNBOUNDED:
                assert bound(option), (group, option.name)
            assert not (bound(option) and option.name in UNBOUNDED), option.name
    assert known >= UNBOUNDED.keys()


@pytest.mark.parametrize(
    'options',
    [
        {'config': '/x'},
        {'config_file': '/x'},
        {'config-dir': '/x'},
        {'encrypt_pass_fd': 3},
        {'log_file': '/x'},
        {'log_config_append': '/x'},
        {'use_syslog': True},
        {'action': 'mount', 'mount_point': '/mnt'},
    ],
    ids=str,
)
def test_no_job_may_have_them(options: dict[str, Any]) -> None:
    for in_api in (True, False):
        with pytest.raises(DocumentError, match='not allowed'):
            job(BACKUP | options, in_api=in_api)


def test_no_value_hides_another() -> None:
    with pytest.raises(DocumentError, match='line break'):
        job(BACKUP | {'encrypt_pass_file': '/etc/keys/one\n'})
    with pytest.raises(DocumentError, match='must be text'):
        job(BACKUP | {'encrypt_pass_file': ['/etc/keys/one', '/etc/shadow']})


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/link').symlink_to('/etc')
    strict = policy('--policy-read-roots', str(tmp_path / 'data'))
    for path, ok in (('data/x', True), ('data/link', False), ('data/link/x', False)):
        found = strict.problem(job(BACKUP | {'path_to_backup': str(tmp_path / path)}))
        assert (found == '') == ok, path
    (tmp_path / 'to').symlink_to(tmp_path / 'data')
    assert not policy('--policy-read-roots', str(tmp_path / 'to')).problem(
        job(BACKUP | {'path_to_backup': str(tmp_path / 'data/x')})
    )


def test_the_default_is_strict_for_others() -> None:
    default = policy()
    for options in (
        {'action': 'exec', 'command': 'true'},
        {'action': 'restore', 'restore_abs_path': '/tmp/x'},
        {'on_success_command': 'true'},
        {'metadata_out': '/tmp/x'},
        {'storage': 'local', 'container': '/tmp/x'},
        {'mount_point': '/tmp/x'},
        {'engine': 'glance', 'path_to_backup': None},
    ):
        assert default.problem(job(BACKUP | options)), options
        assert not default.problem(job(BACKUP | options, in_api=False)), options
        assert policy('--policy-apply-to', 'all').problem(
            job(BACKUP | options, in_api=False)
        )
        assert not policy('--policy-apply-to', 'none').problem(job(BACKUP | options))
    for allowed in (
        {},
        {'action': 'info'},
        {'endpoint': 'http://x'},
        {'proxy': 'http://x'},
        {'ssh_host': 'x'},
        {'files_from': '/x'},
    ):
        assert not default.problem(job(BACKUP | allowed))


def test_no_secret_is_shown() -> None:
    found = policy(*STRICT).problem(
        job(
            BACKUP
            | {'secret_key': 'hidden', 'endpoint': 'http://hidden.example'}
            | {'on_failure_command': 'curl hidden'}
        )
    )
    assert 'hidden' not in found
    assert 'http://***.example' in found


def test_many_problems_are_one_line() -> None:
    actions = [BACKUP | {'path_to_backup': f'/etc/{n}'} for n in range(100)]
    found = policy(*STRICT).problem(job(*actions))
    assert found.endswith('; …')
    assert len(found) < 500


@pytest.mark.parametrize(
    'options, text',
    [
        (('--policy-actions', 'backup,restor'), 'policy-actions: restor is not one of'),
        (('--policy-read-roots', 'data'), 'policy-read-roots: data is not an absolute'),
        (('--policy-refused-options', 'insecur'), 'insecur is not an option'),
    ],
)
def test_a_malformed_policy(options: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        policy(*options)


def test_scheduler_conf() -> None:
    folder = Path.home() / '.freezer'
    folder.mkdir()
    (folder / 'scheduler.conf').write_text(
        '[policy]\napply_to = all\nread_roots = /data,/srv\n'
        'command = true\ncommand = sh -c "a, b"\n'
    )
    found = policy()
    assert found.apply_to == 'all'
    assert [*found.read_roots] == ['/data', '/srv']
    assert [*found.command] == ['true', 'sh -c "a, b"']


def test_files_that_others_can_write_are_not_trusted(tmp_path: Path) -> None:
    document = json.dumps({'job_actions': [{'freezer_action': BACKUP}]})
    folder = tmp_path / 'jobs'
    folder.mkdir()
    path = folder / 'a.conf'
    path.write_text(document)

    def trusted() -> bool:
        return directory.read(path).trusted

    assert trusted()
    path.chmod(0o664)
    assert not trusted()
    path.chmod(0o644)
    folder.chmod(0o775)
    assert not trusted()
    folder.chmod(0o755)
    assert trusted()
    # The place that a link leads to counts, too.
    other = tmp_path / 'other'
    other.mkdir(mode=0o755)
    path.rename(other / 'a.conf')
    path.symlink_to(other / 'a.conf')
    assert trusted()
    other.chmod(0o777)
    assert not trusted()
    other.chmod(0o755)
    # Anyone who can write to a directory above can exchange the one with the job.
    above = tmp_path / 'above'
    above.mkdir(mode=0o755)
    folder.rename(above / 'jobs')
    folder = above / 'jobs'
    assert directory.read(folder / 'a.conf').trusted
    above.chmod(0o777)
    assert not directory.read(folder / 'a.conf').trusted
    # But with the sticky bit, as /tmp has it, nobody can exchange what is ours.
    above.chmod(0o1777)
    assert directory.read(folder / 'a.conf').trusted
    above.chmod(0o755)
    path = folder / 'a.conf'
    # Each link on the way counts.
    first = tmp_path / 'first'
    first.mkdir(mode=0o755)
    path.unlink()
    path.symlink_to(first / 'b.conf')
    (first / 'b.conf').symlink_to(other / 'a.conf')
    assert trusted()
    first.chmod(0o777)
    assert not trusted()
    first.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(other / 'a.conf', 12345, 0)
        assert not trusted()
        os.chown(other / 'a.conf', 0, 0)
        os.chown(folder, 12345, 0)
        assert not trusted()


def test_a_cached_job_of_freezer_api_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / 'job_x.conf'
    path.write_text(json.dumps({'job_actions': [{'freezer_action': BACKUP}]}))
    assert not directory.read(path, in_api=True).trusted
    assert dataclasses.replace(directory.read(path), trusted=False) != directory.read(
        path
    )
