"""The options of these engines, apart from them, so that ``--help`` does not import
them."""

from oslo_config import cfg

from freezer.engine.blocks.options import OPTIONS as BLOCKS
from freezer.utils.openstack_options import OS_CLOUD, RETRY_BUDGET, TIMEOUT
from freezer.utils.plugin_options import PluginOptions

#: of each engine; two may declare the same option
CLOUD = (
    OS_CLOUD,
    cfg.StrOpt(
        'project-id',
        metavar='ID',
        help='Back up all resources of this project, each as a backup of its own.',
    ),
)
#: of engines that read and write volumes
TRANSFER = cfg.StrOpt(
    'cinder-transfer',
    metavar='HOW',
    choices=['attachment', 'image'],
    help='How the data of volumes is read and written. attachment: with '
    'librbd, if the backend is Ceph RBD; only allocated parts are read. '
    'image: by a temporary image of Glance, with any backend. Default: '
    'attachment where that is possible, or else image.',
)
_OPENSTACK = (RETRY_BUDGET,)
_TIMEOUT = (TIMEOUT,)

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
            *CLOUD,
        ),
        'openstack': _OPENSTACK,
    },
    environment={'os_cloud': 'OS_CLOUD'},
    selectors=('glance_image_id', 'glance_image_name', 'glance_image_name_filter'),
    media='glance',
)

CINDER = PluginOptions(
    groups={
        None: (
            cfg.StrOpt(
                'cinder-vol-id',
                metavar='ID',
                help='Back up this volume, or restore the backup of it.',
            ),
            cfg.StrOpt(
                'cinder-vol-name',
                metavar='NAME',
                help='The same by the name of the volume. If several volumes have the '
                'name, the agent lists their IDs and exits.',
            ),
            TRANSFER,
            cfg.StrOpt(
                'cinder-restore-name',
                metavar='NAME',
                help='Name of the volume that a restore creates. Default: the name of '
                'the volume that was backed up.',
            ),
            cfg.StrOpt(
                'cinder-restore-type',
                metavar='NAME',
                help='Its type. Default: the type of the volume that was backed up.',
            ),
            cfg.StrOpt(
                'cinder-restore-az',
                metavar='NAME',
                help='Its availability zone. Default: the zone of the volume that was '
                'backed up.',
            ),
            cfg.StrOpt(
                'cinder-restore-vol-id',
                metavar='ID',
                help='Restore onto this existing volume instead of a new one; needs '
                '--overwrite. The volume must be detached, and its backend Ceph RBD.',
            ),
            *CLOUD,
        ),
        'openstack': (*_OPENSTACK, *_TIMEOUT),
        **BLOCKS.groups,
    },
    environment={'os_cloud': 'OS_CLOUD'},
    selectors=('cinder_vol_id', 'cinder_vol_name'),
    media='cinder',
)
