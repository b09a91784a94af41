ANALYZE app.orders
