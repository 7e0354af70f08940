"""Sphinx: sphinx-build -W -b html doc/source doc/build/html"""

import sys
from pathlib import Path

from freezer.common.version import version as freezer_version

sys.path.insert(0, str(Path(__file__).with_name('_ext')))
extensions = [
    'oslo_config.sphinxext',
    *('usage', 'import_contract', 'pictures'),
]

project = 'freezer'
copyright = 'OpenStack Foundation'
version = release = freezer_version()

html_theme = 'furo'
html_title = f'Freezer {release}'
html_theme_options = {
    'light_css_variables': {
        'picture-ink': '#1f2933',
        'picture-line': '#5b6875',
        'picture-part': '#f0f3f6',
        'picture-full': '#17589f',
        'picture-on-full': '#ffffff',
        'picture-increment': '#cfe3f7',
        'picture-old': '#e3e7eb',
        'picture-bad': '#fbe0dc',
        'picture-good': '#dcf2e2',
        'picture-chosen': '#b3470f',
    },
    'dark_css_variables': {
        'picture-ink': '#e6eaee',
        'picture-line': '#9aa5b1',
        'picture-part': '#252d35',
        'picture-full': '#63a8f2',
        'picture-on-full': '#0b1620',
        'picture-increment': '#1f4468',
        'picture-old': '#343b43',
        'picture-bad': '#52241f',
        'picture-good': '#1d4529',
        'picture-chosen': '#f0934f',
    },
}
html_static_path = ['_static']
html_css_files = ['freezer.css']
html_js_files = ['freezer.js']
templates_path = ['_templates']
html_copy_source = False
html_show_sphinx = False

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
