"""HTTP for any driver: pools of connections, rates and cancellation, TLS."""
