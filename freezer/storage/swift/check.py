"""Action check of Swift."""

import contextlib
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from freezer.storage import exceptions as e
from freezer.storage import manifest
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    note,
    ok,
    problem,
    run_check,
    try_out,
)
from freezer.storage.claims import LISTING_DELAYS
from freezer.storage.object_backups.download import read_pieces
from freezer.storage.object_backups.upload import StreamUpload
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter
from freezer.storage.objects import ObjectKind
from freezer.storage.swift.container import Container
from freezer.utils import human

MIB = 2**20
CONTENT = bytes(range(256)) * 64
# How long a probe may repeat requests to a store that fails, in seconds.
_PROBE_SECONDS = 15.0
_SEGMENT = MIB
# From here on it is worth a note, in seconds.
_CLOCK_SECONDS = 60
_SLOW_SECONDS = 0.5


@dataclass
class Scratch:
    """:param folder: key that the check writes below, without a slash at its end"""

    container: Container
    folder: str
    plan: UploadPlan
    at_once: Callable[[int], int]
    made_container: bool = False
    wrote: bool = False

    def key(self, name: str) -> str:
        return f'{self.folder}/{name}'

    def put(self, name: str, body: bytes) -> str:
        return self.container.put(self.key(name), body, ObjectKind.TEMPORARY)


def check(
    path: str,
    scratch: Scratch,
    make_ready: Callable[[], None],
) -> CheckReport:
    """
    :param path: the container and its prefix
    :param make_ready: creates the container if it does not exist, as for a backup
    :raises StorageException: there is no login, or nothing can be written
    """
    scratch.container = scratch.container.within(_PROBE_SECONDS)
    return run_check(path, _rows(scratch, make_ready), lambda: _clean_up(scratch))


def _rows(scratch: Scratch, make_ready: Callable[[], None]) -> Iterator[CheckRow]:
    container = scratch.container
    # Known before it is made, so that an interruption now removes it too.
    scratch.made_container = not container.exists()
    yield CheckRow('connection', _connection(scratch))
    make_ready()
    created = 'did not exist: created, as a backup creates it, and removed again'
    yield CheckRow('container', ok(created if scratch.made_container else 'exists'))
    scratch.wrote = True
    scratch.put('small', CONTENT)
    yield CheckRow('write', ok('an object was written'))
    yield from try_out(PROBES, scratch)


def _connection(scratch: Scratch) -> Finding:
    account = urlsplit(scratch.container.requests.account())
    if account.scheme != 'https':
        return note('plain HTTP: traffic is not encrypted', 'an endpoint with https://')
    if not scratch.container.requests.checks_certificates:
        return note(
            'https, certificate not checked', '--swift-ca-bundle instead of --insecure'
        )
    return ok('https, certificate checked')


def _clock(scratch: Scratch) -> Finding:
    before = time.time()
    theirs = scratch.container.store_time()
    after = time.time()
    # A Date is cut off to the second.
    offset = theirs + 0.5 - (before + after) / 2
    value = round(offset, 1)
    if abs(offset) < 1 + (after - before):
        return ok('that of this machine', value)
    side = 'ahead of' if offset > 0 else 'behind'
    message = f'{abs(offset):.0f} s {side} this machine'
    if abs(offset) < _CLOCK_SECONDS:
        return ok(message, value)
    return note(message, "set this machine's clock: backups are named by it", value)


def _read(scratch: Scratch) -> Finding:
    if scratch.container.get(scratch.key('small')) != CONTENT:
        return problem('other bytes came back')
    return ok('the same bytes came back')


def _list(scratch: Scratch) -> Finding:
    key = scratch.key('small')
    for waited in LISTING_DELAYS:
        time.sleep(waited)
        found = {item.key: item.size for item in scratch.container.list(key)}
        if found == {key: len(CONTENT)}:
            if waited:
                return note(f'the written object was listed after {waited} s')
            return ok('the written object is listed')
    return problem(f'the listing has {found or "nothing"}')


def _range(scratch: Scratch) -> Finding:
    key = scratch.key('small')
    for start, end in ((0, 1), (300, 5000), (len(CONTENT) - 1, len(CONTENT))):
        found = scratch.container.get_range(key, start, end, None)
        if found != CONTENT[start:end]:
            return problem(f'bytes {start} to {end - 1} are wrong')
    return ok('the requested bytes')


def _exclusive(scratch: Scratch) -> Finding:
    """Only one of two agents may claim a folder."""
    key, put = scratch.key('claim'), scratch.container.put_if_absent
    first = put(key, b'one', ObjectKind.TEMPORARY)
    if first and not put(key, b'two', ObjectKind.TEMPORARY):
        return ok('an object can be written only if it does not exist')
    return note('If-None-Match is ignored: claims are compared in a listing')


def _segments(scratch: Scratch) -> Finding:
    """An object of segments, as this agent and Freezer 19 read it."""
    content = os.urandom(_SEGMENT * 2 + 1)
    plan = UploadPlan(_SEGMENT, scratch.plan.parts_per_volume, 2)
    writer = VolumeWriter(
        scratch.container, plan, secrets.token_hex(16), lambda _: None
    )
    StreamUpload(writer, scratch.key('segmented')).write([content])
    key = scratch.key('segmented/data')
    if scratch.container.get_range(key, 0, len(content), None) != content:
        return problem('other bytes came back')
    if scratch.container.get(key) != content:
        return note(
            'Swift does not put segments together (middleware dlo): Freezer 19 could '
            'not restore backups from here'
        )
    return ok('segments are one object')


def _delete(scratch: Scratch) -> Finding:
    scratch.put('deleted', b'x')
    scratch.container.delete([scratch.key('deleted')])
    if scratch.container.has(scratch.key('deleted')):
        return problem('the store reported it deleted, but it still exists')
    return ok('deleted')


def _odd_names(scratch: Scratch) -> Finding:
    name = 'a b+c%2F&=?#ü"<>\'\\~'
    scratch.put(name, CONTENT)
    if scratch.container.get(scratch.key(name)) != CONTENT:
        return problem('other bytes came back')
    listed = [item.key for item in scratch.container.list(scratch.key('a b'))]
    if listed != [scratch.key(name)]:
        return note(f'listed as {listed}', 'backup names of letters and digits')
    return ok('kept')


def _round_trip(scratch: Scratch) -> Finding:
    times = []
    for _ in range(9):
        started = time.perf_counter()
        scratch.container.has(scratch.key('small'))
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    message = f'{seconds * 1000:.1f} ms'
    if seconds > _SLOW_SECONDS:
        hint = f'more than {scratch.plan.concurrency} with --swift-concurrency'
        return note(message, hint, seconds)
    return ok(message, seconds)


def _speed(scratch: Scratch) -> Finding:
    size = min(scratch.plan.part_size, 16 * MIB)
    plan = UploadPlan(size, scratch.plan.parts_per_volume, scratch.at_once(size))
    noise, count = os.urandom(size), 4
    writer = VolumeWriter(
        scratch.container, plan, secrets.token_hex(16), lambda _: None
    )
    started = time.perf_counter()
    stream = StreamUpload(writer, scratch.key('speed')).write([noise] * count)
    written = time.perf_counter()
    (volume,) = stream.volumes
    pieces = volume.pieces(
        scratch.container.get(scratch.key(f'speed/{volume.digests}'))
    )
    key = scratch.key(f'speed/{volume.name}')
    reads = read_pieces(scratch.container, key, volume.etag, pieces, scratch.at_once)
    received = sum(len(block) for block in manifest.unwrap(reads))
    read = time.perf_counter()
    if received != size * count:
        return problem(f'{received} bytes came back, not {size * count}')
    up, down = received / (written - started), received / (read - written)
    return ok(f'{human.size(up)}/s written, {human.size(down)}/s read', up)


#: these need the object that was written first
PROBES = (
    Probe('clock', _clock, needed=False),
    Probe('read', _read),
    Probe('list', _list),
    Probe('range', _range),
    Probe('exclusive', _exclusive, needed=False),
    Probe('segments', _segments),
    Probe('delete', _delete),
    Probe('odd names', _odd_names, needed=False),
    Probe('round trip', _round_trip, needed=False),
    Probe('speed', _speed, needed=False),
)


def _clean_up(scratch: Scratch) -> Finding:
    """Remove everything; may be called again."""
    container = scratch.container.cleaning_up()
    where = container.url(scratch.folder)
    try:
        if scratch.wrote:
            for delay in LISTING_DELAYS:
                time.sleep(delay)
                found = [item.key for item in container.list(f'{scratch.folder}/')]
                if not found:
                    break
                container.delete(found)
            else:
                return problem(f'objects are still listed below {where}')
        if scratch.made_container:
            # Another agent may have begun to use it, or it was never made.
            with contextlib.suppress(e.NotFound, e.ServerError):
                container.remove()
    except e.StorageException as error:
        return problem(f'something may remain below {where}: {error.message}')
    return ok('nothing remains')
