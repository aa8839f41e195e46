"""S3, and servers that speak its protocol, through obstore."""

from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import S3Store

from app.database.bucket import Bucket

if TYPE_CHECKING:
    from obstore.store import S3Config


def create_database(
    url: str,
    *,
    endpoint_url: str,
    region: str,
    access_key_id: str,
    secret_access_key: str,
    pool_size: int,
    pool_timeout: float,
    timeout: float,
) -> Bucket:
    """Make the bucket's client; connects on first use. All times in seconds.

    Args:
        url: `s3://bucket/prefix`.
        endpoint_url: the server, if it is not AWS; empty: AWS.
        region: where the bucket is.
        access_key_id: empty: the credentials are found as by AWS's own tools, in the variables
            AWS_*, or from the platform that the service runs on.
        secret_access_key: belongs to it.
    """
    where = urlsplit(url)
    # A host name per bucket is what AWS wants; servers elsewhere seldom have any.
    config: S3Config = {"region": region, "virtual_hosted_style_request": not endpoint_url}
    if endpoint_url:
        config["endpoint"] = endpoint_url
    if access_key_id:
        config["access_key_id"] = access_key_id
        config["secret_access_key"] = secret_access_key
    store = S3Store(
        where.netloc,
        prefix=where.path.strip("/") or None,
        config=config,
        client_options={
            "allow_http": endpoint_url.startswith("http://"),
            "connect_timeout": timedelta(seconds=timeout),
            "timeout": timedelta(seconds=timeout),
        },
        retry_config={"max_retries": 0},  # callers know better what may be repeated
    )
    return Bucket(
        store,
        name=where.netloc,
        pool_size=pool_size,
        pool_timeout=pool_timeout,
        timeout=timeout,
    )
