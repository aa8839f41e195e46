"""What all databases have that speak SQL."""

from pydantic import Field, SecretStr

from app.settings.service import ServiceSettings


class SqlSettings(ServiceSettings):
    """Where the database is, and how long the service waits for it."""

    database_url: SecretStr
    database_pool_size: int = Field(default=10, ge=1)
    """Connections per process."""
    database_pool_timeout: float = Field(default=2.0, gt=0)
    """The longest wait for a connection to come free."""
    database_timeout: float = Field(default=5.0, gt=0)
    """The longest a whole transaction may take."""
