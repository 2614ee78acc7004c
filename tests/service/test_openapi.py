"""The interface as a document: complete, and changed only on purpose.

After a change that is meant: ``python -m tests.service.test_openapi`` writes the snapshot anew.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.running import Running

SNAPSHOT = Path(__file__).parent / "openapi.json"
UPDATE = "python -m tests.service.test_openapi"


@functools.cache
def document() -> dict[str, Any]:
    """The document without what changes with every release."""
    made = create_app(Settings()).openapi()
    made["info"].pop("version")
    return made


def written(made: dict[str, Any]) -> str:
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_interface_is_what_the_snapshot_says() -> None:
    assert written(document()) == SNAPSHOT.read_text("utf-8"), f"if the change is meant: {UPDATE}"


def test_the_service_serves_it(running: Running) -> None:
    served = running.client.get("/openapi.json").json()
    served["info"].pop("version")
    assert written(served) == written(document())


@pytest.fixture(scope="module")
def operations() -> dict[str, dict[str, Any]]:
    return {
        f"{method} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_every_operation_has_summary_tag_words_and_errors(operations: dict[str, dict[str, Any]]) -> None:
    known = {tag["name"] for tag in document()["tags"]}
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"], name
        assert set(operation["tags"]) <= known, name
        assert "default" in operation["responses"], name
        for status, response in operation["responses"].items():
            if not status.startswith(("2", "3")):
                assert list(response["content"]) == ["application/problem+json"], (name, status)


def test_every_schema_has_an_example() -> None:
    for name, schema in document()["components"]["schemas"].items():
        assert schema.get("examples"), name


def test_every_reference_leads_somewhere() -> None:
    made = document()
    known = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    used = {part.split('"')[0] for part in json.dumps(made).split('"$ref": "')[1:]}
    assert used <= known


def test_examples_of_bodies_are_accepted(running: Running, palette: str) -> None:
    """Each example of a request is one that the service understands: it answers, or does not find what is
    named.
    """
    schemas = document()["components"]["schemas"]
    search = schemas["SearchRequest"]["examples"][0]
    assert running.client.post(f"/v1/collections/{palette}/search", json=search).status_code == 200
    parts = [schemas[name]["examples"][0] for name in ("TextQuery", "ClipQuery")]
    mixed = running.client.post(
        f"/v1/collections/{palette}/search", json={"query": [parts[0], {**parts[1], "value": "1"}]}
    )
    assert mixed.status_code == 200
    job = schemas["NewJob"]["examples"][0]
    assert running.client.post(f"/v1/collections/{palette}/jobs", json=job).json()["code"] == "path_forbidden"
    for path in ("/v1/caption-scores", "/v1/answers"):
        body = document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["examples"][0]
        assert running.client.post(path, json=body).json()["code"] == "collection_not_found"
    rerank = schemas["RerankRequest"]["examples"][0]
    assert running.client.post("/v1/rerank", json=rerank).json()["code"] == "collection_not_found"
    embeddings = schemas["EmbeddingRequest"]["examples"][0] | {"model": "small-colours"}
    assert running.client.post("/v1/embeddings", json=embeddings).status_code == 200


if __name__ == "__main__":
    SNAPSHOT.write_text(written(document()), "utf-8")
    print(f"written: {SNAPSHOT}")
