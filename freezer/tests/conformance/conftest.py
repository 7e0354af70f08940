"""A server, a way to it, and a place on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from freezer.storage._s3.bucket import Bucket
from freezer.tests import servers
from freezer.tests.conformance.places import S3Place, new_s3_place
from freezer.tests.conformance.variants import VARIANTS, Variant, Way
from freezer.tests.conftest import SERVERS


@pytest.fixture(scope='session', params=SERVERS)
def s3_server(request: pytest.FixtureRequest) -> servers.Server | None:
    """Each server in turn, or None for a storage that has none."""
    if request.param is None:
        return None
    server: servers.Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Variant:
    """The one that a test names, or that the whole suite is run in."""
    chosen = os.environ.get('FREEZER_TEST_VARIANT', 'plain')
    return VARIANTS[getattr(request, 'param', chosen)]


@pytest.fixture
def way(
    s3_server: servers.Server | None, variant: Variant, tmp_path: Path
) -> Iterator[Way | None]:
    """How the driver comes to the server."""
    if s3_server is None:
        yield None
        return
    with variant(s3_server, tmp_path) as way:
        yield way


@pytest.fixture
def s3(s3_server: servers.Server, way: Way) -> Iterator[S3Place]:
    """A bucket that is not there yet."""
    place = new_s3_place(s3_server, way)
    yield place
    place.remove()


@pytest.fixture
def bucket(s3: S3Place) -> Iterator[Bucket]:
    """A bucket as the driver has it."""
    storage = s3.storage()
    storage.prepare()
    yield storage._bucket
    storage.close()
