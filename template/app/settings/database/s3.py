"""A bucket of S3."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from app.settings.service import ServiceSettings, is_local


class DatabaseSettings(ServiceSettings):
    """Where the bucket is, who may use it, and how long the service waits for it."""

    database_url: SecretStr  # its default is in __init__.py
    s3_endpoint_url: str = ""
    """The S3 server, such as https://s3.example:9000; empty: that of AWS."""
    s3_region: str = "us-east-1"
    """Where the bucket is. Servers outside AWS seldom mind."""
    s3_access_key_id: str = ""
    """Empty: found where AWS's own tools look, such as the role that the machine has."""
    s3_secret_access_key: SecretStr = SecretStr("")
    """The secret that belongs to the key."""
    database_pool_size: int = Field(default=32, ge=1)
    """Requests to S3 at a time, per process."""
    database_pool_timeout: float = Field(default=2.0, gt=0)
    """The longest wait for a request's turn."""
    database_timeout: float = Field(default=5.0, gt=0)
    """The longest an operation may take, with all its requests."""

    @field_validator("database_url")
    @classmethod
    def _database_url_is_valid(cls, url: SecretStr) -> SecretStr:
        where = urlsplit(url.get_secret_value())
        if where.scheme != "s3" or not where.netloc or "@" in where.netloc or ":" in where.netloc:
            raise ValueError("this service keeps its data in S3: s3://bucket or s3://bucket/prefix")
        return url

    @field_validator("s3_endpoint_url")
    @classmethod
    def _s3_endpoint_url_is_valid(cls, url: str) -> str:
        where = urlsplit(url)
        if url and (where.scheme not in {"http", "https"} or not where.hostname):
            raise ValueError("has to be http://host:port or https://host:port")
        if where.username or where.password:
            raise ValueError("the login belongs in S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY")
        return url

    @model_validator(mode="after")
    def _s3_login_is_whole(self) -> Self:
        if bool(self.s3_access_key_id) != bool(self.s3_secret_access_key.get_secret_value()):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY need each other")
        return self

    def _passwords(self) -> dict[str, str]:
        secret = self.s3_secret_access_key.get_secret_value()
        return super()._passwords() | ({"S3_SECRET_ACCESS_KEY": secret} if secret else {})

    def _unsafe(self) -> list[str]:
        found = super()._unsafe()
        endpoint = urlsplit(self.s3_endpoint_url)
        host = endpoint.hostname or ""
        if endpoint.scheme != "https" and not self._is_trusted(host):
            found.append(
                "S3_ENDPOINT_URL needs TLS (https://), or its host in PRIVATE_HOSTS if the "
                "network in between is yours"
            )
        known = {"development", "minioadmin", "rustfsadmin"}
        if not is_local(host) and self.s3_secret_access_key.get_secret_value() in known:
            found.append("S3_SECRET_ACCESS_KEY needs to be one that is not a default")
        return found
