"""How a new database gets its schema."""

import sys

PREPARATIONS = [[sys.executable, "-m", "alembic", "upgrade", "heads"]]
"""Commands that bring a new database to the state that the service expects."""
