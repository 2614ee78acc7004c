"""The runtime that every room shares: bundles, decoding, tokenising and running graphs."""

import os

# ONNX Runtime would report its use to its makers, and keep a database of that in the user's home. It reads this when it
# is loaded, so it is said before any of our modules can; telling it later (`disable_telemetry_events`) is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
