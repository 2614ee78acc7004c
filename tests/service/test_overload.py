"""Ten times what the service can do, by open-loop load on a real process: refusals, liveness, and afterwards.

What is counted here holds on any machine; how long things take is asserted by `make chaos` only, on one that is quiet.
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

TIMES = 10
AT_ONCE = 8
"""Requests that the service takes at once."""
TEXTS = 256
"""In one request."""
REQUESTS = rounds(200, 6000)
"""Of the load: all at once, or by `make chaos` at ten times what the service can do. More would be more connections
than one process can hold.
"""
LIVE_SECONDS, REFUSED_SECONDS, NORMAL_SECONDS = 0.1, 0.05, 5.0


async def watch(url: str, over: asyncio.Event) -> list[float]:
    """How long `/livez` took at ``url``, asked twenty times a second by connections of its own."""
    took = []
    while not over.is_set():
        client, began = Client(url), time.perf_counter()
        status, *_ = await client.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        took.append(time.perf_counter() - began)
        assert status == 200
        client.close()
        await asyncio.sleep(0.05)
    return took


def test_what_is_too_much_is_refused_properly_and_the_rest_goes_on(small_bundle: Path, tmp_path: Path) -> None:
    given = {"max_requests": AT_ONCE, "text_cache_bytes": 0, "log_level": "warning", "header_timeout": PATIENCE}
    with (
        reserved_port() as port,
        process(settings_for(small_bundle, tmp_path / "data", health_port=port, **given)) as (client, _),
    ):
        url, health = str(client.base_url), f"http://127.0.0.1:{port}"
        body = {"input": ["a red thing"] * TEXTS, "encoding_format": "base64"}
        asked = [post_bytes(f"{url}/v1/embeddings", json.dumps(body).encode())]
        rate = REQUESTS * 1000.0
        if is_chaos():
            able = asyncio.run(closed_loop(url, asked, AT_ONCE // 2, 1.0))
            assert not able.failed
            rate = TIMES * able.rate

        async def flood() -> tuple[list[float], Outcome]:
            over = asyncio.Event()
            watching = [asyncio.create_task(watch(place, over)) for place in (url, health)]
            outcome = await open_loop(url, asked, rate, REQUESTS / rate)
            over.set()
            _, took = [await each for each in watching]
            return took, outcome

        live, outcome = asyncio.run(flood())
        ended = time.monotonic()
        wait_for(lambda: "vitascope_requests_in_flight 1.0" in httpx.get(f"{url}/metrics").text)
        normal = [client.post("/v1/embeddings", json={"input": ["a red thing"]}) for _ in range(20)]
        took = time.monotonic() - ended
    assert outcome.failed == 0
    assert outcome.latencies
    assert outcome.refused
    assert outcome.refusals_without_retry_after == 0
    assert [answer.status_code for answer in normal] == [200] * 20
    if is_chaos():
        assert took < NORMAL_SECONDS
        assert quantiles(live, n=100)[-1] < LIVE_SECONDS
        assert median(outcome.refused) < REFUSED_SECONDS
