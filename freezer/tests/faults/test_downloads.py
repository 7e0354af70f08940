"""Faults 44 to 50: what happens to a backup on its way back, or at rest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from freezer.tests import trees
from freezer.tests.agent import PART, Agent, S3Store, in_parts, missed
from freezer.tests.faults.harness import (
    EVER,
    Broken,
    Cut,
    Fault,
    Flipped,
    faults,
    impatient,
    restores,
    unprotected,
)
from freezer.tests.proxy import Changed, Ending, Meanwhile, Proxy, Reply, Request

GET = 'GetObject'
DAMAGED = 'are not the bytes that were written'
UNCHECKED = (
    'from freezer.storage import manifest; manifest.check_piece = lambda *_: True'
)


@pytest.fixture
def agent(proxied: S3Store, big: Path) -> Agent:
    """With a backup of several parts, which come one after the other."""
    made = in_parts(Agent(proxied)).told('--s3-concurrency', '1')
    made.backup(big).check()
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / 'target'


def path_of(store: S3Store, name: str) -> str:
    (path,) = [path for path in store.sizes() if path.endswith(name)]
    return path


def refuses(agent: Agent, target: Path, *said: str) -> None:
    """A restore that fails, in one line; and a check of the data that does."""
    line = agent.restore(target).error
    for text in said:
        assert text in line, line


def is_found(agent: Agent, *said: str) -> None:
    """``verify`` finds it, and says so."""
    result = agent.run('verify', '--verify-data')
    assert result.code == 1, result
    for text in said:
        assert text in result.out + result.err, result


@pytest.mark.parametrize('ending', list(Ending), ids=lambda ending: ending.name)
def test_44_download_ends_early(
    agent: Agent, proxy: Proxy, big: Path, target: Path, ending: Ending
) -> None:
    """At the first byte, in the middle, before the last one: each in another range."""
    hasty = agent.told('--s3-read-timeout', '1')
    early = [
        Fault(GET, Cut(after, ending), first=number, key='/data')
        for number, after in ((1, 0), (3, PART // 2), (5, PART - 1))
    ]
    with faults(proxy, *early):
        restores(hasty, trees.describe(big), target)


def test_44_closed_before_any_answer(
    agent: Agent, proxy: Proxy, big: Path, target: Path
) -> None:
    with faults(proxy, Fault(GET, Broken(Ending.RESET), first=2, times=3)):
        restores(agent, trees.describe(big), target)


def test_44_always_ends_early(agent: Agent, proxy: Proxy, target: Path) -> None:
    """At the same place, again and again."""
    with faults(proxy, Fault(GET, Cut(1000), first=3, times=EVER, key='/data')):
        refuses(impatient(agent), target, '/data', proxy.endpoint, 'gave up after')


@pytest.mark.parametrize('after', [0, 1000])
def test_45_download_without_content_length(
    agent: Agent, proxy: Proxy, big: Path, target: Path, after: int
) -> None:
    early = Cut(after, told=False)
    with faults(proxy, Fault(GET, early, first=2, times=2, key='/data')):
        restores(agent, trees.describe(big), target)


def test_45_small_object_without_content_length(
    agent: Agent, proxy: Proxy, target: Path
) -> None:
    for key in ('/metadata', '/manifest', 'digests/00000000'):
        cut = Fault(GET, Cut(20, told=False), times=EVER, key=key)
        with faults(proxy, cut):
            refuses(impatient(agent), target, 'how long it is')
        assert not target.exists() or list(target.iterdir()) == []


def _whole(reply: Reply) -> Reply:
    """As from a store that knows no ranges."""
    headers = {n: v for n, v in reply.headers.items() if n != 'content-range'}
    return Reply(200, headers, reply.body)


def _another_range(reply: Reply) -> Reply:
    """Of the same length."""
    return reply.but(content_range=f'bytes 0-{PART - 1}/{5 * PART}')


@pytest.mark.parametrize('change', [_whole, _another_range])
def test_46_another_range_is_asked_again(
    agent: Agent,
    proxy: Proxy,
    big: Path,
    target: Path,
    change: Callable[[Reply], Reply],
) -> None:
    odd = Fault(GET, Changed(change), first=2, key='/data')
    with faults(proxy, odd):
        restores(agent, trees.describe(big), target)


def test_46_store_without_ranges(agent: Agent, proxy: Proxy, target: Path) -> None:
    odd = Fault(GET, Changed(_whole), first=2, times=EVER, key='/data')
    with faults(proxy, odd):
        refuses(impatient(agent), target, '/data')


def test_47_replaced_between_ranges(
    agent: Agent, proxy: Proxy, proxied: S3Store, target: Path
) -> None:
    path = path_of(proxied, '/data')

    def replace(_request: Request) -> None:
        content = bytearray(proxied.server.get(proxied.bucket, f'pre/fix/{path}'))
        content[3 * PART] ^= 1
        proxied.put(path, bytes(content))

    with faults(proxy, Fault(GET, Meanwhile(replace), first=3, key='/data')):
        refuses(agent, target, '/data', DAMAGED)


def test_47_replaced_by_the_same_content(
    agent: Agent, proxy: Proxy, proxied: S3Store, big: Path, target: Path
) -> None:
    """As when a bucket is copied: the bytes are right, and that is what counts."""
    path = path_of(proxied, '/data')

    def replace(_request: Request) -> None:
        proxied.put(path, proxied.server.get(proxied.bucket, f'pre/fix/{path}'))

    with faults(proxy, Fault(GET, Meanwhile(replace), first=3, key='/data')):
        restores(agent, trees.describe(big), target)


@pytest.mark.parametrize('at', [0, 2 * PART + 17, -1], ids=['first', 'middle', 'last'])
def test_48_flipped_at_rest(
    agent: Agent, proxied: S3Store, target: Path, at: int
) -> None:
    path = path_of(proxied, '/data')
    content = bytearray(proxied.files()[path])
    content[at] ^= 0x10
    proxied.put(path, bytes(content))
    refuses(agent, target, path, DAMAGED)
    is_found(agent, path)


def test_48_flipped_on_the_way(
    agent: Agent, proxy: Proxy, big: Path, target: Path
) -> None:
    """Fault 8 in the other direction: it is read again."""
    flip = Fault(GET, Flipped(1000, answer=True), first=2, key='/data')
    with faults(proxy, flip):
        restores(agent, trees.describe(big), target)


def test_48_no_digests(agent: Agent, proxied: S3Store, big: Path, target: Path) -> None:
    """The same without the protection: exit 0, and wrong bytes."""
    path = path_of(proxied, '/data')
    content = bytearray(proxied.files()[path])
    content[2 * PART] ^= 0x10
    proxied.put(path, bytes(content))
    unprotected(agent, UNCHECKED).restore(target).check()
    assert missed(trees.describe(big), target) != []


@pytest.mark.parametrize('what', ['/manifest', 'digests/00000000', '/metadata'])
def test_48_flipped_record(
    agent: Agent, proxied: S3Store, big: Path, target: Path, what: str
) -> None:
    """Every bit of them counts, or harms nothing."""
    (path,) = [
        path
        for path in proxied.sizes()
        if path.endswith(what) and not path.endswith('/engine_metadata')
    ]
    content = bytearray(proxied.files()[path])
    token = content.find(b'"manifest": "')
    # In a marker, a digit of the token; it does not become a quotation mark.
    content[token + 20 if what == '/metadata' else len(content) // 2] ^= 1
    proxied.put(path, bytes(content))
    refuses(agent, target, 'manifest' if what == '/metadata' else what.strip('/'))
    is_found(agent)


def test_48_flipped_engine_metadata(
    agent: Agent, proxied: S3Store, big: Path, target: Path
) -> None:
    """The data restores; an increment must not be built on it, as it says what has
    changed."""
    path = path_of(proxied, '/engine_metadata')
    content = bytearray(proxied.files()[path])
    # A digit of the time that files are compared with.
    content[content.index(b'\n') + 2] ^= 1
    proxied.put(path, bytes(content))
    is_found(agent, path)
    restores(agent, trees.describe(big), target)
    made = agent.increment(big).check()
    assert made.document['curr_backup_level'] == 0


@pytest.mark.parametrize('name', ['/data', '/manifest', 'digests/00000000'])
def test_49_missing_at_rest(
    agent: Agent, proxied: S3Store, target: Path, name: str
) -> None:
    path = path_of(proxied, name)
    proxied.delete(path)
    refuses(agent, target, path, 'missing')
    is_found(agent, path)


@pytest.mark.parametrize('left', [0, 1, PART, 4 * PART + 1])
def test_49_cut_off_at_rest(
    agent: Agent, proxied: S3Store, target: Path, left: int
) -> None:
    path = path_of(proxied, '/data')
    proxied.put(path, proxied.files()[path][:left])
    refuses(agent, target, path)
    is_found(agent, path)


def test_50_increment_missing(
    agent: Agent, proxied: S3Store, big: Path, target: Path
) -> None:
    for number in (1, 2):
        (big / f'more{number}').write_text('more')
        agent.increment(big).check()
    markers = proxied.markers()
    (middle,) = [path for path in markers if '/1_' in path]
    kept = proxied.files()[middle]
    proxied.delete(middle)
    refuses(agent, target, 'level 1', 'missing')
    assert not target.exists()
    proxied.put(middle, kept)
    restores(agent, trees.describe(big), target)
