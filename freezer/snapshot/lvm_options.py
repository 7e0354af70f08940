"""The options of snapshot lvm: those of Freezer 19."""

from oslo_config import cfg

from freezer.utils.plugin_options import PluginOptions

OPTIONS = PluginOptions(
    groups={
        None: [
            cfg.StrOpt(
                'lvm-srcvol',
                metavar='VOLUME',
                help='The logical volume that --path-to-backup must be on, as vg0/srv '
                'or /dev/vg0/srv; if it is on another one, the backup fails. Default: '
                'the volume is found.',
            ),
            cfg.StrOpt(
                'lvm-volgroup',
                metavar='GROUP',
                help='The volume group that --path-to-backup must be in. Default: it '
                'is found.',
            ),
            cfg.StrOpt(
                'lvm-snapname',
                metavar='NAME',
                help='Name of the snapshot, which no volume of the group may have. '
                'Default: a name with a random number.',
            ),
            cfg.StrOpt(
                'lvm-snapsize',
                metavar='SIZE',
                default='1G',
                help='Space for what changes on the volume during the backup, as 5G, '
                'or a percentage: 80%FREE, 20%ORIGIN, 10%VG. If it gets full, the '
                'backup fails. A volume of a thin pool needs none.',
            ),
            cfg.StrOpt(
                'lvm-snap-perm',
                dest='lvm_snapperm',
                metavar='MODE',
                choices=['ro', 'rw'],
                default='ro',
                help='Whether the snapshot can be written to: with rw, the kernel may '
                'recover a journal when it is mounted. It is always mounted read-only.',
            ),
            cfg.StrOpt(
                'lvm-dirmount',
                metavar='DIR',
                help='Directory below which the snapshot is mounted, in a directory of '
                'its own. Default: /run/freezer.',
            ),
        ]
    },
    exclusive=('lvm_srcvol', 'lvm_volgroup', 'lvm_snapname', 'lvm_dirmount'),
)
