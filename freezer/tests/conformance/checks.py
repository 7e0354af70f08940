"""Making checks, and reading what they found."""

from typing import Any

from freezer.storage.check import CheckReport, Finding
from freezer.tests import servers
from freezer.tests.conformance.places import S3Place


def row(report: CheckReport, name: str) -> Finding:
    (found,) = (row.finding for row in report.rows if row.name == name)
    return found


def names(report: CheckReport) -> list[str]:
    return [row.name for row in report.rows]


def problems(report: CheckReport) -> list[tuple[str, str]]:
    return [(row.name, row.finding.message) for row in report.problems]


def check(place: S3Place, **options: Any) -> CheckReport:
    storage = place.storage(**options)
    try:
        return storage.check()
    finally:
        storage.close()


def buckets(server: servers.Server) -> list[str]:
    return [bucket['Name'] for bucket in server.client().list_buckets()['Buckets']]


def asks_conditional_writes(client: Any) -> bool:
    """Whether this botocore can: since 1.35."""
    model = client.meta.service_model.operation_model('PutObject')
    return 'IfNoneMatch' in model.input_shape.members
