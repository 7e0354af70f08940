"""Options that plugins for OpenStack clouds share. Pure: ``--help`` imports this."""

from oslo_config import cfg

OS_CLOUD = cfg.StrOpt(
    'os-cloud',
    metavar='NAME',
    help='The cloud to use, by its name in clouds.yaml. Default: the one that OS_* '
    'environment variables describe.',
)
RETRY_BUDGET = cfg.FloatOpt(
    'retry-budget',
    metavar='SECONDS',
    default=300.0,
    min=0.0,
    help='How long a request to an OpenStack service, or the download of an image '
    'that makes no progress, is repeated after temporary errors. Until the '
    'service has answered for the first time, at most 20 seconds.',
)
TIMEOUT = cfg.FloatOpt(
    'timeout',
    metavar='SECONDS',
    default=21600.0,
    min=1.0,
    help='How long a volume, snapshot, image, server or backup of Cinder may take to '
    'become ready, such as while Cinder copies a volume into an image.',
)
#: of group ``openstack``
REQUESTS = (RETRY_BUDGET, TIMEOUT)
