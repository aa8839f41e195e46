"""What browsers ask of a service: headers that protect its pages, CORS, and only its own names."""

from app.core.browser.cors import CorsMiddleware
from app.core.browser.hosts import HostMiddleware
from app.core.browser.names import check_host, check_origin, check_origins
from app.core.browser.security import API_POLICY, check_policy, security_headers

__all__ = [
    "API_POLICY",
    "CorsMiddleware",
    "HostMiddleware",
    "check_host",
    "check_origin",
    "check_origins",
    "check_policy",
    "security_headers",
]
