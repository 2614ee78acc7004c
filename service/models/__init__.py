"""The models that serve: several at once, added, made the default and removed while requests come."""
