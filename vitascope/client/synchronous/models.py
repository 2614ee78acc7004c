# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The part of the client that is about models: which serve, and adding, choosing and removing them."""

from __future__ import annotations

from vitascope import errors
from vitascope.client import response_types
from vitascope.client.compat import pause
from vitascope.client.request_building import address
from vitascope.client.synchronous.caller import Caller


class Models(Caller):
    """Models of the service."""

    def models(self) -> response_types.Models:
        """Every model, the default first: name, version, fingerprint, state, tasks, streams and the rest."""
        return self._call(response_types.Models, "GET", address("models"))

    def model(self, fingerprint: str) -> response_types.ModelInfo:
        return self._call(response_types.ModelInfo, "GET", address("models", fingerprint))

    def add_model(self, folder: str) -> response_types.ModelInfo:
        """Load the bundle in ``folder``, which lies on the service's machine, beside the models that serve.

        ``state`` in the answer is ``loading`` as a rule: see `wait_for_model`. Raises `BundleError` and its kinds for
        what is no bundle, or damaged.
        """
        return self._call(response_types.ModelInfo, "POST", address("models"), json={"folder": folder})

    def wait_for_model(self, fingerprint: str, *, interval: float = 0.2) -> response_types.ModelInfo:
        """Ask every ``interval`` seconds until it serves. Raises `BundleError` where it cannot be loaded."""
        while True:
            found = self.model(fingerprint)
            if found["state"] == "failed":
                raise errors.BundleError(f"model {found['name']}@{found['version']}: {found['error']}")
            if found["state"] == "ready":
                return found
            pause(interval)

    def set_default_model(self, fingerprint: str) -> response_types.ModelInfo:
        """Let this model serve requests that name none, from now on and after a restart."""
        return self._call(response_types.ModelInfo, "POST", address("models", fingerprint, "default"))

    def remove_model(self, fingerprint: str, *, force: bool = False) -> None:
        """Let it serve no further request. Raises `Conflict` for the default, and without ``force`` for a model that
        collections need.
        """
        self._do("DELETE", address("models", fingerprint), params={"force": force})
