"""Options that plugins for OpenStack clouds share. Pure: ``--help`` imports this."""

from oslo_config import cfg

OS_CLOUD = cfg.StrOpt(
    'os-cloud',
    metavar='NAME',
    help='The cloud to use, by its name in clouds.yaml. Default: the one that OS_* '
    'environment variables describe.',
)
