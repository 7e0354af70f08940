"""What the S3 driver is made of. Nothing outside this package imports botocore.

``client`` makes the botocore client, ``bucket`` has the few verbs a backup needs,
``upload`` and ``download`` map streams onto them. ``retry`` is the only loop that tries
again, ``errors`` the only place that knows what a store's error codes mean.
"""
