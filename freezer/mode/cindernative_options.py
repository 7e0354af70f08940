"""The options of mode cindernative, apart from it, so that ``--help`` does not import
it."""

from oslo_config import cfg

from freezer.utils.openstack_options import OS_CLOUD, REQUESTS
from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'cindernative-vol-id',
                metavar='ID',
                help='Let Cinder back up this volume, or restore a backup of it.',
            ),
            cfg.StrOpt(
                'cindernative-backup-id',
                metavar='ID',
                help='Restore this backup of Cinder.',
            ),
            cfg.StrOpt(
                'cindernative-backup-az',
                metavar='ZONE',
                help='Availability zone of Cinder that stores the backup. Default: the '
                'zone of the volume.',
            ),
            cfg.StrOpt(
                'cindernative-backup-container',
                metavar='NAME',
                default='$container',
                help='Container or bucket in which Cinder stores the backup, without '
                'slashes. {project_id}, {volume_id} and {backup_name} are replaced. '
                'Default: --container; if that is not given, the one that Cinder is '
                'configured for.',
            ),
            cfg.StrOpt(
                'cindernative-restore-name',
                metavar='NAME',
                help='Name of the volume that a restore creates. Default: the name '
                'that Cinder chooses, restore_backup_ID.',
            ),
            cfg.IntOpt(
                'fullbackup-rotation',
                metavar='N',
                default=1,
                min=1,
                help='With --action admin: keep this number of full backups of a '
                'volume, and delete all that is older than these.',
            ),
            cfg.BoolOpt(
                'cindernative-freezer-only',
                default=True,
                help='Count and delete only backups that this agent, or Freezer 19, '
                'has made.',
            ),
            OS_CLOUD,
        ),
        'openstack': REQUESTS,
    },
    environment={'os_cloud': 'OS_CLOUD'},
    exclusive=('cindernative_vol_id', 'cindernative_backup_id'),
    media='cindernative',
    elsewhere=True,
)
