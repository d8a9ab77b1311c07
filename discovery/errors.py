"""The failures that discovery lets out; vendor exceptions never leave the package.

Raised by the adapters, caught by the loops of this package and by the wiring of `agent`. The one rule: whoever catches
`CatalogUnavailable` keeps the last good catalog.
"""


class DiscoveryError(Exception):
    """Base of everything that discovery raises."""


class SettingsRefused(DiscoveryError):
    """The settings cannot work as given; the message names the variable and the fix."""


class CatalogUnavailable(DiscoveryError):
    """No trustworthy answer: transport failure, 5xx, HTML, a `null` body, a missing index. Retry later."""


class AccessRefused(CatalogUnavailable):
    """The catalog answered 403; the message names the right that is missing. Retry slowly."""


class RegistrationLost(DiscoveryError):
    """The agent no longer knows our registration; register again at once."""


class AgentUnreachable(CatalogUnavailable):
    """No connection at all: the Consul agent is stopped or restarting. Cheap to try again."""
