"""Alternative tools, each configured as in its own documentation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# freezer's defaults.
PART_MIB = 8
CONCURRENCY = 16


@dataclass(frozen=True)
class Place:
    """The place of an object.

    :param flavour: rclone's name of the provider
    :param authority: the certificate of the authority to trust, for https
    """

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    prefix: str = 'benchmark'
    flavour: str = 'Other'
    authority: Path | None = None

    @property
    def container(self) -> str:
        return f'{self.bucket}/{self.prefix}'

    def environment(self) -> dict[str, str]:
        """Environment variables with keys and endpoint for every tool."""
        certificates = (
            'OS_S3__CA_BUNDLE',
            'AWS_CA_BUNDLE',
            'RCLONE_CA_CERT',
            'RESTIC_CACERT',
        )
        if self.authority is None:
            certificates = ()
        return {name: str(self.authority) for name in certificates} | {
            'ACCESS_KEY': self.access_key,
            'SECRET_KEY': self.secret_key,
            'ENDPOINT': self.endpoint,
            'OS_DEFAULT__CONTAINER': self.container,
            'AWS_ACCESS_KEY_ID': self.access_key,
            'AWS_SECRET_ACCESS_KEY': self.secret_key,
            'AWS_DEFAULT_REGION': 'us-east-1',
            'AWS_REGION': 'us-east-1',
            'AWS_ENDPOINT_URL': self.endpoint,
            'AWS_EC2_METADATA_DISABLED': 'true',
            # Some stores do not support the trailing checksums of newer versions.
            'AWS_REQUEST_CHECKSUM_CALCULATION': 'when_required',
            'S3_ENDPOINT_URL': self.endpoint,
            'RCLONE_CONFIG': '/notfound',
            'RCLONE_CONFIG_STORE_TYPE': 's3',
            'RCLONE_CONFIG_STORE_PROVIDER': self.flavour,
            'RCLONE_CONFIG_STORE_ENDPOINT': self.endpoint,
            'RCLONE_CONFIG_STORE_ACCESS_KEY_ID': self.access_key,
            'RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY': self.secret_key,
            'RCLONE_CONFIG_STORE_USE_MULTIPART_ETAG': 'false',
            'RCLONE_CONFIG_STORE_NO_CHECK_BUCKET': 'true',
            'RESTIC_REPOSITORY': f's3:{self.endpoint}/{self.container}/restic',
            'RESTIC_PASSWORD': 'benchmark',
        }


Command = Callable[[Place, str], Sequence[str]]


@dataclass(frozen=True)
class Peer:
    """A tool that copies a pipe to an object, and back.

    :param put: returns the command for a place and a name; it reads standard input
    :param get: returns the command that writes the object to standard output
    :param gets: whether ``get`` differs from that of the other peers
    """

    name: str
    put: Command
    get: Command
    gets: bool = True


def freezer(tools: Mapping[str, str], name: str = 'freezer', *more: str) -> Peer:
    """Our driver with additional options."""

    def command(action: str) -> Command:
        return lambda place, name: (
            *(tools['python'], str(HERE / 'pipe.py'), action),
            *('--container', f'{place.container}/{name}', *more),
        )

    return Peer(name, command('put'), command('get'))


def _rclone(tools: Mapping[str, str], verb: str, *more: str) -> Command:
    return lambda place, name: (
        tools['rclone'],
        verb,
        *more,
        f'store:{place.container}/{name}',
    )


def peers(tools: Mapping[str, str]) -> tuple[Peer, ...]:
    """:param tools: paths of programs by name"""

    def url(place: Place, name: str) -> str:
        return f's3://{place.container}/{name}'

    part, several = f'{PART_MIB}Mi', str(CONCURRENCY)
    boto3 = str(HERE / 'boto3_pipe.py')
    # Its script does not work in a directory with a space in its name.
    aws = (tools['python'], '-m', 'awscli')
    return (
        freezer(tools),
        Peer(
            'aws s3 cp',
            lambda place, name: (*aws, 's3', 'cp', '-', url(place, name)),
            lambda place, name: (*aws, 's3', 'cp', url(place, name), '-'),
        ),
        Peer('rclone', _rclone(tools, 'rcat'), _rclone(tools, 'cat')),
        Peer(
            f'rclone {several}x{PART_MIB}',
            _rclone(
                tools,
                'rcat',
                *('--s3-chunk-size', part, '--s3-upload-concurrency', several),
            ),
            _rclone(tools, 'cat'),
            gets=False,
        ),
        Peer(
            's5cmd',
            lambda place, name: (tools['s5cmd'], 'pipe', url(place, name)),
            lambda place, name: (tools['s5cmd'], 'cat', url(place, name)),
        ),
        Peer(
            'boto3',
            lambda place, name: (
                *(tools['python'], boto3, 'put'),
                *(place.bucket, f'{place.prefix}/{name}'),
            ),
            lambda place, name: (
                *(tools['python'], boto3, 'get'),
                *(place.bucket, f'{place.prefix}/{name}'),
            ),
        ),
    )
