"""The service itself and its logs; and what every other part of the settings builds on."""

from ipaddress import ip_address
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """A part has fields, validators that refuse wrong values, and `_unsafe` for production."""

    model_config = SettingsConfigDict(
        extra="ignore", validate_default=True, hide_input_in_errors=True
    )

    service_name: str  # its default is in __init__.py
    environment: Literal["development", "test", "production"] = "development"
    """`production` refuses unsafe settings."""
    debug: bool = False
    """Show tracebacks to clients. Refused in production."""
    web_concurrency: int = Field(default=1, ge=1)
    """Processes that run this service together: what their pools add up to is checked at start."""
    private_hosts: str = ""
    """Hosts, separated by commas, that are reached over a network you trust: no TLS asked there."""

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"
    slow_request: float = Field(default=1.0, gt=0)
    """Requests that take longer are logged."""
    opentelemetry: bool = False
    """FastAPI's own spans and metrics, where OpenTelemetry's SDK is installed and configured. Off,
    a request does not pay for looking."""
    drain_seconds: float = Field(default=0, ge=0)
    """How long the service, told to stop, goes on serving while it is already unready."""

    @model_validator(mode="after")
    def _production_is_safe(self) -> Self:
        if self.environment == "production" and (found := self._unsafe()):
            raise ValueError("\n".join(found))
        return self

    def _unsafe(self) -> list[str]:
        """What production refuses, a line each: a part adds its own to those of `super()`."""
        return ["DEBUG must be off in production"] if self.debug else []

    def _is_trusted(self, host: str) -> bool:
        """Whether what is sent there needs no TLS."""
        return is_local(host) or host in listed(self.private_hosts)


def listed(text: str) -> list[str]:
    """What commas separate."""
    return [part.strip() for part in text.split(",")] if text.strip() else []


def is_local(host: str) -> bool:
    """Whether it is the host that the service runs on."""
    if host in {"", "localhost"}:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
