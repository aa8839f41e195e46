"""What browsers are told."""

from tests.settings.part import Part

PART = Part(
    safe={"CORS_ORIGINS": "https://app.example", "TRUSTED_HOSTS": "api.example,*.api.example"},
    wrong=[
        ("CORS_ORIGINS", "app.example"),
        ("CORS_ORIGINS", "https://app.example/"),
        ("CORS_ORIGINS", "*,https://app.example"),
        ("TRUSTED_HOSTS", "https://api.example"),
        ("TRUSTED_HOSTS", "api.example:8000"),
        ("CONTENT_SECURITY_POLICY", "default-src none"),
        ("HSTS_SECONDS", "-1"),
    ],
)
