"""The OpenAPI document: complete, unchanged unless on purpose, and true of every response (schemathesis).

``python -m tests.service.test_openapi`` writes the snapshot. Schemathesis sends requests, valid and invalid, to
a service that requires keys. No response may be 5xx, and each must be documented: status, content type, headers and
schema. Invalid requests, and those without a key, must be rejected. ``EXAMPLES=5000`` with VITASCOPE_CHAOS runs longer.
"""

from __future__ import annotations

import functools
import json
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
from service.settings import Settings
from tests.chaos import is_chaos, rounds
from tests.service.conftest import fill, settings_for
from tests.service.hostile_requests import PICTURE, example_bodies
from tests.service.running import ADMIN, Running, serving
from tests.waiting import wait_for

SNAPSHOT = Path(__file__).parent / "openapi.json"


@functools.cache
def document() -> dict[str, Any]:
    """Return the document without the version."""
    openapi = create_app(Settings()).openapi()
    openapi["info"].pop("version")
    return openapi


def serialize(openapi: dict[str, Any]) -> str:
    return json.dumps(openapi, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_document_equals_the_snapshot(running: Running) -> None:
    """After a change on purpose: ``python -m tests.service.test_openapi``."""
    assert serialize(document()) == SNAPSHOT.read_text("utf-8")
    served = running.client.get("/openapi.json").json()
    served["info"].pop("version")
    assert serialize(served) == serialize(document())


def test_every_operation_is_described_with_its_errors_and_every_schema_has_an_example() -> None:
    tags = {tag["name"] for tag in document()["tags"]}
    operations = {
        (method, path): operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= tags, name
        assert "default" in operation["responses"], name
        for status, response in operation["responses"].items():
            if not status.startswith(("2", "3")):
                assert list(response["content"]) == ["application/problem+json"], (name, status)
    schemas = document()["components"]["schemas"]
    assert [name for name, schema in schemas.items() if not schema.get("examples")] == []


def test_examples_of_bodies_are_valid(running: Running, palette: str) -> None:
    """Responses are successes, or say that a collection, clip or folder of the example does not exist."""
    for path, bodies in example_bodies(document(), "application/json").items():
        for body in bodies:
            response = running.client.post(path.replace("{name}", palette), json=body)
            assert response.status_code not in (400, 413, 415, 422) or "{key_id}" in path, (path, response.text)


EXAMPLES = rounds(4, int(os.environ.get("EXAMPLES", "200")))
DELETIONS = {
    "DELETE /v1/collections/{name}",
    "DELETE /v1/collections/{name}/videos/{video_id}",
    "DELETE /v1/operations/{operation_id}",
    "DELETE /v1/webhooks/{webhook_id}",
}
"""Operations that would delete what others need; they get generated names only."""
_stored = json.loads(SNAPSHOT.read_text("utf-8"))  # creating the document takes long
schema = schemathesis.openapi.from_dict(
    _stored | {"info": _stored["info"] | {"version": "0"}},
    config=SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"deterministic": True, "database": "none", "with-security-parameters": False},
            "phases": {
                "coverage": {"enabled": is_chaos()},
                # Hypothesis cannot repeat examples that depend on earlier responses.
                "fuzzing": {"extra-data-sources": {"responses": False}},
            },
            "checks": {
                # The schemas lack limits that are settings, and relations between fields.
                "positive_data_acceptance": {"enabled": False},
                "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 409, 413, 415, 422]},
            },
        }
    ),
)


@pytest.fixture(scope="module")
def filled(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service with three videos; its client has the admin key."""
    data = tmp_path_factory.mktemp("filled")
    (data / "incoming" / "colours").mkdir(parents=True)
    (data / "incoming" / "colours" / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    settings = settings_for(
        small_bundle,
        data,
        log_level="error",
        allow_unauthenticated=False,
        admin_key=ADMIN,
        max_operations=5,
        webhooks="on",
        webhook_hosts=["receiver.invalid"],
    )
    with pytest.MonkeyPatch.context() as patch, serving(settings) as running:
        patch.setattr(events, "STREAM_SECONDS", 0.2)  # streams of paused jobs would not end
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@pytest.fixture(scope="module")
def existing(filled: Running) -> dict[str, list[str]]:
    """Names of existing resources, by parameters and fields of requests."""
    client = filled.client

    def create(path: str, **body: object) -> str:
        resource: str = client.post(path, json=body).json()["id"]
        return resource

    operation = create("/v1/operations", kind="backup", collection="palette")
    wait_for(lambda: client.get(f"/v1/operations/{operation}").json()["state"] == "succeeded")
    manifest = filled.service.model.bundle.manifest
    return {
        "name": ["palette"],
        "collection": ["palette"],
        "video_id": ["1", "2", "3"],
        "clip_id": ["1", "2"],
        "job_id": [create("/v1/collections/palette/jobs", folder="colours")],
        "operation_id": [operation],
        "key_id": [create("/v1/keys", name="a key", scopes=["read"])],
        "webhook_id": [create("/v1/webhooks", url="https://receiver.invalid/", events=["job.failed"])],
        "folder": ["colours"],
        "model": [manifest.name],
        "fingerprint": [filled.service.model.bundle.fingerprint],
    }


def with_existing_names(value: Any, existing: dict[str, list[str]]) -> Any:
    """Replace three of four names in ``value`` by existing ones: otherwise all responses would be 404."""
    if isinstance(value, list):
        return [with_existing_names(item, existing) for item in value]
    if not isinstance(value, dict):
        return value
    replaced = {}
    for name, item in value.items():
        number = zlib.crc32(repr(item).encode())
        is_name = isinstance(item, str) and name in existing and number % 4
        replaced[name] = (
            existing[name][number // 4 % len(existing[name])] if is_name else with_existing_names(item, existing)
        )
    return replaced


@schema.parametrize()
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=EXAMPLES)
def test_every_response_is_as_documented(
    case: schemathesis.Case, filled: Running, existing: dict[str, list[str]]
) -> None:
    if case.operation.label not in DELETIONS and case.path_parameters:
        names = existing | ({"name": ["palette.sqlite3"]} if "operation_id" in case.path_parameters else {})
        case.path_parameters = with_existing_names(case.path_parameters, names)
    if case.operation.label != "POST /v1/collections":
        case.body = with_existing_names(case.body, existing)
    if isinstance(case.body, dict) and isinstance(case.body.get("file"), bytes):
        case.body = {**case.body, "file": PICTURE}
    headers = {"Authorization": f"Bearer {ADMIN}"}
    case.call_and_validate(base_url=str(filled.client.base_url), headers=headers, timeout=60)


if __name__ == "__main__":
    SNAPSHOT.write_text(serialize(document()), "utf-8")
    print(f"written: {SNAPSHOT}")
