"""How the service is served: its application, its metrics, and what is around each request."""

from fastapi import FastAPI

from app.core.observability.metrics import create_metrics_router
from app.core.observability.requests import RequestMiddleware
from app.core.service import Layer, Service
from app.settings.service import ServiceSettings


def make_app(service: Service, settings: ServiceSettings) -> FastAPI:
    """Make the application that serves a service whose parts are installed."""
    service.middleware(RequestMiddleware, layer=Layer.REQUESTS, slow=settings.slow_request)
    if settings.has_metrics:
        service.include(create_metrics_router(token=settings.metrics_token.get_secret_value()))
    traced = settings.opentelemetry
    app = service.app(
        debug=settings.debug,
        openapi_url="/openapi.json" if settings.has_api_docs else None,  # without: no docs either
        max_body_bytes=settings.max_body_bytes,
        body_timeout=settings.body_timeout,
        telemetry={"tracing": traced, "metrics": traced, "logs": traced},
        drain_seconds=settings.drain_seconds,
    )
    app.root_path = settings.root_path
    return app
