"""docker-compose.yml as docker-compose parses it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tools import find_tool

ROOT = Path(__file__).parents[1]
ADMIN = "a-key-for-these-tests-0123456789abcdef"
STORES = "a-password-of-the-stores-0123456789"
PROFILES = ("cpu", "gpu", "distributed", "observability", "proxy", "index", "backup")


def run_compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run docker-compose without .env and without variables of Vitascope and compose except ``environment``."""
    command = [find_tool("docker-compose"), "--env-file", os.devnull, *arguments]
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("VITASCOPE_", "COMPOSE_"))}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**outside, **environment}, check=False
    )


def compose(*profiles: str, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the configuration of these profiles, with defaults and anchors resolved."""
    options = [part for profile in profiles for part in ("--profile", profile)]
    keys = {"VITASCOPE_ADMIN_KEY": ADMIN, "VITASCOPE_STORES_KEY": STORES, **(settings or {})}
    done = run_compose(*options, "config", "--format", "json", **keys)
    assert done.returncode == 0, done.stderr
    model: dict[str, Any] = json.loads(done.stdout)
    return model
