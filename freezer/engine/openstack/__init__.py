"""Engines that back up resources of an OpenStack cloud."""
