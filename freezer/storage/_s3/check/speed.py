"""Probes that measure."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from freezer.storage import manifest
from freezer.storage._s3.check.scratch import ScratchPrefix
from freezer.storage._s3.options import S3Options
from freezer.storage.check import Finding, note, ok, problem
from freezer.storage.object_backups.download import read_pieces
from freezer.storage.object_backups.upload import StreamUpload
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter

MIB = 2**20
# Throughput is measured with parts of at most so many bytes.
_LARGEST_PART = 32 * MIB
_ROUND_TRIPS = 9
# From here on a round trip is worth a note, in seconds.
_SLOW_SECONDS = 0.5


def round_trip(scratch: ScratchPrefix) -> Finding:
    key = scratch.key('small')
    seconds = statistics.median(
        _seconds(partial(scratch.bucket.head, key)) for _ in range(_ROUND_TRIPS)
    )
    message = f'{seconds * 1000:.1f} ms'
    if seconds > _SLOW_SECONDS:
        hint = f'more than {scratch.plan.concurrency} with --s3-concurrency'
        return note(message, hint, seconds)
    return ok(message, seconds)


def upload_speed(scratch: ScratchPrefix) -> Finding:
    plan = replace(scratch.plan, part_size=min(scratch.plan.part_size, _LARGEST_PART))
    count = min(max(plan.concurrency, 2), S3Options().at_once(plan.part_size))
    noise = os.urandom(plan.part_size - 1)

    def parts() -> Iterator[bytes]:
        for number in range(count):
            yield bytes([number])
            yield noise

    def send() -> None:
        opened = scratch.uploads.append
        writer = VolumeWriter(scratch.bucket, plan, scratch.token, opened)
        scratch.stream = StreamUpload(writer, scratch.key('stream')).write(parts())
        scratch.uploads.clear()

    return _speed(_seconds(send), count * plan.part_size, plan)


def download_speed(scratch: ScratchPrefix) -> Finding:
    stream = scratch.stream
    if stream is None:
        return note('not tried: there was no upload', value=None)
    size = 0

    def fetch() -> None:
        nonlocal size
        bucket, at_once = scratch.bucket, scratch.options.at_once
        for volume in stream.volumes:
            pieces = volume.pieces(scratch.get(f'stream/{volume.digests}'))
            key = scratch.key(f'stream/{volume.name}')
            reads = read_pieces(bucket, key, volume.etag, pieces, at_once)
            size += sum(len(block) for block in manifest.unwrap(reads))

    seconds = _seconds(fetch)
    if size != stream.size:
        return problem(f'{size} bytes came back, not {stream.size}')
    return _speed(seconds, size, scratch.plan)


def _speed(seconds: float, size: int, plan: UploadPlan) -> Finding:
    rate = size / seconds
    return ok(
        f'{rate / MIB:.1f} MiB/s: {size / MIB:.0f} MiB, {plan.concurrency} at once',
        round(rate),
    )


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
