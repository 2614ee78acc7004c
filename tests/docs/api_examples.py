"""Examples of the API reference, with the Python that sets up and cleans up each.

Bodies are the examples of the OpenAPI document. Ids on the page are placeholders, which the test that runs the examples
replaces by the variables that ``before`` sets.
"""

from __future__ import annotations

from dataclasses import dataclass

IDS = {
    "name": "holidays",
    "video_id": "3",
    "job_id": "1",
    "operation_id": "9f86d081884c7d65",
    "key_id": "3f9c01d2a4b7",
    "fingerprint": "9f0c…ab34",
    "webhook_id": "9f86d081884c7d65",
}
"""Placeholders in paths. For the file of an operation, ``name`` is ``holidays.sqlite3``."""

ENDED = 'job_id = client.create_job("holidays", "/videos/2024")["id"]; client.wait_for_job("holidays", job_id)'
SLOW = 'job_id = client.add_url("holidays", SLOW_URL)["id"]'
STOP = 'client.cancel_job("holidays", job_id)'
BACKUP = 'operation_id = client.create_operation("backup", "holidays")["id"]; client.wait_for_operation(operation_id)'
WEBHOOK = 'webhook_id = client.create_webhook("https://portal.example/hook")["id"]'
UNHOOK = "client.delete_webhook(webhook_id)"
MODEL = 'fingerprint = client.add_model("talks-2")["fingerprint"]; client.wait_for_model(fingerprint)'
OLD = 'client.create_collection("old")'
KEY = 'key_id = client.create_key("made", ["read"])["id"]'


@dataclass(frozen=True)
class Example:
    """An example of an operation.

    Attributes:
        python: Call of the client; empty if it has no such method.
        before, after: Python that the test runs around the example.
        query: Query string of the URL.
        name: Replaces "holidays" in the path.
        file: File of a form.
        options: Options of curl.
    """

    python: str = ""
    before: str = ""
    after: str = ""
    query: str = ""
    name: str = ""
    file: str = "clip.mp4"
    options: str = ""


EXAMPLES = {
    "GET /livez": Example(),
    "GET /readyz": Example("client.is_ready()"),
    "GET /v1/collections": Example("client.list_collections()"),
    "POST /v1/collections": Example(
        'client.create_collection("holidays")',
        before='client.delete_collection("holidays")',
        after="holidays()",
    ),
    "GET /v1/collections/{name}": Example('client.get_collection("holidays")'),
    "PATCH /v1/collections/{name}": Example('client.update_collection("holidays", index_kind="hnsw")'),
    "DELETE /v1/collections/{name}": Example('client.delete_collection("old")', before=OLD, name="old"),
    "GET /v1/collections/{name}/videos": Example(
        'client.list_videos("holidays", where={"year": 2024})', query="?limit=10", options="-s"
    ),
    "POST /v1/collections/{name}/videos": Example(
        'client.add_video("holidays", "clip.mp4", metadata={"camera": "north", "year": 2024})'
    ),
    "GET /v1/collections/{name}/videos/{video_id}": Example('client.get_video("holidays", "3")'),
    "DELETE /v1/collections/{name}/videos/{video_id}": Example(
        'client.delete_video("holidays", "3")', after="holidays()"
    ),
    "GET /v1/collections/{name}/videos/{video_id}/media": Example(
        'client.download_video("holidays", "3", "beach-again.mp4")', options="-s -o beach-again.mp4 -r 0-9999"
    ),
    "GET /v1/collections/{name}/videos/{video_id}/thumbnail": Example(
        'client.get_thumbnail("/v1/collections/holidays/videos/3/thumbnail?t=1.5")',
        options="-s -o at-1.5.jpg",
        query="?t=1.5",
    ),
    "GET /v1/collections/{name}/jobs": Example('client.list_jobs("holidays", state="running")', query="?state=running"),
    "POST /v1/collections/{name}/jobs": Example(
        'client.create_job("holidays", source={"kind": "folder", "folder": "/videos/holidays"})'
    ),
    "GET /v1/collections/{name}/jobs/{job_id}": Example('client.get_job("holidays", "1")', before=ENDED),
    "DELETE /v1/collections/{name}/jobs/{job_id}": Example('client.cancel_job("holidays", "1")', before=SLOW),
    "GET /v1/collections/{name}/jobs/{job_id}/items": Example(
        'client.list_job_items("holidays", "1", state="failed")', before=ENDED, query="?state=failed"
    ),
    "GET /v1/collections/{name}/jobs/{job_id}/events": Example(
        'for event in client.iter_job_events("holidays", "1"):\n    print(event)', before=ENDED, options="-sN"
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/pause": Example(
        'client.pause_job("holidays", "1")', before=SLOW, after=STOP
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/resume": Example(
        'client.resume_job("holidays", "1")', before=f'{SLOW}; client.pause_job("holidays", job_id)', after=STOP
    ),
    "POST /v1/collections/{name}/jobs/{job_id}/retry": Example(
        'client.retry_job("holidays", "1")', before=f"{SLOW}; {STOP}; wait_until_cancelled(job_id)", after=STOP
    ),
    "GET /v1/operations": Example("client.list_operations()"),
    "POST /v1/operations": Example('client.create_operation("backup", "holidays")'),
    "GET /v1/operations/{operation_id}": Example('client.get_operation("9f86d081884c7d65")', before=BACKUP),
    "DELETE /v1/operations/{operation_id}": Example('client.delete_operation("9f86d081884c7d65")', before=BACKUP),
    "GET /v1/operations/{operation_id}/files/{name}": Example(
        'client.backup("holidays", "holidays.sqlite3")', before=BACKUP, name="holidays.sqlite3", options="-s -O"
    ),
    "POST /v1/collections/{name}/search": Example(
        'client.search("holidays", "a dog runs on the beach", rerank=20, where={"year": {"gte": 2020}})', file="dog.jpg"
    ),
    "POST /v1/rerank": Example(
        'client.rerank("a dog runs", [{"clip_id": "41"}, {"video_id": "3"}], collection="holidays")'
    ),
    "POST /v1/caption-scores": Example(
        'client.score(["a dog runs", "a cat sleeps"], collection="holidays", video_id="3", frames=8)'
    ),
    "POST /v1/answers": Example('client.ask("what animal is it?", collection="holidays", video_id="3", top=3)'),
    "POST /v1/embeddings": Example('client.embed_texts(["a dog runs on the beach"])'),
    "GET /v1/models": Example("client.list_models()"),
    "POST /v1/models": Example('client.add_model("hd-vila-tiny-2")'),
    "GET /v1/models/{fingerprint}": Example('client.get_model("9f0c…ab34")', before=MODEL),
    "POST /v1/models/{fingerprint}/default": Example(
        'client.set_default_model("9f0c…ab34")', before=MODEL, after="client.set_default_model(default)"
    ),
    "DELETE /v1/models/{fingerprint}": Example('client.remove_model("9f0c…ab34")', before=MODEL),
    "GET /v1/keys": Example("client.list_keys()"),
    "POST /v1/keys": Example('client.create_key("the portal", ["read"], collections=["holidays"])'),
    "DELETE /v1/keys/{key_id}": Example('client.revoke_key("3f9c01d2a4b7")', before=KEY),
    "POST /v1/media-cookie": Example(options="-si"),
    "GET /v1/webhooks": Example("client.list_webhooks()"),
    "POST /v1/webhooks": Example('client.create_webhook("https://portal.example/hooks/vitascope")'),
    "GET /v1/webhooks/{webhook_id}": Example('client.get_webhook("9f86d081884c7d65")', before=WEBHOOK, after=UNHOOK),
    "DELETE /v1/webhooks/{webhook_id}": Example('client.delete_webhook("9f86d081884c7d65")', before=WEBHOOK),
    "GET /v1/webhooks/{webhook_id}/deliveries": Example(
        'client.list_webhook_deliveries("9f86d081884c7d65", state="pending")',
        before=WEBHOOK,
        after=UNHOOK,
        query="?state=pending",
    ),
    "POST /v1/webhooks/{webhook_id}/rotate": Example(
        'client.rotate_webhook_secret("9f86d081884c7d65")', before=WEBHOOK, after=UNHOOK
    ),
}


def example_of(method: str, path: str) -> Example:
    """Return the example of an operation; by default a plain call."""
    return EXAMPLES.get(f"{method} {path}", Example())
