from app.teapot.middleware import TeapotMiddleware

# This service's own middleware: add yours here. Hits of the cache pass it, too.
service.middleware(TeapotMiddleware, short="and stout")
