from app.greetings.install import install_greetings

# This service's own features: add yours here.
install_greetings(service, settings.greeting)
