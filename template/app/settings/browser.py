"""What browsers are told: which pages may read answers, and how answers are to be treated."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from app.core.browser import API_POLICY, check_host, check_origin, check_policy
from app.settings.service import ServiceSettings, listed

_ALL = "*"


class BrowserSettings(ServiceSettings):
    """What browsers are told."""

    cors_origins: str = ""
    """Origins, separated by commas, whose pages may read answers in a browser: https://app.example;
    * for all. Empty: only pages of the service itself."""
    trusted_hosts: str = ""
    """Hosts, separated by commas, that requests may be for: api.example, *.api.example; others get
    a 400, but for `/health/...` and `/metrics`. *: all. Empty: all, and production warns."""
    content_security_policy: str = API_POLICY
    """Of answers that have none of their own. The default suits data: a page has nothing to load.
    Empty: none."""
    hsts_seconds: int = Field(default=31_536_000, ge=0)
    """Seconds for which browsers are told, over https only, to use https for this host. 0: not."""

    @field_validator("cors_origins")
    @classmethod
    def _cors_origins_are_valid(cls, origins: str) -> str:
        named = listed(origins)
        for origin in named:
            if origin != _ALL:
                check_origin(origin)
        if _ALL in named and len(named) > 1:
            raise ValueError("has * beside others: * is all there are, leave the others out")
        return origins

    @field_validator("trusted_hosts")
    @classmethod
    def _trusted_hosts_are_valid(cls, hosts: str) -> str:
        for host in listed(hosts):
            if host != _ALL:
                check_host(host)
        return hosts

    @field_validator("content_security_policy")
    @classmethod
    def _content_security_policy_is_valid(cls, policy: str) -> str:
        return check_policy(policy)

    @model_validator(mode="after")
    def _hosts_are_named_in_production(self) -> Self:
        # A warning: the service cannot know its names, and a proxy in front may check them. What
        # stops every start would rather be set to * than thought about.
        if self.environment == "production" and not self.trusted_hosts:
            self._doubts.append(
                "TRUSTED_HOSTS is not set: requests for any host are answered; name yours, or * if "
                "a proxy in front refuses the others"
            )
        return self

    @property
    def cors_origin_list(self) -> list[str]:
        return listed(self.cors_origins)

    @property
    def has_cors_credentials(self) -> bool:
        """Whether those pages may send cookies: only sessions have some."""
        return False

    @property
    def hosts(self) -> list[str]:
        """The hosts that requests may be for; empty for all."""
        hosts = listed(self.trusted_hosts)
        return [] if _ALL in hosts else hosts
