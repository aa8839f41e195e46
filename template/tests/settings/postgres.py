"""PostgreSQL."""

from tests.settings.part import Part

DEFAULT = "DATABASE_URL needs a password"
TLS = "DATABASE_URL needs TLS"
URL = "postgresql+asyncpg://service:secret@db.example/orders"

PART = Part(
    safe={"DATABASE_URL": f"{URL}?ssl=verify-full"},
    wrong=[("DATABASE_URL", "postgresql+asyncpg://user:hunter2")],
    unsafe=[
        ("DATABASE_READ_URL", URL, "DATABASE_READ_URL needs TLS"),
        (
            "DATABASE_URL",
            "postgresql+asyncpg://postgres:postgres@db.example/orders?ssl=require",
            DEFAULT,
        ),
        # Also on this host: as a rule, it was forgotten.
        ("DATABASE_URL", "postgresql+asyncpg://postgres:postgres@127.0.0.1:5432/postgres", DEFAULT),
        ("DATABASE_URL", URL, TLS),
        # Whoever is in between would be told the password.
        ("DATABASE_URL", f"{URL}?sslmode=require", TLS),
        ("DATABASE_URL", "postgresql+asyncpg://service:secret@/orders?host=db.example", TLS),
    ],
    hidden=[
        (name, URL.replace("secret", "hunter2")) for name in ("DATABASE_URL", "DATABASE_READ_URL")
    ],
)
