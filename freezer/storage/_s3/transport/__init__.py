"""Requests to one bucket. Only this package imports botocore."""
