"""Defects of Freezer 19 that must not come back, each shown with the real agent.

The numbers are those of the list of defects this agent was written against; "once" is
what Freezer 19 did. Others have tests in the catalogue of faults: 6 (a part that fails)
is 5, 15 and 18 there, 8 (a listing that fails) is 42, 15 (secrets) is 60, and 45 on S3
is 44.
"""

import os
import shlex
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from freezer.tests import servers, trees
from freezer.tests.agent import (
    HOST,
    Agent,
    LocalStore,
    S3Store,
    Store,
    assert_restores,
    in_parts,
    iso,
    job_file,
    missed,
    run,
    wrap_tar,
)
from freezer.tests.proxy import DENIED, Proxy, Request

DAY = 24 * 3600
HASTY = ('--s3-retry-budget', '1')


@pytest.mark.parametrize(
    'given', ['False', 'false', 'None', '', '0', '0.0', 'command line']
)
def test_d01_unset_retention_removes_nothing(
    local: Agent, source: Path, tmp_path: Path, given: str
) -> None:
    # Once: every backup of the name was removed, the new one included.
    local.backup(source).check()
    local.store.made_earlier(1000 * DAY, local.identity)
    options: list[object] = ['--remove-older-than', '0']
    if given != 'command line':
        values = {'remove_older_than': given, 'remove_before_date': 'None'}
        options = ['--config', job_file(tmp_path / 'job', {'action': values})]
    local.backup(source, *options).check()
    assert len(local.store.markers()) == 2
    local.run('admin', *options).error  # noqa: B018 - it asserts
    assert len(local.store.markers()) == 2


def test_d02_retention_keeps_the_chain_that_grows(
    agent: Agent, source: Path, tmp_path: Path
) -> None:
    # Once: the old level 0 went, and with it the increment just made on it.
    agent.increment(source).check()
    agent.store.made_earlier(10 * DAY, agent.identity)
    (source / 'new').write_text('new')
    made = agent.increment(source, '--remove-older-than', '5').check()
    assert made.document['curr_backup_level'] == 1
    assert len(agent.store.markers()) == 2
    assert_restores(agent, source, tmp_path / 'target')
    # A chain that is as old and has no part in it does go.
    agent.backup(source, '--remove-older-than', '5').check()
    agent.store.made_earlier(10 * DAY, agent.identity)
    agent.backup(source, '--remove-older-than', '5').check()
    assert len(agent.store.markers()) == 1


def test_d03_admin_keeps_new_increments_of_an_old_level_0(
    agent: Agent, source: Path
) -> None:
    first = agent.increment(source).check().document['time_stamp']
    second = agent.increment(source).check().document['time_stamp']
    assert first < second
    before = agent.store.files()
    agent.run('admin', '--remove-before-date', iso(first)).check()
    assert agent.store.files() == before
    agent.run('admin', '--remove-before-date', iso(second)).check()
    assert agent.store.files() == {}


def test_d04_always_level_restores_the_newest_of_its_duplicates(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    # Once: whichever came last in a listing, or only the level 0.
    dates = []
    for number in range(5):
        (source / 'file').write_text(f'run {number}')
        made = local.increment(source, '--always-level', '1').check().document
        assert made['curr_backup_level'] == min(number, 1)
        dates.append(made['time_stamp'])
    local.restore(tmp_path / 'newest').check()
    assert (tmp_path / 'newest' / 'file').read_text() == 'run 4'
    for number, date in enumerate(dates):
        target = tmp_path / f'target {number}'
        local.restore(target, '--restore-from-date', iso(date)).check()
        assert (target / 'file').read_text() == f'run {number}'


def test_d05_file_backup_to_s3_is_committed(agent: Agent, source: Path) -> None:
    # Once: TypeError when the metadata was to be written, and data left behind.
    stamp = agent.backup(source).check().document['time_stamp']
    level = f'tar/{agent.identity}/{stamp}/0_{stamp}'
    files = agent.store.files()
    assert b'"engine_name": "tar"' in files[f'metadata/{level}/metadata']
    assert files[f'data/{level}/engine_metadata'].startswith(b'GNU tar-')
    assert files[f'data/{level}/data']


def test_d06_segments_smaller_than_parts_may_be(
    agent: Agent, big: Path, tmp_path: Path
) -> None:
    made = agent.backup(big, '--compression', 'none', '-M', '1000')
    made.check()
    assert_restores(agent, big, tmp_path / 'target')


def test_d07_failure_with_more_to_come_does_not_hang(
    proxied: S3Store, proxy: Proxy, tmp_path: Path
) -> None:
    # Once: nobody emptied the queue any more, and tar was never waited for.
    endless = tmp_path / 'endless'
    endless.mkdir()
    with (endless / 'file').open('wb') as file:
        file.truncate(10 << 40)
    # Bytes without end, in place of ten tebibytes of holes.
    env = wrap_tar(tmp_path / 'bin', 'exec cat /dev/zero')
    proxy.answer(lambda request: request.part == 3, DENIED)
    agent = in_parts(Agent(proxied))
    agent.env.update(env)
    assert 'part 3' in agent.backup(endless).error
    assert proxied.is_untouched()


def test_d09_name_that_begins_another_name(
    store: S3Store, source: Path, tmp_path: Path
) -> None:
    # Once: "max() arg is an empty sequence".
    short, long = Agent(store, 'a'), Agent(store, 'ab')
    long.increment(source).check()
    for level in (0, 1):
        (source / 'file').write_text(f'level {level}')
        made = short.increment(source).check().document
        assert made['curr_backup_level'] == level
    (source / 'file').write_text('of the longer name')
    assert long.increment(source).check().document['curr_backup_level'] == 1
    short.restore(tmp_path / 'short').check()
    assert (tmp_path / 'short' / 'file').read_text() == 'level 1'


def test_d10_removal_spares_names_that_begin_alike(
    proxied: S3Store, proxy: Proxy, source: Path
) -> None:
    # Once: /h_a took /h_ab along, one DELETE at a time.
    Agent(proxied, 'ab').backup(source).check()
    other = proxied.files()
    short = Agent(proxied, 'a')
    date = short.backup(source).check().document['time_stamp']
    proxy.clear()
    short.run('admin', '--remove-before-date', iso(date)).check()
    assert proxied.files() == other
    batches = [r for r in proxy.requests if r.method == 'POST' and 'delete' in r.query]
    singly = [r for r in proxy.requests if r.method == 'DELETE']
    assert batches
    assert len(singly) < len(batches) + 2, singly


def test_d11_parts_travel_together_on_kept_connections(
    proxied: S3Store, proxy: Proxy, big: Path
) -> None:
    # Once: a new client for each request, and one part after the other.
    held = proxy.hold(lambda request: request.part == 1)
    # Never released unless the next part comes while the first is under way.
    proxy.before(lambda request: request.part == 2, held.release)
    in_parts(Agent(proxied)).backup(big).check()
    assert held.in_time
    connections = {request.connection for request in proxy.requests}
    parts = [request for request in proxy.requests if request.part]
    assert len(parts) == 5
    assert len(connections) < len(proxy.requests) / 2, proxy.requests


def test_d12_no_list_of_all_buckets_and_no_bucket_of_others(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    # Once: ListBuckets at every start, and an attempt to make what was not in it.
    proxy.answer(lambda request: request.path == '/', DENIED)
    proxy.answer(
        lambda request: (
            request.path.strip('/') == proxied.bucket
            and request.method in ('HEAD', 'PUT')
        ),
        DENIED,
    )
    agent = Agent(proxied)
    agent.backup(source).check()
    agent.restore(tmp_path / 'target').check()
    agent.run('info').check()

    def about_the_bucket(request: Request) -> bool:
        return request.path.strip('/') == proxied.bucket and request.method == 'PUT'

    assert not [r for r in proxy.requests if r.path == '/' or about_the_bucket(r)]


@pytest.mark.parametrize('prefix', ['', 'a/prefix'])
def test_d13_info_has_numbers(
    seaweedfs: servers.SeaweedFS, source: Path, prefix: str
) -> None:
    # Once: sizes and counts of 0, and with a prefix nothing at all.
    store = S3Store(seaweedfs, prefix=prefix)
    agent = Agent(store)
    agent.backup(source).check()
    sizes = store.sizes()
    found = agent.run('info', '--metadata-out', '-').check().document
    assert (found['size'], found['objects_count']) == (sum(sizes.values()), len(sizes))
    table = agent.run('info').check().out
    assert f' {sum(sizes.values())} ' in table
    assert f' {len(sizes)} ' in table


@pytest.mark.parametrize('kind', ['local', 's3'])
def test_d16_no_openstack_around(
    kind: str, store: S3Store, source: Path, tmp_path: Path
) -> None:
    # Once: without OS_AUTH_URL, or a Keystone that answers there, nothing ran.
    place: Store = store if kind == 's3' else LocalStore(tmp_path / 'store')
    bare: dict[str, str | None] = {
        name: None for name in os.environ if name not in ('PATH', 'HOME')
    }
    agent = Agent(place, env=bare | place.env)
    agent.backup(source).check()
    # Nobody is at home there.
    agent = agent.told(OS_AUTH_URL='http://127.0.0.1:9/v3', OS_USERNAME='nobody')
    agent.restore(tmp_path / 'target').check()
    agent.run('info').check()


def test_d17_member_that_fails_at_the_end_is_noticed(
    proxied: S3Store, proxy: Proxy, source: Path, tmp_path: Path
) -> None:
    # Once: if all the data fitted into its queue, it was listed there, without data.
    local = LocalStore(tmp_path / 'local')
    sections = {'storage:disk': local.section, 'storage:cloud': proxied.section}
    for order in (sections, dict(reversed(sections.items()))):
        job = job_file(tmp_path / 'job', order)
        proxy.clear()
        proxy.answer(lambda r: r.method == 'PUT' and r.path.endswith('/data'), DENIED)
        error = run(
            *('--config', job, '--hostname', HOST, '--path-to-backup', source)
        ).error
        assert '[storage:cloud]' in error
        assert 'the backup is complete on disk' in error
        assert proxied.is_untouched()
    assert len(local.markers()) == 2


ODD = [
    '$(touch pwned)',
    '`touch pwned`',
    ';touch pwned;',
    'two  spaces ',
    '-rf',
    '--checkpoint-action=exec=touch pwned',
    '''"quo'tes"''',
    'a|b>c&d',
    '*',
    '$HOME',
]


def test_d22_odd_names_in_a_tree(local: Agent, tmp_path: Path) -> None:
    source = tmp_path / 'source; touch pwned'
    source.mkdir()
    for name in ODD:
        (source / name).write_text(name)
        (source / f'd{name}').mkdir()
        (source / f'd{name}' / name).write_text(name)
    state = trees.describe(source)
    local.increment(source).check()
    local.increment(source).check()
    target = tmp_path / 'target $(touch pwned) "x"'
    assert_restores(local, state, target)


@pytest.mark.parametrize('name', ODD)
def test_d22_odd_name_of_a_single_file(local: Agent, tmp_path: Path, name: str) -> None:
    # Once: a shell ran the name, or nothing was archived, and the exit code was 0.
    folder = tmp_path / name
    folder.mkdir()
    (folder / name).write_text('content')
    before = set(os.listdir())
    local.backup(folder / name, '--exclude', '$(touch pwned)x').check()
    target = tmp_path / 'target' / name
    local.restore(target).check()
    assert os.listdir(target) == [name]
    assert (target / name).read_text() == 'content'
    assert set(os.listdir()) == before
    assert not list(tmp_path.rglob('pwned'))


def test_d23_file_that_grows_while_it_is_read(
    local: Agent, tmp_path: Path, source: Path
) -> None:
    # Once: tar's status of 1 failed the whole backup.
    log = source / 'log'
    log.write_bytes(b'x' * (32 << 20))
    stop = threading.Event()

    def grow() -> None:
        with log.open('ab', buffering=0) as file:
            while not stop.is_set():
                file.write(b'y' * 1000)
                time.sleep(0.0005)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        made = local.increment(source)
    finally:
        stop.set()
        writer.join()
    made.check()
    assert made.document['warnings'] >= 1
    assert 'file changed as we read it' in made.err
    local.restore(tmp_path / 'target').check()
    assert (tmp_path / 'target' / 'file').read_text() == 'content'
    grown = (tmp_path / 'target' / 'log').read_bytes()
    assert grown.startswith(b'x' * (32 << 20))
    # What was caught in the middle is whole in the next increment.
    local.increment(source).check()
    assert_restores(local, source, tmp_path / 'next')


def test_d23_file_that_vanishes_while_it_is_read(
    local: Agent, tmp_path: Path, source: Path
) -> None:
    gone = source / 'gone'
    gone.mkdir()
    (gone / 'file').write_text('')
    # tar has seen the directory, and comes to its files once the pipe has room.
    (source / 'a').write_bytes(os.urandom(4 << 20))
    script = (
        f'fifo={tmp_path}/fifo; mkfifo $fifo\n'
        '$TAR "$@" > $fifo & pid=$!\n'
        f'{{ head -c 1048576; rm -r {shlex.quote(str(gone))}; cat; }} < $fifo\n'
        'wait $pid'
    )
    agent = Agent(local.store, options=['--compression', 'none'])
    agent.env.update(wrap_tar(tmp_path / 'bin', script))
    made = agent.backup(source).check()
    assert not gone.exists()
    assert made.document['warnings'] >= 1
    assert 'gone' in made.err
    agent.env.clear()
    agent.restore(tmp_path / 'target').check()
    for name in ('a', 'file'):
        copy = tmp_path / 'target' / name
        assert copy.read_bytes() == (source / name).read_bytes()


def test_d25_checksum_whatever_the_order_of_a_directory(
    local: Agent, tmp_path: Path
) -> None:
    # Once: a good restore on another file system was called inconsistent.
    shared = Path('/dev/shm')
    if not shared.is_dir():
        pytest.skip('no tmpfs, which lists what is new first')
    names = [f'file{number}' for number in range(20)]
    checksums = []
    orders = []
    for number, order in enumerate((names, names[::-1])):
        folder = shared / f'{tmp_path.name}-{os.getpid()}-{number}'
        folder.mkdir()
        try:
            for name in order:
                (folder / name).write_text(name)
            orders.append(os.listdir(folder))
            made = local.backup(folder, '--consistency-check').check().document
            checksums.append(made['consistency_checksum'])
            target = folder / 'restored'
            local.restore(target, '--consistency-checksum', checksums[0]).check()
        finally:
            shutil.rmtree(folder)
    assert orders[0] != orders[1]
    assert checksums[0] == checksums[1] != ''


def test_d26_level_in_the_result(local: Agent, source: Path) -> None:
    # Once: always 0.
    for level in range(3):
        made = local.increment(source).check()
        assert made.document['curr_backup_level'] == level
    table = local.run('backup', '--path-to-backup', source, '--incremental').check().out
    (row,) = (line for line in table.splitlines() if 'curr backup level' in line)
    assert row.split('|')[2].strip() == '3'


@pytest.mark.parametrize('given', [False, True])
def test_d27_template_of_the_name_is_filled_in(
    given: bool, source: Path, tmp_path: Path
) -> None:
    # Once: only in the result; folders were called {mode} and {resource_id}.
    store = LocalStore(tmp_path / 'store')
    template = '{mode}-{resource_id}-{storage}' if given else None
    name = f'fs-{HOST}-local' if given else f'freezer_fs_{HOST}'
    options = ['--hostname', HOST, *(['--backup-name', template] if template else [])]
    made = run(*store.options, *options, '--path-to-backup', source).check()
    assert name in made.out
    (marker,) = store.markers()
    assert marker.split('/')[2] == f'{HOST}_{name}'
    restore = ('--action', 'restore', '--restore-abs-path', tmp_path / 'target')
    run(*store.options, *options, *restore).check()
    assert (tmp_path / 'target' / 'file').read_text() == 'content'


def test_d27_backup_under_the_name_as_it_was_is_found(
    source: Path, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / 'store')
    options = (*store.options, '--hostname', HOST)
    run(*options, '--path-to-backup', source).check()
    old = f'{HOST}_freezer_{{mode}}_{{resource_id}}'
    for kind in ('data', 'metadata'):
        folder = store.directory / kind / 'tar'
        (folder / f'{HOST}_freezer_fs_{HOST}').rename(folder / old)
    restore = ('--action', 'restore', '--restore-abs-path', tmp_path / 'target')
    run(*options, *restore).check()
    assert (tmp_path / 'target' / 'file').read_text() == 'content'
    # And retention comes to it as well.
    store.made_earlier(10 * DAY, old)
    run(*options, '--action', 'admin', '--remove-older-than', '5').check()
    assert store.markers() == []


def test_d28_command_line_beats_job_file(source: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / 'store')
    values = {'hostname': 'filed', 'compression': 'xz', 'container': '/nonexistent'}
    job = job_file(tmp_path / 'job', {'action': values})
    made = Agent(store, options=['--config', job, '--compression', 'bzip2'])
    document = made.backup(source).check().document
    assert document['hostname'] == HOST
    assert document['compression'] == 'bzip2'
    assert document['container'] == str(store.directory)


def test_d28_false_and_none_in_a_job_file_are_no_texts(
    local: Agent, source: Path, tmp_path: Path
) -> None:
    # Once: exclude=None left out files called False, hostname=False was a host's name.
    (source / 'False').write_text('')
    (source / 'None').write_text('')
    names = (
        *('exclude', 'encrypt_pass_file', 'snapshot', 'proxy', 'dereference_symlink'),
        *('max_priority', 'metadata_out', 'consistency_checksum', 'command'),
        *('upload_limit', 'restore_from_date', 'max_level', 'hostname'),
    )
    for number, text in enumerate(('False', 'None')):
        job = job_file(tmp_path / 'job', {'action': dict.fromkeys(names, text)})
        store = LocalStore(tmp_path / f'store {number}')
        options = (*store.options, '--backup-name', 'bk', '--config', job)
        run(*options, '--path-to-backup', source).check()
        (marker,) = store.markers()
        assert marker.split('/')[2] == f'{socket.gethostname()}_bk'
        target = tmp_path / f'target {number}'
        run(*options, '--action', 'restore', '--restore-abs-path', target).check()
        assert missed(trees.describe(source), target) == []


def test_d28_limits_in_a_job_file(local: Agent, source: Path, tmp_path: Path) -> None:
    values = {'upload_limit': '10000000', 'download_limit': '10M'}
    job = job_file(tmp_path / 'job', {'action': values})
    local.backup(source, '--config', job).check()
    assert_restores(local, source, tmp_path / 'target', '--config', job)


@pytest.mark.parametrize('damage', ['unreadable', 'gone', 'short', 'one bit'])
def test_d45_data_that_cannot_be_read_fails_the_restore(
    source: Path, tmp_path: Path, damage: str
) -> None:
    # Once: an OSError ended the stream, and only tar might have noticed.
    store = LocalStore(tmp_path / 'store')
    agent = Agent(store, options=['--compression', 'none'])
    agent.backup(source).check()
    (data,) = store.directory.glob('data/tar/*/*/*/data')
    content = data.read_bytes()
    data.unlink()
    if damage == 'unreadable':
        data.mkdir()
    elif damage == 'short':
        # All that tar would have missed is the end of the archive.
        data.write_bytes(content[:-512])
    elif damage == 'one bit':
        data.write_bytes(content.replace(b'content', b'contend'))
    assert str(data) in agent.restore(tmp_path / 'target').error
