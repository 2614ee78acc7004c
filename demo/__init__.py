"""The demonstration: a dozen small videos, an index over them, the service and one tour (`make demo`)."""
