"""Property-based tests of every operation, by what its description in OpenAPI says (schemathesis).

Requests that fit the schemas and requests that do not, made up by the hundred, go to a real server that asks for keys
and has something in it. No answer may be 5xx, and each must be what is described: status, type of content, headers,
schema. What does not fit, or comes without a key, must be refused. ``EXAMPLES=5000`` beside VITASCOPE_CHAOS is the long
variant, which also goes systematically through what each schema says.
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from service import events
from service.app import create_app
from service.schemas.embeddings import DATA
from service.settings import Settings
from tests.chaos import is_chaos, rounds
from tests.service.conftest import fill, settings_for
from tests.service.running import Running, serving
from tests.waiting import wait_for

EXAMPLES = rounds(16, int(os.environ.get("EXAMPLES", "200")))
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
PICTURE = base64.b64decode(DATA.partition(",")[2])
KEPT = {
    "DELETE /v1/collections/{name}",
    "DELETE /v1/collections/{name}/videos/{video_id}",
    "DELETE /v1/operations/{operation_id}",
    "DELETE /v1/webhooks/{webhook_id}",
}
"""Would take from the server what other operations are tried on: these are tried on what it has not."""

described = schemathesis.openapi.from_dict(
    create_app(Settings()).openapi(),
    config=SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"deterministic": True, "database": "none", "with-security-parameters": False},
            "phases": {
                "coverage": {"enabled": is_chaos()},
                # What is made up must not hang on earlier answers, or Hypothesis cannot repeat it.
                "fuzzing": {"extra-data-sources": {"responses": False}},
            },
            "checks": {
                # Limits that are settings, and what must fit together, are not in the schemas.
                "positive_data_acceptance": {"enabled": False},
                "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 409, 413, 415, 422]},
            },
        }
    ),
)


@pytest.fixture(scope="module")
def inhabited(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with three videos, a job, an operation and a key; its client may do everything."""
    data = tmp_path_factory.mktemp("inhabited")
    (data / "incoming" / "colours").mkdir(parents=True)
    (data / "incoming" / "colours" / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    given = {"allow_unauthenticated": False, "admin_key": ADMIN, "max_operations": 5}
    given |= {"webhooks": "on", "webhook_hosts": ["receiver.invalid"]}
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(settings_for(small_bundle, data, log_level="error", **given)) as running,
    ):
        patch.setattr(events, "STREAM_SECONDS", 0.2)  # some jobs are paused for good
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@pytest.fixture(scope="module")
def there(inhabited: Running) -> dict[str, list[str]]:
    """What the server has, by the name that it goes by in paths and bodies."""
    client = inhabited.client
    job = client.post("/v1/collections/palette/jobs", json={"folder": "colours"}).json()["id"]
    operation = client.post("/v1/operations", json={"kind": "backup", "collection": "palette"}).json()["id"]
    key = client.post("/v1/keys", json={"name": "a key", "scopes": ["read"]}).json()["id"]
    webhook = client.post("/v1/webhooks", json={"url": "https://receiver.invalid/", "events": ["job.failed"]}).json()[
        "id"
    ]
    wait_for(lambda: client.get(f"/v1/operations/{operation}").json()["state"] == "succeeded")
    return {
        "name": ["palette"],
        "collection": ["palette"],
        "video_id": ["1", "2", "3"],
        "clip_id": ["1", "2"],
        "job_id": [job],
        "operation_id": [operation],
        "key_id": [key],
        "webhook_id": [webhook],
        "folder": ["colours"],
        "model": [inhabited.service.model.bundle.manifest.name],
        "fingerprint": [inhabited.service.model.bundle.fingerprint],
    }


def settled(value: Any, there: dict[str, list[str]]) -> Any:
    """``value`` with most of the names in it replaced by those of what there is: else all answers would be 404."""
    if isinstance(value, list):
        return [settled(each, there) for each in value]
    if not isinstance(value, dict):
        return value
    chosen = {}
    for name, each in value.items():
        chance = zlib.crc32(repr(each).encode())
        is_name = isinstance(each, str) and name in there and chance % 4
        chosen[name] = there[name][chance // 4 % len(there[name])] if is_name else settled(each, there)
    return chosen


@described.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=EXAMPLES)
def test_every_answer_is_what_is_described(
    case: schemathesis.Case, inhabited: Running, there: dict[str, list[str]]
) -> None:
    if case.operation.label not in KEPT and case.path_parameters:
        names = there | ({"name": ["palette.sqlite3"]} if "operation_id" in case.path_parameters else {})
        case.path_parameters = settled(case.path_parameters, names)
    if case.operation.label != "POST /v1/collections":
        case.body = settled(case.body, there)
    if isinstance(case.body, dict) and isinstance(case.body.get("file"), bytes):
        case.body = {**case.body, "file": PICTURE}
    case.call_and_validate(
        base_url=str(inhabited.client.base_url), headers={"Authorization": f"Bearer {ADMIN}"}, timeout=60
    )
