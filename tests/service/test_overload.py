"""Open-loop load on a real process at ten times its capacity: rejections, liveness, and recovery.

Counts are asserted on any machine, durations by `make chaos` only, which runs on an idle one.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from statistics import median, quantiles

import httpx

from benchmarks.service.load import Client, Outcome, closed_loop, open_loop, post_bytes
from tests.chaos import is_chaos, rounds
from tests.ports import reserved_port
from tests.service.conftest import settings_for
from tests.service.running import process
from tests.waiting import PATIENCE, wait_for

OVERLOAD = 10
MAX_REQUESTS = 8
"""The service's limit on concurrent requests."""
TEXTS_PER_REQUEST = 256
REQUESTS = rounds(200, 6000)
"""All at once, or in `make chaos` at ten times the capacity. More need more connections than one process can open."""
LIVENESS_SECONDS, REJECTION_SECONDS, RECOVERY_SECONDS = 0.1, 0.05, 5.0


async def poll_liveness(url: str, finished: asyncio.Event) -> list[float]:
    """Return the latencies of `/livez` in seconds, polled twenty times a second on new connections."""
    latencies = []
    while not finished.is_set():
        client, started_at = Client(url), time.perf_counter()
        status, *_ = await client.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        latencies.append(time.perf_counter() - started_at)
        assert status == 200
        client.close()
        await asyncio.sleep(0.05)
    return latencies


def test_under_overload_excess_requests_are_rejected_and_the_service_recovers(
    small_bundle: Path, tmp_path: Path
) -> None:
    options = {"max_requests": MAX_REQUESTS, "text_cache_bytes": 0, "log_level": "warning", "header_timeout": PATIENCE}
    with (
        reserved_port() as port,
        process(settings_for(small_bundle, tmp_path / "data", health_port=port, **options)) as (client, _),
    ):
        url, health = str(client.base_url), f"http://127.0.0.1:{port}"
        body = {"input": ["a red thing"] * TEXTS_PER_REQUEST, "encoding_format": "base64"}
        requests = [post_bytes(f"{url}/v1/embeddings", json.dumps(body).encode())]
        rate = REQUESTS * 1000.0
        if is_chaos():
            capacity = asyncio.run(closed_loop(url, requests, MAX_REQUESTS // 2, 1.0))
            assert not capacity.failed
            rate = OVERLOAD * capacity.rate

        async def flood() -> tuple[list[float], Outcome]:
            finished = asyncio.Event()
            polls = [asyncio.create_task(poll_liveness(address, finished)) for address in (url, health)]
            outcome = await open_loop(url, requests, rate, REQUESTS / rate)
            finished.set()
            _, latencies = [await poll for poll in polls]
            return latencies, outcome

        liveness, outcome = asyncio.run(flood())
        ended_at = time.monotonic()
        wait_for(lambda: "vitascope_requests_in_flight 1.0" in httpx.get(f"{url}/metrics").text)
        responses = [client.post("/v1/embeddings", json={"input": ["a red thing"]}) for _ in range(20)]
        recovery = time.monotonic() - ended_at
    assert outcome.failed == 0
    assert outcome.latencies
    assert outcome.refused
    assert outcome.refusals_without_retry_after == 0
    assert [response.status_code for response in responses] == [200] * 20
    if is_chaos():
        assert recovery < RECOVERY_SECONDS
        assert quantiles(liveness, n=100)[-1] < LIVENESS_SECONDS
        assert median(outcome.refused) < REJECTION_SECONDS
