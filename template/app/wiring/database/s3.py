"""A bucket of S3."""

from app.core.service import Service
from app.database import DatabaseUnavailable
from app.database.bucket import Bucket
from app.database.s3 import create_database
from app.settings.database.s3 import DatabaseSettings


def install_database(service: Service, settings: DatabaseSettings) -> Bucket:
    """Install the bucket."""
    bucket = create_database(
        settings.database_url.get_secret_value(),
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        pool_size=settings.database_pool_size,
        pool_timeout=settings.database_pool_timeout,
        timeout=settings.database_timeout,
    )
    service.open(bucket)
    service.transient(DatabaseUnavailable, judge=bucket.is_transient)
    service.check("database", bucket.ping, critical=True)
    return bucket
