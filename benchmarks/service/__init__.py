"""Benchmarks of the service, compared with its parts and with other services, in one run on one machine."""
