from app.orders.install import install_orders
from app.products.install import install_products

# This service's own features: add yours here.
stock = install_products(service, database, cache)
install_orders(service, database, stock)
