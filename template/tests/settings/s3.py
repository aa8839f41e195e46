"""S3."""

from tests.settings.part import Part

PART = Part(
    safe={
        "DATABASE_URL": "s3://bucket/orders",
        "S3_ENDPOINT_URL": "https://s3.example",
        "S3_ACCESS_KEY_ID": "service",
        "S3_SECRET_ACCESS_KEY": "secret",
    },
    wrong=[
        ("DATABASE_URL", "s3://"),
        ("DATABASE_URL", "s3://key:secret@bucket"),
        ("S3_ENDPOINT_URL", "s3.example:9000"),
        ("S3_ENDPOINT_URL", "http://key:secret@s3.example"),
        ("S3_ACCESS_KEY_ID", "without a secret"),
    ],
    unsafe=[
        ("S3_ENDPOINT_URL", "http://s3.example:9000", "S3_ENDPOINT_URL needs TLS"),
        ("S3_SECRET_ACCESS_KEY", "development", "S3_SECRET_ACCESS_KEY needs"),
    ],
)
