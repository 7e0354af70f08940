"""The parts of the S3 driver.

``transport`` sends requests, ``upload`` and ``download`` turn streams into objects and
back, ``check`` tests a store. What any store of objects can use is in
``freezer/storage``: claims, journal, leftovers, survey, retry.
"""
