"""Action check on S3."""
