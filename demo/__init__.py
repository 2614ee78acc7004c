"""The demonstration (`make demo`): twelve small videos, a collection, the service, and a tour of requests."""
