"""Sections of the settings: names, types, defaults and descriptions.

docs/settings.md is generated from these classes: docstrings of classes are sections, those of fields descriptions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from index.records import MAX_TEXT_LENGTH
from service.http.api_keys import admin_key_digest
from vitascope.cli.options import default_bundle, default_data
from vitascope.errors import InvalidInput
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.sandbox.recognition import MEMORY_BYTES, TIME_FACTOR


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator of texts that have no effect unless they match."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise PydanticCustomError("text", "{expected} was expected", {"expected": expected})
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
HostPattern = Annotated[str, Field(pattern=r"^(\*\.)?([a-z0-9_-]+\.)+[a-z0-9_-]+$")]
HostName = Annotated[
    str,
    _matching(
        r"[^\s:/?#@\[\]*]+|\[?[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}\]?",
        "a name or address without scheme, port and wildcard",
    ),
]
Origin = Annotated[
    str,
    _matching(
        r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://[^\sA-Z/?#@*]+|null",
        "an origin as browsers send it, in lower case, without path, default port and wildcard",
    ),
]
CollectorURL = Annotated[str, _matching(r"(?i:https?)://[^\s/].*", "a URL with http or https")]
Ports = Annotated[set[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1)]
Schemes = Annotated[set[Literal["https", "http"]], Field(min_length=1)]
MIB = 1024**2


def _hash_admin_key(key: object) -> str | None:
    """Replace the key by its digest, so that settings that are shown, logged or dumped do not reveal it."""
    try:
        return None if key is None or key == "" else admin_key_digest(str(key)).hex()
    except InvalidInput as error:
        raise ValueError(str(error)) from error


class _Section(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="VITASCOPE_", frozen=True, extra="forbid", use_attribute_docstrings=True
    )


class BasicSettings(_Section):
    """Data, models and addresses"""

    data_dir: Path = Field(default_factory=default_data)
    """Folder of collections, uploads, keys and backups."""
    bundle: Path = Field(default_factory=default_bundle)
    """Bundle of the default model, unless another one was made the default while the service ran."""
    bundles: list[Path] = []
    """Bundles of further models."""
    bundles_root: Path | None = None
    """Folder below which bundles may be added while the service runs. Unset: only the bundles named above."""
    require_signature: bool = False
    """Require that each bundle is signed by one of `trusted_keys`."""
    trusted_keys: list[Path] = []
    """Public keys, or folders of them (`*.pub`), as written by `vitascope bundle keygen`."""
    max_models: Count = 8
    """Models, including those that failed to load."""
    engine: str = "onnxruntime"
    """Inference engine: `onnxruntime`, in this process, or `kserve:` and the URL of a server that has the graphs."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """Device that runs the graphs."""
    threads: CountOrZero = 0
    """Threads of one graph run. 0: one per core."""
    vector_store: str = "faiss"
    """Vector index of new collections: `faiss`, in this process, or the URL of a Milvus server."""
    operations_dir: Path | None = None
    """Folder of backups and exports. Unset: `operations` in the data folder."""
    max_operations: Count = 20
    """Operations that are kept, with their files, until they are deleted."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8000
    """Port to listen on. 0: any free port."""
    health_port: Port = 0
    """Additional port for `/livez` and `/readyz`, served by a thread of its own. 0: none."""


class AccessSettings(_Section):
    """Access"""

    allow_unauthenticated: bool = False
    """Require no API keys. Only with a loopback `host`."""
    admin_key: Annotated[str | None, BeforeValidator(_hash_admin_key), Field(repr=False)] = None
    """An API key with all scopes, in addition to the stored ones, of at least 32 characters. Only its SHA-256 is kept
    in memory.
    """
    admin_key_file: Path | None = None
    """File with such a key, in place of `admin_key`."""
    public_metrics: bool = False
    """Serve `/metrics` without an API key."""
    trusted_proxies: list[str] = []
    """Addresses or networks of proxies, or only `*`, whose X-Forwarded-For and X-Forwarded-Proto headers are used."""
    allowed_hosts: list[HostName] = []
    """Host names, without port, that requests may carry, besides localhost and `host`."""
    cors_origins: list[Origin] = []
    """Other web origins whose pages may use the service, such as `https://portal.example`."""
    allowed_roots: list[Path] = []
    """Folders whose files jobs may index and the service may play, besides `incoming` in the data folder. None, and
    `allow_unauthenticated`: all folders that the service can read.
    """
    allowed_urls: list[str] = []
    """URL prefixes that jobs may fetch from without further checks, such as `s3://bucket/videos/`."""


class UrlFetchSettings(_Section):
    """Videos from public URLs"""

    url_fetch: Literal["off", "on"] = "off"
    """Allow keys with the scope `write` to name URLs of public hosts."""
    url_fetch_schemes: Schemes = {"https"}
    """Allowed schemes."""
    url_fetch_ports: Ports = {443}
    """Allowed ports."""
    url_fetch_hosts: list[HostPattern] = []
    """Allowed host names, such as `media.example` or `*.media.example` (subdomains only). Empty: any public host."""
    url_fetch_blocked_networks: list[IPvAnyNetwork] = []
    """Networks that are blocked in addition to those that are not public, such as `2001:db8::/48`."""
    url_fetch_max_redirects: Annotated[int, Field(ge=0, le=10)] = 0
    """Redirects that are followed, each checked like the first URL."""
    url_fetch_timeout: Seconds = 900.0
    """Seconds for one file, redirects included."""


class WebhookSettings(_Section):
    """Webhooks"""

    webhooks: Literal["off", "on"] = "off"
    """Allow keys with the scope `admin` to create webhooks."""
    webhook_schemes: Schemes = {"https"}
    """Allowed schemes."""
    webhook_ports: Ports = {443}
    """Allowed ports."""
    webhook_hosts: list[HostPattern] = []
    """Allowed host names, such as `portal.example` or `*.portal.example` (subdomains only). Empty: any public host."""
    webhook_networks: list[IPvAnyNetwork] = []
    """Networks that are allowed although they are not public, such as `10.20.0.0/16`."""
    webhook_retry_seconds: Seconds = 3 * 24 * 3600.0
    """Seconds after which an undelivered message is given up."""


class RequestSettings(_Section):
    """Limits of one request"""

    max_body_bytes: Count = MIB
    """Bytes of a request body that is no form."""
    max_form_bytes: Count = MIB
    """Bytes of all fields of a form together, without its file."""
    max_field_bytes: Count = 256 * 1024
    """Bytes of one form field."""
    max_form_fields: Count = 1024
    """Fields of a form, including its file."""
    max_json_values: Count = 20_000
    """Strings, numbers, lists and objects of a JSON body or form field."""
    max_text_characters: Count = 4000
    """Characters of a query, question or caption."""
    max_results: Count = 100
    """Results on a page of a search, or moments of a text."""
    max_rerank: Count = 100
    """Results that are reranked."""
    max_query_parts: Count = 16
    """Texts, clips and files of one search."""
    max_candidates: Annotated[Count, Field(le=10_000)] = 10_000
    """Clips that results grouped by event or video are made of."""
    max_captions: Count = 64
    """Captions of one request for scores, sentences of one for entailment, or texts of one for moments."""
    max_answers: Count = 50
    """Answers to one question."""
    max_candidate_answers: Count = 1000
    """Candidate answers of one question."""
    max_frames: Count = 32
    """Frames of a clip that are scored one by one (EMScore)."""
    max_moment_windows: Count = 40_000
    """Windows of a video, times texts, of one request for moments; of all results of a refined search; clips of a video
    of one request for chapters."""
    max_caption_clips: Count = 64
    """Clips that one request captions, and chapters of one request."""
    max_beams: Count = 16
    """Beams of a caption, and captions of one clip."""
    max_inputs: Count = 2048
    """Texts and files of one request for embeddings."""
    page_size: Count = 50
    """Default number of entries on a page of a list."""
    max_page_size: Annotated[Count, Field(le=999)] = 200
    """Entries on a page of a list."""
    thumbnail_size: Annotated[int, Field(ge=16, le=2048)] = 320
    """Pixels of the longer side of a thumbnail."""
    preview_size: Annotated[int, Field(ge=64, le=1920)] = 640
    """Pixels of the longer side of a preview."""
    max_preview_seconds: Annotated[float, Field(gt=0, le=600)] = 120.0
    """Seconds of a preview."""
    request_timeout: Seconds = 120.0
    """Seconds after which a request is answered 504; `X-Request-Timeout` asks for fewer."""


class MediaSettings(_Section):
    """Limits of media files and file lists"""

    max_video_bytes: Count = DEFAULT_LIMITS.max_bytes
    """Bytes of a media file, uploaded, fetched or indexed where it is."""
    min_free_bytes: CountOrZero = 256 * MIB
    """Bytes that uploads leave free on the disk of the data folder; larger ones are rejected with 507."""
    max_pixels: Count = DEFAULT_LIMITS.max_pixels
    """Pixels of a frame."""
    max_video_seconds: Seconds = DEFAULT_LIMITS.max_seconds
    """Duration of a video in seconds."""
    max_video_frames: Count = DEFAULT_LIMITS.max_frames
    """Frames of a video."""
    max_list_rows: Count = 1_000_000
    """Rows of a file list, or items of a shard."""
    max_list_columns: Count = 1000
    """Columns of a file list, or keys of a JSON object in it."""
    max_list_cell_characters: Annotated[Count, Field(le=MAX_TEXT_LENGTH)] = MAX_TEXT_LENGTH
    """Characters of a cell of a file list."""
    max_list_bytes: Count = 256 * MIB
    """Bytes that a file list or shard stores in the catalogue."""
    max_list_expansion: Count = 100
    """Bytes that it stores, in multiples of its own size; not applied below 16 MiB."""


class ConcurrencySettings(_Section):
    """Concurrency and rates"""

    max_requests: Count = 256
    """Concurrent requests; more are rejected with 503."""
    max_writes: Count = 112
    """Concurrent requests that add, index or delete, at most seven eighths of `max_requests`."""
    max_uploads: Count = 96
    """Concurrent uploads whose client waits until they are indexed."""
    max_requests_bytes: Count = 2048 * MIB
    """Bytes of memory of all concurrent request bodies, also once parsed. Uploaded files go to disk as they arrive."""
    client_rate: Annotated[float, Field(ge=0)] = 0.0
    """Requests per second of one client, with bursts of ten seconds' worth; more are rejected with 429. 0: no limit."""
    client_concurrency: Count = 128
    """Concurrent requests of one client; more are rejected with 429."""
    max_streams: Count = 100
    """Concurrent event streams, which count as requests, too."""
    client_streams: Count = 20
    """Concurrent event streams of one client."""
    max_idempotency_keys: Count = 100_000
    """Responses to requests with an `Idempotency-Key` that are stored per client."""
    queue_timeout: Seconds = 1.0
    """Seconds that a search, score, answer, caption or embedding may be queued. A request that is expected to wait
    longer is rejected at once with 503.
    """
    max_queue: Count = 256
    """Requests that wait for a thread or for the model."""
    max_queue_bytes: Count = 1024 * MIB
    """Bytes of the inputs that wait for the model."""
    request_threads: Count = 64
    """Threads for searches, scores, answers, captions and embeddings that decode media or wait for the model. Requests
    that embed whole videos (moments, chapters, captions of each clip) have half as many; more are rejected with 503.
    """
    io_threads: Count = 16
    """Threads for requests that read the catalogue or files."""
    write_threads: Count = 8
    """Threads for requests that write to the catalogue or receive an upload."""
    upload_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Uploads that are indexed concurrently. 0: one per core but one, which is left to searches."""


class ConnectionSettings(_Section):
    """Connections and shutdown"""

    max_connections: CountOrZero = 0
    """Open connections. 0: half of the open files that the process may have, less 256, at most 4096."""
    keep_alive_timeout: Count = 75
    """Seconds between two requests of a connection. Longer than the 60 s of common load balancers, so that the client
    closes idle connections first.
    """
    header_timeout: Seconds = 10.0
    """Seconds for the request line and headers."""
    max_header_bytes: Count = 64 * 1024
    """Bytes of the request line and headers."""
    read_timeout: Seconds = 30.0
    """Seconds that a request body may pause in all."""
    min_body_rate: Annotated[float, Field(gt=0)] = 4096.0
    """Bytes per second at which a request body does not count as paused."""
    write_timeout: Seconds = 60.0
    """Seconds in which a client reads nothing of its response."""
    shutdown_delay: Annotated[float, Field(ge=0)] = 1.0
    """Seconds between `/readyz` answering 503 and the end of listening, for load balancers to notice."""
    shutdown_timeout: Annotated[float, Field(ge=0)] = 20.0
    """Seconds for requests in progress and the running job to finish."""


class InferenceSettings(_Section):
    """Inference, decoding and jobs"""

    inference_workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Concurrent graph runs. 0: one per core, at most 4; 1 where all graphs run on a GPU; 4 with a remote engine."""
    max_batch_size: Count = 32
    """Texts or clips of one graph run."""
    max_batch_tokens: Count = 4096
    """Text tokens of one graph run, padding included."""
    text_cache_bytes: CountOrZero = 32 * MIB
    """Bytes of cached text embeddings. 0: no cache."""
    clip_cache_bytes: CountOrZero = 64 * MIB
    """Bytes of cached clip embeddings and visual tokens. 0: no cache."""
    preview_cache_bytes: CountOrZero = 1024 * MIB
    """Bytes of previews that are kept on disk until the service ends. 0: none."""
    decode_processes: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that decode media files; the first one is reserved for interactive requests. 0: one per core and one
    more.
    """
    decode_memory_bytes: Annotated[int, Field(ge=128 * MIB)] = 1024 * MIB
    """Bytes of memory of one decoding process."""
    decode_timeout: Seconds = 60.0
    """Seconds of one decoding task, plus two per second of video."""
    job_concurrency: Annotated[Count, Field(le=1000)] = 8
    """Files of a job that are processed concurrently."""
    job_decode_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Decoding threads of a job. 0: one per core."""
    max_item_crashes: Count = 3
    """Crashes at a file before it is quarantined."""


class RecognitionSettings(_Section):
    """Recognition of speech and screen text"""

    speech_model: str | None = None
    """Speech model: the folder of a model that sherpa-onnx runs, or `pocketsphinx`. Unset: no speech is recognised."""
    text_reader: str | None = None
    """Reader of text on screen: `rapidocr`, or the folder of a PP-OCR model. Unset: no text is read."""
    recognition_threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of each recogniser. 0: one per core."""
    recognition_memory_bytes: Annotated[int, Field(ge=128 * MIB)] = MEMORY_BYTES
    """Bytes of memory of the process of a recogniser, besides its model."""
    recognition_time_factor: Annotated[float, Field(gt=0)] = TIME_FACTOR
    """Seconds that recognition may take for each second of a file, or of a part of its speech, besides a minute."""


class MonitoringSettings(_Section):
    """Logs and traces"""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines."""
    otlp_endpoint: CollectorURL | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP), such as `http://collector:4318`. Unset: no traces."""
