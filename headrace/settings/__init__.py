"""The settings, a typed tree read from `headrace.toml` and the environment (`HEADRACE_…`); the docstring of a field is its help.

By default everything is embedded: Headrace starts its own storage, head and model server under the home. Configure an endpoint
to replace that part; the rest stays embedded.
"""

from headrace.settings.api import ApiSettings, Telemetry, TenantLimits
from headrace.settings.inference import AnswerMode, Inference, PiiAction, PiiPolicy
from headrace.settings.models import Endpoint, ModelSettings
from headrace.settings.platform import PlatformSettings
from headrace.settings.section import EmbeddedPart, Section, descriptions
from headrace.settings.sources import (
    PosixPermissions,
    SourceGit,
    SourceNotifications,
    SourceS3,
    SourceSettings,
    TagPermissions,
    repository_url,
    usual_every_s,
)
from headrace.settings.storage import S3, Files, Kafka, LandingSettings, Maintenance, PostgreSQL, RestCatalog, Vast, Vectors
from headrace.settings.training import CanarySettings, Gate, Preparing, Training
from headrace.settings.tree import HIDDEN, Settings, changed_settings
from headrace.settings.triggers import (
    AutomaticSettings,
    CommandAction,
    HttpAction,
    TopicAction,
    TopicCause,
    TriggerEvent,
    TriggerSettings,
)
from headrace.settings.workers import WorkerSettings

__all__ = [
    "HIDDEN",
    "S3",
    "AnswerMode",
    "ApiSettings",
    "AutomaticSettings",
    "CanarySettings",
    "CommandAction",
    "EmbeddedPart",
    "Endpoint",
    "Files",
    "Gate",
    "HttpAction",
    "Inference",
    "Kafka",
    "LandingSettings",
    "Maintenance",
    "ModelSettings",
    "PiiAction",
    "PiiPolicy",
    "PlatformSettings",
    "PosixPermissions",
    "PostgreSQL",
    "Preparing",
    "RestCatalog",
    "Section",
    "Settings",
    "SourceGit",
    "SourceNotifications",
    "SourceS3",
    "SourceSettings",
    "TagPermissions",
    "Telemetry",
    "TenantLimits",
    "TopicAction",
    "TopicCause",
    "Training",
    "TriggerEvent",
    "TriggerSettings",
    "Vast",
    "Vectors",
    "WorkerSettings",
    "changed_settings",
    "descriptions",
    "repository_url",
    "usual_every_s",
]
