"""One class per action. Each is checked before any work, and run once."""

from freezer.job.admin import AdminJob
from freezer.job.backup import BackupJob
from freezer.job.exec import ExecJob
from freezer.job.info import InfoJob
from freezer.job.job import Job
from freezer.job.restore import RestoreJob
from freezer.job.verify import VerifyJob

JOBS: dict[str, type[Job]] = {
    'backup': BackupJob,
    'restore': RestoreJob,
    'info': InfoJob,
    'admin': AdminJob,
    'exec': ExecJob,
    'verify': VerifyJob,
}
