"""Swift whose users are Keystone's."""

from pathlib import Path
from typing import Any

from freezer.tests.servers.cloud import DOMAIN_NAME, PASSWORD, REGION, Cloud
from freezer.tests.servers.swift import Account, SwiftS3

_MIDDLEWARE = Path('/usr/lib/python3/dist-packages/keystonemiddleware')


class SwiftKeystone(SwiftS3):
    """It is in the catalog of a cloud.

    :param cloud: which runs
    """

    logins = 'authtoken keystoneauth'

    def __init__(self, cloud: Cloud, parent: Path | None = None) -> None:
        super().__init__(parent)
        self.cloud = cloud

    @classmethod
    def available(cls) -> bool:
        return super().available() and _MIDDLEWARE.exists()

    def _prepare(self) -> None:
        super()._prepare()
        self.cloud.add_endpoint(
            'swift', 'object-store', f'{self.endpoint}/v1/AUTH_%(project_id)s'
        )

    def _configure(self, server: str) -> None:
        super()._configure(server)
        if server == 'proxy':
            lines = [f'{k} = {v}' for k, v in self.cloud.credentials().items()]
            with (self.directory / 'proxy.conf').open('a') as stream:
                stream.write(_FILTERS + '\n'.join(lines) + '\n')

    def _answers(self) -> bool:
        # Its S3 API is off.
        try:
            self.account.ask('HEAD')
        except OSError:
            return False
        return True

    @property
    def account(self) -> Account:
        session = self.cloud.admin
        project = session.get_project_id()
        return Account(f'{self.endpoint}/v1/AUTH_{project}', session.get_token())

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            'swift_auth_url': self.cloud.auth_url,
            'swift_username': 'admin',
            'swift_password': PASSWORD,
            'swift_project_name': 'admin',
            'swift_user_domain_name': DOMAIN_NAME,
            'swift_project_domain_name': DOMAIN_NAME,
            'swift_region_name': REGION,
            **changes,
        }


_FILTERS = """
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
delay_auth_decision = true
# A revoked token is rejected at once.
token_cache_time = -1
"""
