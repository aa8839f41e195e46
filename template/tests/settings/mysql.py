"""MySQL."""

from tests.settings.part import Part

URL = "mysql+asyncmy://service:secret@db.example/orders"

PART = Part(
    safe={"DATABASE_URL": f"{URL}?ssl_ca=/etc/ca.pem"},
    unsafe=[
        ("DATABASE_READ_URL", URL, "DATABASE_READ_URL needs TLS"),
        (
            "DATABASE_URL",
            "mysql+asyncmy://root:mysql@db.example/orders?ssl_ca=/etc/ca.pem",
            "DATABASE_URL needs a password",
        ),
        ("DATABASE_URL", f"{URL}?ssl_check_hostname=true", "DATABASE_URL needs TLS"),
    ],
    hidden=[
        (name, URL.replace("secret", "hunter2")) for name in ("DATABASE_URL", "DATABASE_READ_URL")
    ],
)
