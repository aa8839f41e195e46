"""How documents become part of the service: `main.py` calls it, in one line."""

from app.core.service import Service
from app.documents.routes import create_documents_router


def install_documents(service: Service) -> None:
    """Install the routes of documents."""
    service.include(create_documents_router(service.name))
