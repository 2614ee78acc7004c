"""Brings messages to endpoints: notices what ended, keeps a message for each endpoint, sends it until it is taken.

The catalogue keeps every end that was not told yet, written with the end itself. A message is kept before that is
forgotten, and is there until an endpoint took it or its time is over. So a kill at any moment loses none, though it may
have one sent twice. No job or request waits for anything here.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.events import mark_delivered, undelivered_end_events
from service.http_client.deadline import Cancelled
from service.http_client.safe_client import Door
from service.webhooks.message import messages_of
from service.webhooks.records import Delivery, Endpoint
from service.webhooks.store import WebhookStore
from vitascope.errors import NotFound, VitascopeError
from vitascope.webhooks import ID, SIGNATURE, TIMESTAMP, sign

_log = logging.getLogger("vitascope.service")

LOOK_SECONDS = 1.0
SENDERS = 4
"""Endpoints that are sent to at the same time, one message each: a slow one keeps none but itself waiting."""
ENDS_AT_ONCE = 100
FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
"""Between two tries: at first, and at most; doubled in between, and up to half of it taken off by chance."""
UNREADABLE_SECONDS = 60.0
"""Until a collection that cannot be read is looked at again."""
GONE = 410


class Courier:
    """One thread that looks, and a few that send."""

    def __init__(self, store: WebhookStore, library: CollectionStore, door: Door, retry_seconds: float) -> None:
        """A message is given up ``retry_seconds`` after it came to be."""
        self.store = store
        self._library = library
        self._door = door
        self._retry_seconds = retry_seconds
        self._not_before: dict[str, float] = {}
        self._sent_at: dict[str, float] = {}
        self._busy: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._senders = ThreadPoolExecutor(SENDERS, "webhook")
        self._thread = threading.Thread(target=self._work, name="webhooks", daemon=True)

    def check_url(self, url: str) -> None:
        """Raise InvalidInput or UrlRefused for a URL that nothing can be sent to. Nothing is looked up."""
        self._door.check(url)

    def start(self) -> None:
        """Begin with what was not told before."""
        with self._changed:
            if not self._stopping:
                self._thread.start()

    def stop(self, timeout: float) -> None:
        """Break off what is under way, within ``timeout`` seconds; it is sent at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._senders.shutdown(wait=True, cancel_futures=True)

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._notice()
                self._send_due()
            except Exception:  # a full disk, most likely; nothing is forgotten meanwhile
                _log.exception("webhooks: looked at again in %g s", LOOK_SECONDS)
            with self._changed:
                if not self._stopping:
                    self._changed.wait(LOOK_SECONDS)

    def _notice(self) -> None:
        """Keep a message for whoever wants to hear of what ended."""
        if not self.store.endpoints():
            return
        now = time.monotonic()
        for name in self._library.names():
            if self._not_before.get(name, now) > now:
                continue
            try:
                self._notice_in(self._library.open(name))
            except NotFound:  # dropped meanwhile
                continue
            except VitascopeError as error:
                self._not_before[name] = now + UNREADABLE_SECONDS
                _log.error("collection %s: whether jobs ended cannot be read: %s", name, error)

    def _notice_in(self, collection: Collection) -> None:
        while not self._stopping and (ends := undelivered_end_events(collection, ENDS_AT_ONCE)):
            endpoints = self.store.endpoints()  # after the ends: whoever was there when they came is among them
            self.store.add([message for end in ends for message in messages_of(collection, end, endpoints)])
            mark_delivered(collection, ends)

    def _send_due(self) -> None:
        """Begin to send, first to those who were sent to longest ago."""
        with self._changed:
            busy = set(self._busy)  # before it is asked what is due: that is of no use for them
        due = [delivery for delivery in self.store.due(time.time()) if delivery.endpoint not in busy]
        for delivery in sorted(due, key=lambda delivery: self._sent_at.get(delivery.endpoint, 0.0)):
            with self._changed:
                if self._stopping or len(self._busy) >= SENDERS:
                    return
                self._busy.add(delivery.endpoint)
            self._sent_at[delivery.endpoint] = time.monotonic()
            self._senders.submit(self._send, delivery)

    def _send(self, delivery: Delivery) -> None:
        try:
            endpoint = self.store.endpoint(delivery.endpoint)
            self.store.note(self._tried(delivery, endpoint))
        except (Cancelled, NotFound):  # sent at the next start; or nobody wants it any longer
            pass
        except Exception:  # it is still due
            _log.exception("webhook %s: message %s", delivery.endpoint, delivery.id)
            time.sleep(LOOK_SECONDS)
        finally:
            with self._changed:
                self._busy.discard(delivery.endpoint)
                self._changed.notify_all()

    def _tried(self, delivery: Delivery, endpoint: Endpoint) -> Delivery:
        status, error = None, None
        answered: Mapping[str, str] = {}
        try:
            headers = _headers(delivery, endpoint, time.time())
            answer = self._door.post(endpoint.url, delivery.body, headers, lambda: self._stopping)
        except VitascopeError as reason:
            error = str(reason)
        else:
            status, answered = answer.status, answer.headers
            error = None if 200 <= status < 300 else f"answered {status}; 200 to 299 was expected"
        now = time.time()
        tried = replace(
            delivery, tries=delivery.tries + 1, last_at=now, status=status, error=error, next_at=None, state="delivered"
        )
        if error is None:
            return tried
        wait = _wait(tried.tries, answered)
        is_over = status == GONE or now + wait > delivery.created_at + self._retry_seconds
        told = "given up" if is_over else f"tried again in {wait:.0f} s"
        _log.warning("webhook %s: message %s: %s; %s", endpoint.id, delivery.id, error, told)
        return replace(tried, state="failed") if is_over else replace(tried, state="pending", next_at=now + wait)


def _headers(delivery: Delivery, endpoint: Endpoint, now: float) -> dict[str, str]:
    signatures = [sign(secret, delivery.id, int(now), delivery.body) for secret in endpoint.secrets_at(now)]
    return {
        "Content-Type": "application/json",
        ID: delivery.id,
        TIMESTAMP: str(int(now)),
        SIGNATURE: " ".join(signatures),
    }


def _wait(tries: int, answered: Mapping[str, str]) -> float:
    """Seconds until the next try; what an endpoint asks for, if that is longer, within bounds."""
    doubled = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(tries - 1, 30)) * random.uniform(0.5, 1.0)
    asked = answered.get("retry-after", "")
    return max(doubled, min(LONGEST_SECONDS, float(asked)) if asked.isdecimal() and len(asked) < 10 else 0.0)
