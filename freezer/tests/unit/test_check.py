"""The loop of a check, and what its rows may say."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from freezer.common import opts
from freezer.storage import exceptions as e
from freezer.storage._s3.check import (
    connection,
    listings,
    objects,
    speed,
    uploads,
)
from freezer.storage._s3.transport import errors
from freezer.storage.check import (
    CheckReport,
    CheckRow,
    Finding,
    Probe,
    Result,
    note,
    ok,
    problem,
    try_out,
)
from freezer.storage.local import check as local_check


def raises(error: Exception) -> Callable[[object], Finding]:
    def run(_place: object) -> Finding:
        raise error

    return run


def tried(*some: Probe[object]) -> list[tuple[str, Result]]:
    return [(row.name, row.finding.result) for row in try_out(some, None)]


def test_a_row_for_each_probe_that_applies() -> None:
    place = object()
    given = []

    def run(where: object) -> Finding:
        given.append(where)
        return ok('seen')

    some = [Probe('a', run), Probe('b', lambda _: None), Probe('c', run)]
    assert [row.name for row in try_out(some, place)] == ['a', 'c']
    assert given == [place, place]


@pytest.mark.parametrize(
    'error',
    [
        e.Rejected('why'),
        e.ServerError('why'),
        e.IncompleteAnswer('why'),
        e.AccessDenied('why'),
        OSError(5, 'why'),
    ],
)
def test_an_error_of_what_is_needed_is_a_problem(error: Exception) -> None:
    needed, other = Probe('a', raises(error)), Probe('b', raises(error), needed=False)
    assert tried(needed, other) == [('a', Result.PROBLEM), ('b', Result.NOTE)]
    (row, _) = try_out([needed, other], None)
    assert 'why' in row.finding.message
    assert row.finding.value is None


def test_no_answer_is_the_end() -> None:
    """And a problem, whatever it was about."""
    lost = Probe('a', raises(e.Unreachable('no answer')), needed=False)
    assert tried(lost, Probe('b', lambda _: ok(''))) == [('a', Result.PROBLEM)]


def test_what_is_no_fault_of_the_storage_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        tried(Probe('a', raises(ZeroDivisionError()), needed=False))


def test_only_problems_are_problems() -> None:
    findings = ok('a'), note('b'), problem('c'), problem('d')
    rows = tuple(CheckRow(finding.message, finding) for finding in findings)
    assert [row.name for row in CheckReport('', rows).problems] == ['c', 'd']
    assert CheckReport('', rows[:2]).problems == []


MODULES = [connection, listings, objects, speed, uploads]


@pytest.mark.parametrize('module', [*MODULES, local_check])
def test_options_that_help_are_there(module: Any) -> None:
    there = {
        f'--{group}-{option.name}' if group else f'--{option.name}'
        for group, options in opts.list_opts()
        for option in options
    }
    named = set(re.findall(r'--[a-z0-9-]+', inspect.getsource(module)))
    assert named
    assert named <= there


def refusal(code: str, status: int) -> errors.Refusal | None:
    answer: Any = {
        'Error': {'Code': code, 'Message': 'AKSECRET is refused'},
        'ResponseMetadata': {'HTTPStatusCode': status},
    }
    return errors.refusal(ClientError(answer, 'Operation'))


@pytest.mark.parametrize(
    'code, status',
    [
        ('BadDigest', 400),
        ('InvalidArgument', 400),
        ('XAmzContentSHA256Mismatch', 400),
        ('AccessDenied', 403),
        ('NoSuchUpload', 404),
        ('MethodNotAllowed', 405),
        ('PreconditionFailed', 412),
        ('NotImplemented', 501),
        ('InvalidPart', 200),
        ('InvalidPart', 500),
    ],
)
def test_refusals(code: str, status: int) -> None:
    found = refusal(code, status)
    assert found == errors.Refusal(code, status)
    assert str(found) == f'{code}, HTTP {status}'


@pytest.mark.parametrize(
    'code, status',
    [
        ('InternalError', 500),
        ('InternalError', 200),
        ('BadGateway', 502),
        ('ServiceUnavailable', 503),
        ('SlowDown', 503),
        ('', 504),
        ('TooManyRequests', 429),
        ('RequestTimeout', 400),
        ('IncompleteBody', 400),
        ('', 408),
        ('499', 499),
        ('OperationAborted', 409),
        ('InvalidAccessKeyId', 403),
        ('SignatureDoesNotMatch', 403),
        ('RequestTimeTooSkewed', 403),
    ],
)
def test_what_may_be_granted_at_another_time(code: str, status: int) -> None:
    assert refusal(code, status) is None


def test_a_store_of_virtual_hosts_only() -> None:
    answer: Any = {
        'Error': {'Code': 'SecondLevelDomainForbidden'},
        'ResponseMetadata': {'HTTPStatusCode': 403},
    }
    error = errors.translate(ClientError(answer, 'Operation'), 'put', 'https://x')
    assert isinstance(error, e.Rejected)
    assert '--s3-addressing-style virtual' in error.message
