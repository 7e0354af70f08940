"""Sphinx: sphinx-build -W -b html doc/source doc/build/html"""

import sys
from pathlib import Path

from freezer.common.version import version as freezer_version

sys.path.insert(0, str(Path(__file__).with_name('_ext')))
extensions = [
    *('openstackdocstheme', 'oslo_config.sphinxext'),
    *('usage', 'import_contract'),
]

project = 'freezer'
copyright = 'OpenStack Foundation'
version = release = freezer_version()

html_theme = 'openstackdocs'
openstackdocs_repo_name = 'openstack/freezer'
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_pdf_link = False
openstackdocs_use_storyboard = False
openstackdocs_bug_project = 'freezer'

pygments_style = 'native'
# Keep the two hyphens of options.
smartquotes = False

# sphinx-build -W -b man doc/source doc/build/man
man_pages = [
    (
        'cli/freezer-agent',
        'freezer-agent',
        'back up files to object storage and restore them',
        'OpenStack',
        1,
    ),
    (
        'cli/freezer-scheduler',
        'freezer-scheduler',
        'run freezer-agent on a schedule',
        'OpenStack',
        1,
    ),
]
