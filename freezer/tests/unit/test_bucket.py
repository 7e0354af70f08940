"""The verbs of a bucket, on a client that answers as it is told."""

import collections
import io
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from freezer.storage import exceptions as e
from freezer.storage._s3.transport.bucket import Bucket
from freezer.storage._s3.transport.objects import TOKEN_KEY
from freezer.storage._s3.transport.requests import Requests
from freezer.storage.object_backups.upload import StreamUpload
from freezer.storage.object_backups.volumes import UploadPlan, VolumeWriter
from freezer.storage.objects import ObjectKind, Sent, UncertainComplete, Upload
from freezer.storage.retry import Retry
from freezer.tests.unit.clock import FakeClock

ENDPOINT = 'https://s3.example.com'
KEY = 'some/key'
TOKEN = 'our-token'
UPLOAD = Upload(KEY, 'our-upload')
LOST = ReadTimeoutError(endpoint_url=ENDPOINT)

Answer = Any


def refusal(code: str, status: int) -> ClientError:
    detail: Any = {
        'Error': {'Code': code, 'Message': ''},
        'ResponseMetadata': {'HTTPStatusCode': status, 'RequestId': 'r1'},
    }
    return ClientError(detail, 'Operation')


class Client:
    """Answers each operation with the next of its answers, the last one for ever.

    An exception is raised, a function called with the arguments.
    """

    def __init__(self, clock: FakeClock, **answers: list[Answer]) -> None:
        self.clock = clock
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any]]] = []
        members = {'IfNoneMatch': None}
        shape = types.SimpleNamespace(members=members)
        model = types.SimpleNamespace(
            operation_model=lambda _name: types.SimpleNamespace(input_shape=shape)
        )
        self.meta = types.SimpleNamespace(
            service_model=model,
            method_to_api_mapping=collections.defaultdict(str),
            region_name='us-east-1',
        )

    def __getattr__(self, operation: str) -> Callable[..., Answer]:
        def call(**arguments: Any) -> Answer:
            self.clock.now += 1
            self.calls.append((operation, dict(arguments)))
            answers = self.answers[operation]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer(**arguments) if callable(answer) else answer

        return call

    def arguments(self, operation: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.calls if name == operation]


def make(budget: float = 20, /, **answers: list[Answer]) -> tuple[Bucket, Client]:
    """A bucket with a retry budget of 20 calls, as each takes a second."""
    clock = FakeClock()
    client = Client(clock, **answers)
    retry = Retry(budget, clock, lambda: 0.0)
    return Bucket(Requests('bucket', ENDPOINT, client, retry)), client


class Body(io.BytesIO):
    """One that may break off with an error."""

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        super().__init__(content)
        self.error = error

    def read(self, size: int | None = -1, /) -> bytes:
        block = super().read(size)
        if not block and self.error is not None:
            raise self.error
        return block


# Complete


OURS = {'ContentLength': 100, 'ETag': '"e"', 'Metadata': {TOKEN_KEY: TOKEN}}
THEIRS = OURS | {'Metadata': {TOKEN_KEY: 'another'}}


def piece(first: int, content: bytes) -> Answer:
    """The answer to a range of an object of 100 bytes."""
    size = len(content)
    return {
        'ContentRange': f'bytes {first}-{first + size - 1}/100',
        'ContentLength': size,
        'ETag': '"e"',
        'Body': Body(content),
    }


def first_byte(**_arguments: Any) -> Answer:
    return piece(0, b'x')


def complete(bucket: Bucket) -> str | None:
    return bucket.complete(UPLOAD, [Sent('"1"', {}), Sent('"2"', {})], 100, TOKEN)


def test_complete() -> None:
    bucket, client = make(
        complete_multipart_upload=[{'ETag': '"not what the object has"'}],
        head_object=[OURS],
    )
    assert complete(bucket) == '"e"'
    (arguments,) = client.arguments('complete_multipart_upload')
    assert arguments['UploadId'] == 'our-upload'
    assert arguments['MultipartUpload'] == {
        'Parts': [{'PartNumber': 1, 'ETag': '"1"'}, {'PartNumber': 2, 'ETag': '"2"'}]
    }


@pytest.mark.parametrize(
    'answers',
    [
        [{}],
        [LOST],
        [refusal('InternalError', 500)],
        [refusal('InternalError', 200)],
        [LOST, refusal('NoSuchUpload', 404)],
        [refusal('NoSuchUpload', 404)],
    ],
    ids=['no ETag', 'lost', '500', '200 with error', 'gone afterwards', 'gone'],
)
@pytest.mark.parametrize('metadata', [TOKEN_KEY, 'Freezer-Token'])
def test_our_object_is_there_so_it_was_completed(
    answers: list[Answer], metadata: str
) -> None:
    bucket, _client = make(
        complete_multipart_upload=answers,
        head_object=[OURS | {'Metadata': {metadata: TOKEN}}],
        get_object=[first_byte],
    )
    assert complete(bucket) == '"e"'


def test_an_object_that_appears_late() -> None:
    bucket, client = make(
        complete_multipart_upload=[LOST, refusal('NoSuchUpload', 404)],
        head_object=[refusal('404', 404), OURS],
        get_object=[first_byte],
    )
    assert complete(bucket) == '"e"'
    assert len(client.arguments('complete_multipart_upload')) == 2


@pytest.mark.parametrize(
    'head',
    [THEIRS, OURS | {'ContentLength': 99}, OURS | {'Metadata': {}}],
    ids=['token', 'size', 'no token'],
)
def test_another_object_there_is_no_success(head: Answer) -> None:
    bucket, _client = make(
        complete_multipart_upload=[{}], head_object=[head], get_object=[first_byte]
    )
    with pytest.raises(UncertainComplete, match=r'our-upload was left as it is'):
        complete(bucket)


def test_an_object_that_cannot_be_read_is_no_success() -> None:
    """Ceph #60771: it lists, it has a HEAD, and no bytes."""
    bucket, _client = make(
        complete_multipart_upload=[{}],
        head_object=[OURS],
        get_object=[refusal('NoSuchKey', 404)],
    )
    with pytest.raises(UncertainComplete):
        complete(bucket)


def test_an_acknowledged_object_that_is_not_there_is_no_success() -> None:
    bucket, client = make(
        complete_multipart_upload=[{'ETag': '"e"'}], head_object=[refusal('404', 404)]
    )
    with pytest.raises(UncertainComplete):
        complete(bucket)
    assert len(client.arguments('complete_multipart_upload')) == 1


DENIED = refusal('403', 403)
# A whole answer of Ceph, which has no ETag.
WHOLE = {'Location': 'somewhere', 'Bucket': 'bucket', 'Key': KEY, 'ETag': ''}


@pytest.mark.parametrize(
    'answers, etag',
    [
        ([{'ETag': '"e"', 'Key': KEY}], '"e"'),
        ([WHOLE], None),
        ([WHOLE | {'Key': 'some%2Fkey'}], None),
        # Asked again, the store says that it is done.
        ([LOST, {'ETag': '"e"'}], '"e"'),
        ([LOST, WHOLE], None),
    ],
)
def test_keys_that_may_not_look_believe_a_whole_answer(
    answers: list[Answer], etag: str | None
) -> None:
    bucket, _client = make(
        complete_multipart_upload=answers, head_object=[DENIED], get_object=[DENIED]
    )
    assert complete(bucket) == etag


@pytest.mark.parametrize(
    'answers',
    [
        [LOST],
        [{}],
        [WHOLE | {'Key': 'another'}],
        [LOST, refusal('NoSuchUpload', 404)],
        [refusal('InternalError', 200)],
    ],
    ids=['lost', 'empty', 'of another key', 'gone afterwards', '200 with error'],
)
def test_keys_that_may_not_look_believe_nothing_else(answers: list[Answer]) -> None:
    bucket, _client = make(complete_multipart_upload=answers, head_object=[DENIED])
    with pytest.raises(UncertainComplete):
        complete(bucket)


@pytest.mark.parametrize('code', ['InvalidPart', 'EntityTooSmall', 'AccessDenied'])
def test_a_clear_no_is_certain(code: str) -> None:
    bucket, client = make(complete_multipart_upload=[refusal(code, 400)])
    with pytest.raises(e.StorageException) as caught:
        complete(bucket)
    assert not isinstance(caught.value, UncertainComplete)
    assert len(client.calls) == 1


def test_an_upload_that_is_gone_without_an_object_is_certain() -> None:
    bucket, _client = make(
        complete_multipart_upload=[refusal('NoSuchUpload', 404)],
        head_object=[refusal('404', 404)],
    )
    with pytest.raises(e.UploadNotFound):
        complete(bucket)


# Opening


def test_the_upload_whose_id_was_lost_is_aborted() -> None:
    uploads = [(KEY, 'lost'), (KEY, 'ours'), (KEY + '2', 'theirs')]
    bucket, client = make(
        create_multipart_upload=[LOST, {'UploadId': 'ours'}],
        list_multipart_uploads=[
            {'Bucket': 'b', 'Uploads': [{'Key': k, 'UploadId': u} for k, u in uploads]}
        ],
        abort_multipart_upload=[{}],
    )
    # The first answer of all may be lost too: the store is known to be there.
    assert bucket.create_upload(KEY, TOKEN) == Upload(KEY, 'ours')
    aborted = client.arguments('abort_multipart_upload')
    assert [(a['Key'], a['UploadId']) for a in aborted] == [(KEY, 'lost')]


def test_an_upload_without_loss_lists_nothing() -> None:
    bucket, client = make(create_multipart_upload=[{'UploadId': 'ours'}])
    bucket.create_upload(KEY, TOKEN)
    (arguments,) = client.arguments('create_multipart_upload')
    assert arguments['Metadata'] == {TOKEN_KEY: TOKEN}
    assert len(client.calls) == 1


def test_a_list_of_uploads_that_fails_fails_no_upload() -> None:
    bucket, _client = make(
        create_multipart_upload=[LOST, {'UploadId': 'ours'}],
        list_multipart_uploads=[refusal('AccessDenied', 403)],
    )
    assert bucket.create_upload(KEY, TOKEN).upload_id == 'ours'


@pytest.mark.parametrize('code', ['NoSuchUpload', 'NoSuchKey'])
def test_abort_of_what_is_gone(code: str) -> None:
    bucket, _client = make(abort_multipart_upload=[refusal(code, 404)])
    bucket.abort(UPLOAD)


@pytest.mark.parametrize('code', ['NoSuchUpload', None])
def test_no_uploads(code: str | None) -> None:
    answer: Answer = refusal(code, 404) if code else {'Bucket': 'b'}
    bucket, _client = make(list_multipart_uploads=[answer])
    assert list(bucket.list_uploads('some/')) == []


@pytest.mark.parametrize(('number', 'told'), [(1000, False), (1001, True)])
def test_a_part_beyond_the_limit(number: int, told: bool) -> None:
    bucket, _client = make(upload_part=[refusal('InvalidArgument', 400)])
    with pytest.raises(e.Rejected) as caught:
        bucket.upload_part(UPLOAD, number, b'x')
    advice = 'takes no more than 1000 parts of an object, set --s3-max-parts to that'
    assert (advice in caught.value.message) is told


# Listing


def page(*keys: str, **more: Any) -> dict[str, Any]:
    contents = [{'Key': key, 'Size': 1} for key in keys]
    return {'Name': 'bucket', 'IsTruncated': False, 'Contents': contents} | more


def test_pages() -> None:
    bucket, client = make(
        list_objects_v2=[
            page('p/1', 'p/2', IsTruncated=True, NextContinuationToken='t1'),
            page(IsTruncated=True, NextContinuationToken='t2'),
            page('p/3'),
        ]
    )
    assert [item.key for item in bucket.list('p/')] == ['p/1', 'p/2', 'p/3']
    tokens = [c.get('ContinuationToken') for c in client.arguments('list_objects_v2')]
    assert tokens == [None, 't1', 't2']


def _list_by_version_1(bucket: Bucket) -> list[Any]:
    bucket.requests.list_version = 1
    return list(bucket.list('p/'))


# What each kind of listing asks, what names its keys, and what is after them.
LISTINGS: dict[str, tuple[Callable[[Bucket], list[Any]], str, dict[str, Any]]] = {
    'list_objects_v2': (
        lambda bucket: list(bucket.list('p/')),
        'Contents',
        {'NextContinuationToken': 't'},
    ),
    'list_objects': (
        _list_by_version_1,
        'Contents',
        {'NextMarker': 'p/1'},
    ),
    'list_object_versions': (
        lambda bucket: list(bucket.list_versions('p/')),
        'DeleteMarkers',
        {'NextKeyMarker': 'p/1', 'NextVersionIdMarker': 'v'},
    ),
    'list_multipart_uploads': (
        lambda bucket: list(bucket.list_uploads('p/')),
        'Uploads',
        {'NextKeyMarker': 'p/1', 'NextUploadIdMarker': 'u'},
    ),
    'list_parts': (
        lambda bucket: [bucket.parts(UPLOAD)],
        'Parts',
        {'NextPartNumberMarker': 3},
    ),
}


@pytest.mark.parametrize('operation', LISTINGS)
@pytest.mark.parametrize(
    'answer, reason',
    [
        ({'Bucket': 'b', 'IsTruncated': True}, 'truncated'),
        ({}, 'not a listing'),
        ({'ResponseMetadata': {'HTTPStatusCode': 200}}, 'not a listing'),
    ],
    ids=['cut off', 'empty', 'none'],
)
def test_what_is_no_listing_is_not_an_empty_one(
    operation: str, answer: Answer, reason: str
) -> None:
    ask, _, _ = LISTINGS[operation]
    bucket, client = make(**{operation: [answer]})
    with pytest.raises(e.IncompleteAnswer, match=reason):
        ask(bucket)
    # A proxy in trouble may have said it: that passes.
    assert len(client.calls) > 1
    bucket, client = make(**{operation: [answer, {'Bucket': 'b'}]})
    ask(bucket)


@pytest.mark.parametrize('operation', sorted(LISTINGS.keys() - {'list_parts'}))
@pytest.mark.parametrize('common', [False, True])
def test_keys_that_were_not_asked_for(operation: str, common: bool) -> None:
    """An upload that is aborted by such a list might be anybody's."""
    ask, member, _ = LISTINGS[operation]
    item = {'Key': 'q/1', 'UploadId': 'u', 'VersionId': 'v', 'IsLatest': True}
    named = {'CommonPrefixes': [{'Prefix': 'q/'}]} if common else {member: [item]}
    bucket, client = make(**{operation: [{'Bucket': 'b', **named}]})
    with pytest.raises(e.Rejected, match='without the prefix'):
        ask(bucket)
    assert len(client.calls) == 1


@pytest.mark.parametrize('operation', LISTINGS)
def test_a_listing_that_turns_in_a_circle(operation: str) -> None:
    ask, _, after = LISTINGS[operation]
    bucket, _client = make(**{operation: [{'IsTruncated': True, **after}]})
    with pytest.raises(e.Rejected, match='same one again'):
        ask(bucket)


@pytest.mark.parametrize(
    'error, kind',
    [
        (refusal('AccessDenied', 403), e.AccessDenied),
        (refusal('NoSuchBucket', 404), e.BucketNotFound),
        (refusal('InternalError', 500), e.ServerError),
    ],
)
def test_a_page_that_fails_is_not_the_end(
    error: Exception, kind: type[Exception]
) -> None:
    first = page('p/1', IsTruncated=True, NextContinuationToken='t')
    bucket, _client = make(list_objects_v2=[first, error])
    with pytest.raises(kind):
        list(bucket.list('p/'))


def test_a_page_is_asked_for_again() -> None:
    first = page('p/1', IsTruncated=True, NextContinuationToken='t')
    bucket, _client = make(
        list_objects_v2=[first, refusal('SlowDown', 503), page('p/2')]
    )
    assert [item.key for item in bucket.list('p/')] == ['p/1', 'p/2']


def test_children() -> None:
    listing = page('p/', 'p/a', CommonPrefixes=[{'Prefix': 'p/b/'}])
    bucket, client = make(list_objects_v2=[listing])
    assert sorted(bucket.list_children('p/')) == ['a', 'b']
    assert client.arguments('list_objects_v2')[0]['Delimiter'] == '/'


# Deleting


def deleted(Delete: Any, **_arguments: Any) -> Answer:  # noqa: N803 - botocore's
    return {'Deleted': Delete['Objects'], 'Errors': []}


def test_batches_of_a_thousand_in_order() -> None:
    keys = [f'k{n}' for n in range(2500)]
    bucket, client = make(delete_objects=[deleted])
    bucket.delete(keys)
    batches = [
        [item['Key'] for item in call['Delete']['Objects']]
        for call in client.arguments('delete_objects')
    ]
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    assert [key for batch in batches for key in batch] == keys


def test_nothing_to_delete() -> None:
    bucket, client = make()
    bucket.delete([])
    assert client.calls == []


def test_what_could_not_be_deleted_is_named() -> None:
    answer = {
        'Deleted': [{'Key': 'a'}],
        'Errors': [{'Key': 'b', 'Code': 'AccessDenied', 'Message': 'locked'}],
    }
    bucket, _client = make(delete_objects=[answer])
    with pytest.raises(e.PartialDelete, match=r'1 of 2 .* b: AccessDenied locked'):
        bucket.delete(['a', 'b'])


def test_what_is_not_there_counts_as_deleted() -> None:
    answer = {'Deleted': [], 'Errors': [{'Key': k, 'Code': 'NoSuchKey'} for k in 'ab']}
    bucket, _client = make(delete_objects=[answer])
    bucket.delete(['a', 'b'])
    bucket, _client = make(delete_object=[refusal('NoSuchKey', 404)])
    bucket.delete(['a'])


def test_an_answer_that_leaves_keys_out_is_not_believed() -> None:
    bucket, _client = make(delete_objects=[{'Deleted': [{'Key': 'a'}]}])
    with pytest.raises(e.IncompleteAnswer):
        bucket.delete(['a', 'b'])


@pytest.mark.parametrize('code, status', [('NotImplemented', 501), ('BadRequest', 400)])
def test_one_by_one_where_batches_are_refused(code: str, status: int) -> None:
    bucket, client = make(delete_objects=[refusal(code, status)], delete_object=[{}])
    bucket.delete(['a', 'b'])
    bucket.delete(['c', 'd'])
    assert [call['Key'] for call in client.arguments('delete_object')] == [*'abcd']
    assert len(client.arguments('delete_objects')) == 1


def test_one_by_one_all_are_tried() -> None:
    def one(Key: str, **_arguments: Any) -> Answer:  # noqa: N803 - botocore's
        if Key == 'a':
            raise refusal('AccessDenied', 403)
        return {}

    bucket, client = make(
        delete_objects=[refusal('NotImplemented', 501)], delete_object=[one]
    )
    with pytest.raises(e.PartialDelete, match=r'1 of 3 .*first a: '):
        bucket.delete(['a', 'b', 'c'])
    assert len(client.arguments('delete_object')) == 3


# Ranges


CONTENT = bytes(range(100))


def ranged(broken: int | None = None, error: Exception | None = None) -> Any:
    """Answers a range, its body broken off after some bytes."""

    def answer(Range: str, **_arguments: Any) -> Answer:  # noqa: N803 - botocore's
        first, last = (int(n) for n in Range.removeprefix('bytes=').split('-'))
        content = CONTENT[first : last + 1]
        return piece(first, content) | {'Body': Body(content[:broken], error)}

    return answer


@pytest.mark.parametrize('error', [None, LOST, ConnectionResetError()], ids=repr)
def test_a_body_that_breaks_off_is_taken_up_there(error: Exception | None) -> None:
    bucket, client = make(get_object=[ranged(10, error), ranged(5, error), ranged()])
    assert bucket.get_range(KEY, 20, 60, '"e"') == CONTENT[20:60]
    calls = client.arguments('get_object')
    assert [call['Range'] for call in calls] == [f'bytes={n}-59' for n in (20, 30, 35)]
    assert {call['IfMatch'] for call in calls} == {'"e"'}


def test_the_last_byte_came_and_then_it_broke() -> None:
    bucket, client = make(get_object=[ranged(40, LOST)])
    assert bucket.get_range(KEY, 20, 60, '"e"') == CONTENT[20:60]
    assert len(client.calls) == 1


def whole(**_arguments: Any) -> Answer:
    """The Range was ignored."""
    return {'ContentLength': 100, 'ETag': '"e"', 'Body': Body(CONTENT)}


def elsewhere(**_arguments: Any) -> Answer:
    return piece(0, CONTENT[:40])


@pytest.mark.parametrize('answer', [whole, elsewhere])
def test_another_range_is_not_taken(answer: Answer) -> None:
    bucket, _client = make(get_object=[answer])
    with pytest.raises(e.IncompleteAnswer, match=r'asked .* for bytes 20-59'):
        bucket.get_range(KEY, 20, 60, '"e"')
    bucket, _client = make(get_object=[answer, ranged()])
    assert bucket.get_range(KEY, 20, 60, '"e"') == CONTENT[20:60]


@pytest.mark.parametrize('verb', ['get', 'head', 'get_range'])
def test_an_answer_without_a_length(verb: str) -> None:
    answer = {'ContentRange': 'bytes 0-9/100', 'Body': Body(CONTENT[:10])}
    bucket, client = make(get_object=[answer], head_object=[answer])
    arguments: tuple[Any, ...] = (0, 10, None) if verb == 'get_range' else ()
    with pytest.raises(e.IncompleteAnswer):
        getattr(bucket, verb)(KEY, *arguments)
    assert len(client.calls) > 1


def test_a_range_into_memory_that_is_there() -> None:
    bucket, _client = make(get_object=[ranged()])
    buffer = bytearray(b'x' * 50)
    view = bucket.get_range(KEY, 20, 60, '"e"', buffer=buffer)
    assert view.obj is buffer
    assert buffer == CONTENT[20:60] + b'x' * 10


def test_an_object_that_was_replaced() -> None:
    bucket, client = make(get_object=[refusal('PreconditionFailed', 412)])
    with pytest.raises(e.Conflict):
        bucket.get_range(KEY, 0, 10, '"e"')
    # A store that ignores If-Match says so by the ETag.
    bucket, client = make(get_object=[ranged()])
    with pytest.raises(e.Conflict):
        bucket.get_range(KEY, 0, 10, '"other"')
    assert len(client.calls) == 1


def test_an_object_that_is_too_short_is_not_asked_again() -> None:
    for answer in (piece(90, CONTENT[90:]), refusal('InvalidRange', 416)):
        bucket, client = make(get_object=[answer])
        with pytest.raises(e.IntegrityError, match=KEY):
            bucket.get_range(KEY, 90, 110, '"e"')
        assert len(client.calls) == 1


# Small objects


def test_get_has_a_limit() -> None:
    whole = [{'ContentLength': 5, 'Body': Body(b'12345')} for _ in range(2)]
    bucket, _client = make(get_object=whole)
    assert bucket.get(KEY, 5) == b'12345'
    with pytest.raises(e.IntegrityError, match=r'5 bytes where at most 4'):
        bucket.get(KEY, 4)


def test_get_that_breaks_off_begins_again() -> None:
    answers = [{'ContentLength': 5, 'Body': Body(b)} for b in (b'123', b'12345')]
    bucket, _client = make(get_object=answers)
    assert bucket.get(KEY) == b'12345'


def test_put_without_etag_is_put_again() -> None:
    bucket, client = make(put_object=[{}, {'ETag': '"e"'}])
    assert bucket.put(KEY, b'x', ObjectKind.VOLUME, TOKEN) == '"e"'
    assert client.arguments('put_object')[0]['Metadata'] == {TOKEN_KEY: TOKEN}


@pytest.mark.parametrize('found, ours', [(b'ours', True), (b'theirs', False)])
def test_put_if_absent_after_a_lost_answer(found: bytes, ours: bool) -> None:
    bucket, client = make(
        put_object=[LOST, refusal('PreconditionFailed', 412)],
        get_object=[{'ContentLength': len(found), 'Body': Body(found)}],
    )
    assert bucket.put_if_absent(KEY, b'ours', ObjectKind.TEMPORARY) is ours
    assert all(c['IfNoneMatch'] == '*' for c in client.arguments('put_object'))


def test_put_if_absent_after_a_lost_answer_by_keys_that_may_not_look() -> None:
    bucket, _client = make(
        put_object=[LOST, refusal('PreconditionFailed', 412)], get_object=[DENIED]
    )
    with pytest.raises(e.Conflict):
        bucket.put_if_absent(KEY, b'ours', ObjectKind.TEMPORARY)


def wants_digest(**arguments: Any) -> Answer:
    if 'ContentMD5' in arguments:
        return {'ETag': '"e"'}
    error = refusal('InvalidRequest', 400)
    error.response['Error']['Message'] = 'Content-MD5 OR x-amz-checksum- is required'
    raise error


def test_a_digest_that_is_asked_for_is_sent_from_then_on() -> None:
    bucket, client = make(put_object=[wants_digest], upload_part=[wants_digest])
    bucket.put(KEY, b'1', ObjectKind.VOLUME)
    bucket.put(KEY, b'2', ObjectKind.VOLUME)
    assert bucket.upload_part(UPLOAD, 1, b'3') == Sent('"e"', {})
    names = [name for name, _ in client.calls]
    assert names == ['put_object'] * 3 + ['upload_part']


def test_a_digest_is_not_asked_for_twice() -> None:
    error = refusal('InvalidRequest', 400)
    error.response['Error']['Message'] = 'Content-MD5 is what I do not like'
    bucket, client = make(put_object=[error])
    with pytest.raises(e.Rejected):
        bucket.put(KEY, b'1', ObjectKind.VOLUME)
    assert len(client.calls) == 2


def test_put_if_absent_that_was_refused_at_once() -> None:
    bucket, client = make(put_object=[refusal('PreconditionFailed', 412)])
    assert not bucket.put_if_absent(KEY, b'ours', ObjectKind.TEMPORARY)
    assert [name for name, _ in client.calls] == ['put_object']


def test_an_old_botocore_has_no_conditional_put() -> None:
    bucket, client = make()
    model = client.meta.service_model.operation_model('PutObject')
    model.input_shape.members.clear()
    with pytest.raises(e.Rejected):
        bucket.put_if_absent(KEY, b'ours', ObjectKind.TEMPORARY)
    assert client.calls == []


# The bucket


@pytest.mark.parametrize(
    'answer, there',
    [
        ({}, True),
        (refusal('404', 404), False),
        # HeadBucket needs a right that backups do not.
        (refusal('403', 403), True),
    ],
)
def test_exists(answer: Answer, there: bool) -> None:
    bucket, _client = make(head_bucket=[answer])
    assert bucket.exists() is there


@pytest.mark.parametrize('lost', [[], [LOST]], ids=['others', 'lost answer'])
@pytest.mark.parametrize('code', ['BucketAlreadyOwnedByYou', 'BucketAlreadyExists'])
def test_a_bucket_that_was_made_already(code: str, lost: list[Answer]) -> None:
    answers = [*lost, refusal(code, 409)]
    bucket, _client = make(create_bucket=answers, head_bucket=[{}])
    bucket.create()


# Budgets


def test_clean_ups_that_overlap_leave_the_budget_as_it_was() -> None:
    """The first to begin is the first to end."""
    first_began, second_began, first_ended = (threading.Event() for _ in range(3))

    def first_abort(**_arguments: Any) -> Answer:
        first_began.set()
        assert second_began.wait(10)
        return {}

    def second_abort(**_arguments: Any) -> Answer:
        second_began.set()
        assert first_ended.wait(10)
        return {}

    bucket, client = make(
        900,
        create_multipart_upload=[{'UploadId': 'id'}],
        upload_part=[refusal('AccessDenied', 403)],
        abort_multipart_upload=[first_abort, second_abort],
        put_object=[refusal('InternalError', 500)],
    )

    def fail() -> None:
        plan = UploadPlan(10, 10, 1)
        writer = VolumeWriter(bucket, plan, TOKEN, lambda _: None)
        with pytest.raises(e.AccessDenied):
            StreamUpload(writer, 'f').write([bytes(15)])

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fail)
        assert first_began.wait(10)
        second = pool.submit(fail)
        first.result()
        first_ended.set()
        second.result()
    start = client.clock.now
    with pytest.raises(e.ServerError):
        bucket.put(KEY, b'x', ObjectKind.VOLUME)
    assert client.clock.now - start > 800
