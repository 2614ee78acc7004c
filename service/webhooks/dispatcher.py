"""Delivery of webhook messages, at least once.

The catalogue marks every end of a job as undelivered, in the transaction of the end. The mark is removed after a
message is queued durably, and the message stays queued until its endpoint accepts it or ``retry_seconds`` have passed.
So a crash loses no message, but may send one twice. Neither jobs nor requests wait for deliveries.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import list_items, mark_delivered, undelivered_end_events
from index.jobs.records import StateEvent
from service.http_client.client import Cancelled, SafeClient
from service.serializers import serialize_job
from service.webhooks.store import WEBHOOK_EVENTS, Delivery, Endpoint, Message, WebhookEvent, WebhookStore
from vitascope.client.retry import parse_retry_after
from vitascope.errors import NotFound, VitascopeError
from vitascope.job_states import FAILED_ITEM_STATES
from vitascope.webhooks import ID, SIGNATURE, TIMESTAMP, sign

_log = logging.getLogger("vitascope.service")

POLL_SECONDS = 1.0
MAX_SENDERS = 4
"""Number of concurrent endpoints, with one message each, so that a slow endpoint delays only its own messages."""
MAX_EVENTS = 100
"""Number of events of finished jobs that are read per query."""
BASE_DELAY = 5.0
MAX_DELAY = 3600.0
"""Seconds between the first two attempts; the delay doubles each time, with a jitter of up to half."""
UNREADABLE_SECONDS = 60.0
"""Seconds until a collection that could not be read is polled again."""
GONE = 410
MAX_FAILURES = 10
"""Maximum number of failed files of a job that a message names."""
MAX_REASON_LENGTH = 300


class Dispatcher:
    """Polls for finished jobs and sends messages, in its own threads."""

    def __init__(self, store: WebhookStore, library: CollectionStore, client: SafeClient, retry_seconds: float) -> None:
        """``retry_seconds``: age at which delivery of a message is no longer retried."""
        self.store = store
        self._library = library
        self._client = client
        self._retry_seconds = retry_seconds
        self._not_before: dict[str, float] = {}
        self._sent_at: dict[str, float] = {}
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._senders = ThreadPoolExecutor(MAX_SENDERS, "webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def check_url(self, url: str) -> None:
        """Raise InvalidInput or UrlRefused for a URL that the settings forbid. Host names are not resolved."""
        self._client.check(url)

    def start(self) -> None:
        """Start polling and sending, including messages that an earlier process has queued."""
        with self._changed:
            if not self._stopping:
                self._thread.start()

    def stop(self, timeout: float) -> None:
        """Cancel deliveries in progress, within ``timeout`` seconds; they are repeated at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._senders.shutdown(wait=True, cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._queue_messages()
                self._send_due()
            except Exception:  # probably a full disk; nothing is lost meanwhile
                _log.exception("webhooks: retried in %g s", POLL_SECONDS)
            with self._changed:
                if not self._stopping:
                    self._changed.wait(POLL_SECONDS)

    def _queue_messages(self) -> None:
        """Queue the messages about jobs that have ended."""
        if not self.store.endpoints():
            return
        now = time.monotonic()
        for name in self._library.names():
            if self._not_before.get(name, now) > now:
                continue
            try:
                self.queue_messages(self._library.open(name))
            except NotFound:  # dropped in the meantime
                continue
            except VitascopeError as error:
                self._not_before[name] = now + UNREADABLE_SECONDS
                _log.error("collection %s: ended jobs cannot be read: %s", name, error)

    def queue_messages(self, collection: Collection) -> None:
        """Queue the messages about jobs of a collection that have ended. Raises StorageError."""
        while not self._stopping and (ends := undelivered_end_events(collection, MAX_EVENTS)):
            endpoints = (
                self.store.endpoints()
            )  # read after the events, so that no endpoint that existed at an event is missing
            self.store.add([message for end in ends for message in create_messages(collection, end, endpoints)])
            mark_delivered(collection, ends)

    def _send_due(self) -> None:
        """Start due deliveries, in the order of the endpoints' last deliveries."""
        with self._changed:
            busy = set(self._busy)  # before reading the due deliveries, which may be outdated for these
        due = [delivery for delivery in self.store.due(time.time()) if delivery.endpoint not in busy]
        for delivery in sorted(due, key=lambda delivery: self._sent_at.get(delivery.endpoint, 0.0)):
            with self._changed:
                if self._stopping or len(self._busy) >= MAX_SENDERS:
                    return
                self._busy.add(delivery.endpoint)
            self._sent_at[delivery.endpoint] = time.monotonic()
            self._senders.submit(self._send, delivery)

    def _send(self, delivery: Delivery) -> None:
        try:
            endpoint = self.store.endpoint(delivery.endpoint)
            self.store.update(self._attempt(delivery, endpoint))
        except (Cancelled, NotFound):  # repeated at the next start; or the endpoint was deleted
            pass
        except Exception:  # it is still due
            _log.exception("webhook %s: message %s", delivery.endpoint, delivery.id)
            time.sleep(POLL_SECONDS)
        finally:
            with self._changed:
                self._busy.discard(delivery.endpoint)
                self._changed.notify_all()

    def _attempt(self, delivery: Delivery, endpoint: Endpoint) -> Delivery:
        """Send a message once and return the updated delivery."""
        status, error = None, None
        response_headers: Mapping[str, str] = {}
        try:
            headers = _signed_headers(delivery, endpoint, time.time())
            response = self._client.post(endpoint.url, delivery.body, headers, lambda: self._stopping)
        except VitascopeError as reason:
            error = str(reason)
        else:
            status, response_headers = response.status, response.headers
            error = None if 200 <= status < 300 else f"status {status}; 200 to 299 was expected"
        now = time.time()
        attempts = delivery.attempts + 1
        updated = replace(
            delivery, attempts=attempts, last_at=now, status=status, error=error, next_at=None, state="delivered"
        )
        if error is None:
            return updated
        delay = retry_delay(attempts, response_headers)
        is_given_up = status == GONE or now + delay > delivery.created_at + self._retry_seconds
        consequence = "given up" if is_given_up else f"retried in {delay:.0f} s"
        _log.warning("webhook %s: message %s: %s; %s", endpoint.id, delivery.id, error, consequence)
        if is_given_up:
            return replace(updated, state="failed")
        return replace(updated, state="pending", next_at=now + delay)


def create_messages(collection: Collection, end: StateEvent, endpoints: Sequence[Endpoint]) -> list[Message]:
    """Return a message for each endpoint that receives this event type and existed at the event.

    Raises:
        StorageError: The failed files of the job cannot be read.
    """
    event_type = next(each for each in WEBHOOK_EVENTS if each == f"job.{end.job.state}")
    receivers = [each for each in endpoints if event_type in each.events and each.created_at <= end.at]
    if not receivers:
        return []
    body = _message_body(collection, event_type, end)
    return [
        Message(_message_id(collection.name, end, endpoint), endpoint.id, event_type, body) for endpoint in receivers
    ]


def _message_id(collection_name: str, end: StateEvent, endpoint: Endpoint) -> str:
    identity = json.dumps([endpoint.id, collection_name, end.job.id, end.number, end.at])
    return f"msg_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


def _message_body(collection: Collection, event_type: WebhookEvent, end: StateEvent) -> bytes:
    failures = [
        item for state in FAILED_ITEM_STATES for item in list_items(collection, end.job.id, state, MAX_FAILURES)
    ]
    data = {
        "collection": collection.name,
        "job": serialize_job(end.job).model_dump(mode="json"),
        "failures": [
            {"path": item.path, "state": item.state, "reason": (item.reason or "")[:MAX_REASON_LENGTH]}
            for item in failures[:MAX_FAILURES]
        ],
    }
    timestamp = datetime.fromtimestamp(end.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event_type, "timestamp": timestamp, "data": data}, ensure_ascii=False).encode()


def _signed_headers(delivery: Delivery, endpoint: Endpoint, now: float) -> dict[str, str]:
    signatures = [sign(secret, delivery.id, int(now), delivery.body) for secret in endpoint.secrets_at(now)]
    return {
        "Content-Type": "application/json",
        ID: delivery.id,
        TIMESTAMP: str(int(now)),
        SIGNATURE: " ".join(signatures),
    }


def retry_delay(attempts: int, response_headers: Mapping[str, str]) -> float:
    """Return the seconds until the next attempt: exponential backoff with jitter, at least Retry-After."""
    backoff = min(MAX_DELAY, BASE_DELAY * 2.0 ** min(attempts - 1, 30)) * random.uniform(0.5, 1.0)
    return max(backoff, min(MAX_DELAY, parse_retry_after(response_headers) or 0.0))
