"""How the service is served: its application, its metrics, and what is around each request."""

from fastapi import FastAPI

from app.core.browser import CorsMiddleware, HostMiddleware, security_headers
from app.core.observability.metrics import create_metrics_router
from app.core.observability.requests import RequestMiddleware
from app.core.service import Layer, Service
from app.settings.browser import BrowserSettings


def make_app(service: Service, settings: BrowserSettings) -> FastAPI:
    """Make the application that serves a service whose parts are installed."""
    headers = security_headers(
        policy=settings.content_security_policy, hsts_seconds=settings.hsts_seconds
    )
    service.middleware(
        RequestMiddleware, layer=Layer.REQUESTS, slow=settings.slow_request, headers=headers
    )
    # Where none are named, these are not there.
    if hosts := settings.hosts:
        service.middleware(HostMiddleware, layer=Layer.REQUESTS, hosts=hosts)
    if origins := settings.cors_origin_list:
        service.middleware(
            CorsMiddleware,
            layer=Layer.REQUESTS,
            origins=origins,
            credentials=settings.has_cors_credentials,
        )
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
