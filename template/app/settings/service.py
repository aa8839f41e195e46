"""The service itself and its logs; and what every other part of the settings builds on."""

from ipaddress import ip_address
from typing import Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.core.secret_strength import shared, weakness


class ServiceSettings(BaseSettings):
    """A part has fields, validators that refuse wrong values, and `_unsafe` for production."""

    model_config = SettingsConfigDict(
        extra="ignore",
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,  # a time that never ends is none, and would fail where it is used
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

    # What outsiders may see
    api_docs: bool | None = None
    """`/docs`, `/redoc` and `/openapi.json`. Unset, they are there but for production."""
    metrics_token: SecretStr = SecretStr("")
    """Whoever asks for `/metrics` has to send it: `Authorization: Bearer ...`."""
    metrics_public: bool = False
    """Let everybody see `/metrics` who reaches the port. Without this and without a token,
    production has no `/metrics`."""

    # Requests
    max_body_bytes: int = Field(default=1024 * 1024, ge=0)
    """Bytes that the body of a request may have. A route that takes more says so itself, with
    `max_body_size=`."""
    body_timeout: float = Field(default=60, gt=0)
    """Seconds that such a body may take to arrive."""
    root_path: str = Field(default="", pattern=r"^(/[^/\s]+)*$")
    """The prefix that all paths have, such as /api, where a proxy in front leaves it in. For one
    that takes it away, tell the server instead: `UVICORN_ROOT_PATH=/api`."""

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The lowest level of lines that are written."""
    log_format: Literal["console", "json"] = "console"
    """For people, or one JSON object a line, for machines."""
    slow_request: float = Field(default=1.0, gt=0)
    """Requests that take longer are logged."""
    opentelemetry: bool = False
    """FastAPI's own spans and metrics, where OpenTelemetry's SDK is installed and configured. Off,
    a request does not pay for looking."""
    fastpath: bool = True
    """Shorter ways through uvicorn, FastAPI and redis-py, which know their insides. Off, answers
    are the same and take longer."""
    drain_seconds: float = Field(default=0, ge=0)
    """How long the service, told to stop, goes on serving while it is already unready."""

    _doubts: list[str] = PrivateAttr(default_factory=list)

    @property
    def doubts(self) -> list[str]:
        """What may be meant otherwise, a line each: for the log, once there is one."""
        return self._doubts

    @property
    def has_api_docs(self) -> bool:
        """Whether the service shows its API to people."""
        return self.environment != "production" if self.api_docs is None else self.api_docs

    @property
    def has_metrics(self) -> bool:
        """Whether somebody may ask for `/metrics`."""
        asked_for = self.metrics_public or self.metrics_token.get_secret_value() != ""
        return asked_for or self.environment != "production"

    @model_validator(mode="after")
    def _production_is_safe(self) -> Self:
        if self.environment == "production" and (found := self._unsafe()):
            raise ValueError("\n".join(found))
        return self

    def _unsafe(self) -> list[str]:
        """What production refuses, a line each: a part adds its own to those of `super()`."""
        found = ["DEBUG must be off in production"] if self.debug else []
        token = self.metrics_token.get_secret_value()
        if token and (why := weakness(token)):
            found.append(f"METRICS_TOKEN {why}: make one with `openssl rand -base64 32`")
        return found + shared(self._secrets(), self._passwords())

    def _secrets(self) -> dict[str, list[str]]:
        """The secrets of each setting that serves one purpose: a part adds its own."""
        token = self.metrics_token.get_secret_value()
        return {"METRICS_TOKEN": [token] if token else []}

    def _passwords(self) -> dict[str, str]:
        """The password of each setting that has one for a server: a part adds its own."""
        return {}

    def _is_trusted(self, host: str) -> bool:
        """Whether what is sent there needs no TLS."""
        return is_local(host) or self._is_private(host)

    def _is_private(self, host: str) -> bool:
        """Whether the network on the way there is trusted."""
        return host in listed(self.private_hosts)


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
