"""The demonstration (`make demo`): natural and drawn videos, a collection, the service, and a tour of requests."""
