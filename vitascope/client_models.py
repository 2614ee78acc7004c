"""The part of the client that is about models: which serve, and adding, choosing and removing them."""

from __future__ import annotations

import time
from urllib.parse import quote

from vitascope import errors
from vitascope.client_http import JSON, Caller


class Models(Caller):
    """Models of the service."""

    def models(self) -> JSON:
        """Every model, the default first: name, version, fingerprint, state, tasks, streams and the rest."""
        return self._call("GET", "/v1/models")

    def model(self, fingerprint: str) -> JSON:
        return self._call("GET", _path(fingerprint))

    def add_model(self, folder: str) -> JSON:
        """Load the bundle in ``folder``, which lies on the service's machine, beside the models that serve.

        ``state`` in the answer is ``loading`` as a rule: see `wait_for_model`. Raises `BundleError` and its kinds for
        what is no bundle, or damaged.
        """
        return self._call("POST", "/v1/models", json={"folder": folder})

    def wait_for_model(self, fingerprint: str, *, interval: float = 0.2) -> JSON:
        """Ask every ``interval`` seconds until it serves. Raises `BundleError` where it cannot be loaded."""
        while True:
            found = self.model(fingerprint)
            if found["state"] == "failed":
                raise errors.BundleError(f"model {found['name']}@{found['version']}: {found['error']}")
            if found["state"] == "ready":
                return found
            time.sleep(interval)

    def set_default_model(self, fingerprint: str) -> JSON:
        """Let this model serve requests that name none, from now on and after a restart."""
        return self._call("POST", f"{_path(fingerprint)}/default")

    def remove_model(self, fingerprint: str, *, force: bool = False) -> None:
        """Let it serve no further request. Raises `Conflict` for the default, and without ``force`` for a model that
        collections need.
        """
        self._call("DELETE", _path(fingerprint), params={"force": force})


def _path(fingerprint: str) -> str:
    return f"/v1/models/{quote(fingerprint, safe='')}"
