"""A storage driver as somebody else would write it, for the driver author's guide."""
