"""Sphinx: sphinx-build -W -b html releasenotes/source releasenotes/build/html"""

extensions = ['openstackdocstheme', 'reno.sphinxext']

project = 'Freezer Release Notes'
copyright = 'OpenStack Foundation'
# The notes cover all versions.
version = release = ''

html_theme = 'openstackdocs'
openstackdocs_repo_name = 'openstack/freezer'
openstackdocs_auto_name = False
openstackdocs_auto_version = False
openstackdocs_pdf_link = False
openstackdocs_use_storyboard = False
openstackdocs_bug_project = 'freezer'
