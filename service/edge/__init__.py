"""Between the socket and a route: limits, keys, bodies in, problems out."""
