"""Videos from URLs: fetched by jobs, without a connection to a private address."""

from __future__ import annotations

import csv
import io
import itertools
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from service.errors import UrlFailed, UrlRefused
from service.http_client.client import SafeClient
from service.http_client.url_policy import Address, block_reason
from service.settings import read_settings
from tests.chaos import rounds
from tests.service.conftest import settings_for
from tests.service.fake_server import FakeServer, dripping, fake_server, page, redirect
from tests.service.jobs import finished_job
from tests.service.running import JSON, Running, problem_of, serving
from tests.sockets import connected_addresses, record_connections
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import InvalidInput

PUBLIC = IPv4Address("127.0.0.42")
"""Stands for a public address, the only one that may be connected to."""
INTERNAL = "127.0.0.1"

ADDRESSES: dict[str, list[str]] = {
    "media.example": [str(PUBLIC)],
    "loop.example": ["127.0.0.1"],
    "loop6.example": ["::1"],
    "lan.example": ["192.168.1.10"],
    "meta.example": ["169.254.169.254"],
    "mixed.example": [str(PUBLIC), "10.0.0.1"],
    "mixed6.example": [str(PUBLIC), "fd00::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "sixtofour.example": ["2002:7f00:1::"],
    "teredo.example": ["2001:0:7f00:1::1"],
    "zone.example": ["fe80::1%lo"],
    "zero.example": ["0.0.0.0"],
    "metadata.google.internal": ["169.254.169.254"],
    "db.localhost": ["127.0.0.1"],
    "127.0.0.1.nip.example": ["127.0.0.1"],
    "xn--n8j6ds53lwwkrqhv28a.example": ["10.1.2.3"],
}
HOSTILE_TEXT = """
# Numbers that resolvers take for addresses
http://127.0.0.1:{p}/ http://127.1:{p}/ http://127.0.1:{p}/ http://2130706433:{p}/ http://0:{p}/
http://0x7f000001:{p}/ http://0x7f.0.0.1:{p}/ http://0X7F.1:{p}/ http://017700000001:{p}/ http://0177.0.0.1:{p}/
http://127.0.0.01:{p}/ http://00000127.0.0.1:{p}/ http://127.0.0.1.:{p}/ http://127.0.0.1.0x:{p}/
http://425.510.425.510:{p}/ http://4294967297:{p}/ http://1.1.1.1.1:{p}/
# Addresses of private networks and clouds, and unassigned ones
http://10.0.0.1/ http://172.16.0.1/ http://192.168.0.1/ http://100.64.0.1/ http://0.0.0.0:{p}/
http://169.254.169.254/latest/meta-data/ http://100.100.100.200/ http://168.63.129.16/ http://192.0.2.1/
http://198.18.0.1/ http://224.0.0.1/ http://255.255.255.255/ http://192.88.99.1/
# IPv6, and IPv4 inside of it
http://[::1]:{p}/ http://[::]:{p}/ http://[0:0:0:0:0:0:0:1]:{p}/ http://[0:0:0:0:0:ffff:7f00:1]:{p}/
http://[::ffff:127.0.0.1]:{p}/ http://[::127.0.0.1]:{p}/ http://[fe80:0:0:0:0:0:0:1%25lo]:{p}/
http://[fe80:0:0:0:0:0:0:1%lo]:{p}/ http://[fd00:ec2:0:0:0:0:0:254]/ http://[64:ff9b:0:0:0:0:7f00:1]:{p}/
http://[64:ff9b:1:0:0:0:7f00:1]:{p}/ http://[2002:7f00:1:0:0:0:0:0]:{p}/ http://[ff02:0:0:0:0:0:0:1]/
http://[2001:0:7f00:1:0:0:80ff:fffe]:{p}/ http://[2001:db8:0:0:0:0:0:1]/ http://[fec0:0:0:0:0:0:0:1]/
# Names that are, or lead to, this machine or network
http://localhost:{p}/ http://LOCALHOST:{p}/ http://localhost.:{p}/ http://db.localhost:{p}/
http://localhost.localdomain:{p}/ http://metadata.google.internal/ http://metadata/ http://db:{p}/
http://unknown.example:{p}/
# Other letters and dots
http://127。0。0。1:{p}/ http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{p}/
http://①②⑦.⓪.⓪.①:{p}/ http://ⓛocalhost:{p}/ http://bücher.example:{p}/
# One text that two parsers read differently
http://media.example@127.0.0.1:{p}/ http://user:secret@media.example:{p}/ http://@127.0.0.1:{p}/
http://127.0.0.1:{p}#@media.example/ http://media.example:{p}@127.0.0.1:{p}/ http://127.0.0.1:{p}?@media.example/
http:///127.0.0.1:{p}/ http://%31%32%37.0.0.1:{p}/ http://127.0.0.1%2f@media.example:{p}/ http://[127.0.0.1]:{p}/
http://[v1.127.0.0.1]:{p}/ http:127.0.0.1:{p}/ http://127.0.0.1%00.media.example/
# Schemes and ports
HTTP://127.0.0.1:{p}/ file:///etc/passwd FILE:///etc/passwd gopher://127.0.0.1:{p}/_GET ftp://127.0.0.1/
data:video/mp4;base64,AAAA dict://127.0.0.1:11211/ ws://127.0.0.1:{p}/ unix:///var/run/docker.sock
http://media.example:22/ http://media.example:0/ http://media.example:65536/ http://media.example:-1/
http://media.example:{p}{p}/ //127.0.0.1:{p}/ simplecache::http://127.0.0.1:{p}/ github://a:b@127.0.0.1/
# Redirects, of a host that may be connected to
http://rebind.example:{p}/again
"""
HOSTILE = [
    *(url for line in HOSTILE_TEXT.splitlines() if not line.startswith("#") for url in line.split()),
    # Names that lead to this machine or network
    *(f"http://{name}:{{p}}/" for name in ADDRESSES if name not in ("media.example", "db.localhost")),
    # White space, control characters and backslashes
    "http://loc\xadalhost:{p}/",
    "http://127.0.0.1\u200b:{p}/",
    "http://127.0.0.1:{p}\\@media.example/",
    "http:\\\\127.0.0.1:{p}/",
    "http://127.0.0.1 :{p}/",
    "http://media.example\t@127.0.0.1:{p}/",
    "http://media.example:{p}/\r\nHost: 127.0.0.1/",
    "http://media.example:{p}\r\n@127.0.0.1/",
    "http://127.0.0.1\n:{p}/",
    "http://" + "a" * 5000 + ".example/",
    "http://" + "a." * 200 + "example:{p}/",
    # Redirects from a permitted host
    *(f"http://media.example:{{p}}/to/{number}" for number in range(15)),
]
REDIRECTS = [
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:{p}/",
    "http://lan.example:{p}/",
    "//0x7f.1:{p}/",
    "http://[::1]:{p}/",
    "file:///etc/passwd",
    "http://media.example@127.0.0.1:{p}/",
    "http://media.example:22/",
    "gopher://media.example:{p}/",
    "http://[",
    "/a b",
    "",
    "/to/12",
    "/to/1",
    "/to/14",
]


@dataclass
class Fetching:
    """A service that fetches URLs, the fake servers, and the addresses that must not be connected to."""

    running: Running
    media: FakeServer
    internal: FakeServer

    def url(self, path: str, host: str = "media.example") -> str:
        return f"http://{host}:{self.media.port}{path}"


def is_blocked(address: Address) -> str | None:
    return None if address == PUBLIC else block_reason(address)


def resolve(host: str) -> list[Address]:
    if host not in ADDRESSES:
        raise OSError("unknown")
    return [ip_address(address) for address in ADDRESSES[host]]


@pytest.fixture(scope="module")
def fetching(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetching]:
    # In this order: a port that is free at the first address is free at the second, which nothing else uses.
    with fake_server(address=INTERNAL) as internal, fake_server(address=str(PUBLIC), port=internal.port) as media:
        data = tmp_path_factory.mktemp("fetching")
        settings = settings_for(
            small_bundle,
            data,
            url_fetch="on",
            url_fetch_schemes=["https", "http"],
            url_fetch_ports=[443, 80, media.port],
            url_fetch_max_redirects=4,
            max_video_bytes=200_000,
            allowed_roots=[data],
        )
        policy = replace(
            settings.url_policy(), connect_timeout=PATIENCE, read_timeout=PATIENCE, response_timeout=PATIENCE
        )
        client = SafeClient(policy, resolve=resolve, address_filter=is_blocked)
        with serving(settings, url_client=client) as running:
            yield Fetching(running, media, internal)


_numbers = itertools.count()


@pytest.fixture
def films(fetching: Fetching) -> str:
    name = f"films-{next(_numbers)}"
    fetching.running.client.post("/v1/collections", json={"name": name}).raise_for_status()
    return name


def fetched_item(fetching: Fetching, collection: str, url: str, **more: object) -> JSON:
    """Add a video by URL and return the finished item of its job."""
    response = fetching.running.client.post(f"/v1/collections/{collection}/videos", json={"url": url, **more})
    assert response.status_code == 202, response.text
    finished_job(fetching.running.client, response.headers["location"])
    item: JSON = fetching.running.client.get(f"{response.headers['location']}/items").json()["items"][0]
    return item


def stored_files(fetching: Fetching, collection: str) -> list[Path]:
    """Return the files that jobs have left in a collection."""
    return list((fetching.running.settings.data_dir / "collections" / collection).glob("media/*/*"))


def test_a_fetched_video_becomes_searchable(fetching: Fetching, films: str, files: Path) -> None:
    content = (files / "green.mp4").read_bytes()
    redirects = {"/old": redirect("/older"), "/older": redirect("/green.mp4?c=1")}
    fetching.media.pages |= {"/green.mp4": page(content)} | redirects
    item = fetched_item(fetching, films, fetching.url("/old"), title="Meadow", metadata={"year": 2020})
    assert (item["state"], item["title"]) == ("succeeded", "Meadow")
    client = fetching.running.client
    response = client.post(f"/v1/collections/{films}/search", json={"text": "green", "filter": {"year": 2020}}).json()
    video = response["results"][0]["video"]
    assert (video["title"], video["id"]) == ("Meadow", item["video_id"])
    assert client.get(video["media_url"]).content == content

    again = fetched_item(fetching, films, fetching.url("/green.mp4"))
    assert (again["state"], again["video_id"]) == ("skipped", item["video_id"])
    assert "has this content already" in again["reason"]
    with (files / "green.mp4").open("rb") as file:
        assert client.post(f"/v1/collections/{films}/videos", files={"file": file}).status_code == 200


def test_the_title_comes_from_the_url_and_the_type_from_the_content(
    fetching: Fetching, films: str, files: Path
) -> None:
    fetching.media.pages["/my%20blue.html"] = page((files / "blue.mp4").read_bytes(), "Content-Type: text/html")
    item = fetched_item(fetching, films, fetching.url("/my%20blue.html?x=1"))
    video = fetching.running.client.get(f"/v1/collections/{films}/videos/{item['video_id']}").json()
    assert video["title"] == "my blue"
    fetching.media.pages["/words.mp4"] = page(b"<html>a login page</html>", "Content-Type: video/mp4")
    item = fetched_item(fetching, films, fetching.url("/words.mp4"))
    assert (item["state"], item["video_id"]) == ("failed", None)
    assert "text" in item["reason"]


def test_a_list_may_name_urls(fetching: Fetching, films: str, files: Path) -> None:
    fetching.media.pages["/red.mp4"] = page((files / "red.mp4").read_bytes())
    file_list = fetching.running.settings.data_dir / "list.csv"
    rows = [["path", "title"], [fetching.url("/red.mp4"), "Red"], [fetching.url("/gone.mp4"), ""]]
    with file_list.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    source = {"kind": "list", "file": str(file_list)}
    response = fetching.running.client.post(f"/v1/collections/{films}/jobs", json={"source": source})
    assert finished_job(fetching.running.client, response.headers["location"])["counts"]["succeeded"] == 1
    items = fetching.running.client.get(f"{response.headers['location']}/items").json()["items"]
    assert [item["state"] for item in items] == ["succeeded", "failed"]
    assert "status 404; 200 was expected" in items[1]["reason"]


def test_a_temporary_failure_is_retried(fetching: Fetching, films: str, files: Path) -> None:
    fetching.media.pages["/late.mp4"] = page(b"", status="503 Service Unavailable")
    client = fetching.running.client
    response = client.post(f"/v1/collections/{films}/videos", json={"url": fetching.url("/late.mp4")})
    job = response.headers["location"]
    assert finished_job(client, job)["counts"]["failed"] == 1
    fetching.media.pages["/late.mp4"] = page((files / "red.mp4").read_bytes())
    assert client.post(f"{job}/retry").status_code == 200
    assert finished_job(client, job)["counts"]["succeeded"] == 1


def test_truncated_and_endless_bodies_fail_their_file_and_leave_nothing(
    fetching: Fetching, films: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok = b"HTTP/1.1 200 OK\r\n"
    fetching.media.pages |= {
        "/endless": dripping(ok + b"\r\n", bytes(50_000), 0, fetching.media),
        "/short": page(b"ab", length=1000),
        "/empty": page(b""),
        "/stalled": dripping(ok + b"Content-Length: 1000\r\n\r\nab", b"", 1, fetching.media),
    }
    url_client = fetching.running.service.url_client
    assert url_client is not None
    for path, reason in {
        "/endless": "more than 200000 bytes; at most 200000",
        "/short": "broke off after 2 bytes",
        "/empty": "empty",
        "/stalled": "waiting for the next byte took more than 0.2 s",
    }.items():
        if path == "/stalled":
            monkeypatch.setattr(url_client, "policy", replace(url_client.policy, read_timeout=0.2))
        item = fetched_item(fetching, films, fetching.url(path))
        assert (item["state"], item["video_id"]) == ("failed", None)
        assert reason in item["reason"], path
    assert stored_files(fetching, films) == []


def test_a_slow_url_delays_neither_requests_nor_cancellation(fetching: Fetching, films: str) -> None:
    fetching.media.pages["/slow"] = dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"a", 0.1, fetching.media)
    client = fetching.running.client
    job = client.post(f"/v1/collections/{films}/videos", json={"url": fetching.url("/slow")}).headers["location"]
    wait_for(lambda: any("/slow" in request for request in fetching.media.requests))
    assert client.get("/livez").status_code == 200
    assert client.get(f"/v1/collections/{films}/videos").json()["videos"] == []
    assert client.delete(job).status_code == 200
    assert finished_job(client, job)["state"] == "cancelled"
    assert stored_files(fetching, films) == []


def test_no_hostile_url_connects_to_a_private_address(fetching: Fetching, films: str) -> None:
    """Every connection of the process, including those of this client, is recorded."""
    port = fetching.media.port
    fetching.media.pages |= {
        f"/to/{number}": redirect(location.format(p=port)) for number, location in enumerate(REDIRECTS)
    }
    fetching.media.pages["/again"] = redirect("/secret")
    ADDRESSES["rebind.example"] = [str(PUBLIC)]

    def rebinding(host: str) -> list[Address]:
        response = resolve(host)
        if host == "rebind.example":
            ADDRESSES[host] = [INTERNAL]  # from the second time on
        return response

    assert fetching.running.service.url_client is not None
    fetching.running.service.url_client._resolve = rebinding
    client = fetching.running.client
    urls = [url.replace("{p}", str(port)) for url in HOSTILE]
    fetching.internal.requests.clear()
    jobs = []
    with record_connections() as seen:
        for url in urls:
            response = client.post(f"/v1/collections/{films}/videos", json={"url": url})
            assert response.status_code in (202, 403, 422), (url, response.text)
            if response.status_code == 202:
                jobs.append((url, response.headers["location"]))
        for url, job in jobs:
            assert finished_job(client, job)["counts"]["failed"] == 1, url
        ADDRESSES["rebind.example"] = [str(PUBLIC)]
        counts = run_list(fetching, films, urls)
        service = (client.base_url.host, client.base_url.port)
    assert counts["failed"] == counts["total"] >= len(urls)
    # Names and redirects were followed up to the limits.
    assert {"/to/0", "/to/14", "/again"} <= {request.split(" ")[1] for request in fetching.media.requests}
    assert connected_addresses(seen) - {service} == {(str(PUBLIC), port)}
    assert fetching.internal.requests == []


def test_no_mutated_hostile_url_connects_to_a_private_address(fetching: Fetching) -> None:
    rng = random.Random(7)
    pieces = [*"0123456789abcdefx.:@/\\#?%[] \t\r\n", "%00", "127.0.0.1", "::1", "media.example", "ⓛ", "。", "\uff11"]
    public_addresses: list[Address] = []

    def allow_test_server(address: Address) -> str | None:
        reason = is_blocked(address)
        if reason is None and address != PUBLIC:
            public_addresses.append(address)
            return "tests connect to no other address"
        return reason

    policy = fetching.running.settings.url_policy()
    client, fetched = SafeClient(policy, resolve=resolve, address_filter=allow_test_server), 0
    fetching.internal.requests.clear()
    with record_connections() as seen:
        for _ in range(rounds(2_000, 500_000)):
            url = rng.choice(HOSTILE).replace("{p}", str(fetching.media.port))[:200]
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(url) + 1)
                url = url[:at] + rng.choice(pieces) + url[at + rng.randint(0, 2) :]
            with suppress(UrlRefused, UrlFailed, InvalidInput):
                client.fetch(url, io.BytesIO())
                fetched += 1
        service = (fetching.running.client.base_url.host, fetching.running.client.base_url.port)
    assert {host for host, _ in connected_addresses(seen) - {service}} == {str(PUBLIC)}
    assert all(address.is_global for address in public_addresses)
    assert fetching.internal.requests == []
    assert fetched == 0  # the paths of the fake servers are not in the corpus


def run_list(fetching: Fetching, collection: str, urls: list[str]) -> dict[str, int]:
    """Run a job for a file list of these URLs; return its counts and the number of lines."""
    file = fetching.running.settings.data_dir / "hostile.csv"
    with file.open("w", newline="", encoding="utf-8") as written:
        csv.writer(written).writerows([["path"], *([url] for url in urls)])
    source = {"kind": "list", "file": str(file)}
    response = fetching.running.client.post(f"/v1/collections/{collection}/jobs", json={"source": source})
    done = finished_job(fetching.running.client, response.headers["location"])
    return {**done["counts"], "total": done["total"]}


def test_url_fetch_is_off_by_default_and_the_error_names_the_setting(running: Running, collection: str) -> None:
    address = f"/v1/collections/{collection}"
    url = "https://media.example/film.mp4"
    for response in (
        running.client.post(f"{address}/videos", json={"url": url}),
        running.client.post(f"{address}/jobs", json={"source": {"kind": "url", "url": url}}),
    ):
        assert "VITASCOPE_URL_FETCH=on" in problem_of(response, 403, "path_forbidden")["detail"]
    assert running.service.url_client is None


def test_a_body_without_a_valid_url_is_rejected(fetching: Fetching, films: str) -> None:
    for body in ({}, {"url": ""}, {"url": 7}, {"url": "https://media.example/", "file": "x"}):
        response = fetching.running.client.post(f"/v1/collections/{films}/videos", json=body)
        problem_of(response, 422, "validation_failed")
    response = fetching.running.client.post(f"/v1/collections/{films}/videos", json={"url": "http://media.example:22/"})
    assert "port 22; " in problem_of(response, 403, "url_refused")["detail"]


@pytest.mark.parametrize(
    "setting",
    [
        {"url_fetch": "yes"},
        {"url_fetch_schemes": ["ftp"]},
        {"url_fetch_schemes": []},
        {"url_fetch_ports": [0]},
        {"url_fetch_ports": []},
        {"url_fetch_hosts": ["https://media.example"]},
        {"url_fetch_hosts": ["*"]},
        {"url_fetch_blocked_networks": ["10.0.0.0/33"]},
        {"url_fetch_max_redirects": 99},
        {"url_fetch_timeout": 0},
    ],
)
def test_invalid_settings_are_named(setting: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(setting))):
        read_settings(**setting)
