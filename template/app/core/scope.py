"""Keys of the ASGI scope by which layers tell each other about a request.

Keys that one package alone reads and writes are in that package.
"""

REQUEST_ID = "app.request_id"
"""The id of the request, as text."""

ROUTE_TEMPLATE = "app.route_template"
"""The path of the route with its parameters by name, where something in front of the router
answers for it."""

PERSONALIZED_BY = "app.personalized_by"
"""The set of objects that made the response one for this user alone: it must not be stored for
others."""
