"""The options of these engines, apart from them, so that ``--help`` does not import
them."""

from oslo_config import cfg

from freezer.utils.openstack_options import OS_CLOUD, RETRY_BUDGET
from freezer.utils.plugin_options import PluginOptions

# Of each engine: two may declare the same option.
_CLOUD = (
    OS_CLOUD,
    cfg.StrOpt(
        'project-id',
        metavar='ID',
        help='Back up all resources of this project, each as a backup of its own.',
    ),
)
_OPENSTACK = (RETRY_BUDGET,)

GLANCE = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'glance-image-id',
                metavar='ID',
                help='Back up this image, or restore the backup of it.',
            ),
            cfg.StrOpt(
                'glance-image-name',
                metavar='NAME',
                help='The same by the name of the image. If several images have the '
                'name, the agent lists their IDs and exits.',
            ),
            cfg.StrOpt(
                'glance-image-name-filter',
                metavar='TEXT',
                help='Back up all images whose names contain this text, each as a '
                'backup of its own; with --project-id only those of the project.',
            ),
            cfg.StrOpt(
                'glance-restore-name',
                metavar='NAME',
                help='Name of the image that a restore creates. Default: the name of '
                'the image that was backed up.',
            ),
            *_CLOUD,
        ),
        'openstack': _OPENSTACK,
    },
    environment={'os_cloud': 'OS_CLOUD'},
    selectors=('glance_image_id', 'glance_image_name', 'glance_image_name_filter'),
    media='glance',
)
