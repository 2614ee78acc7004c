"""Settings of the service. Each is the environment variable ``VITASCOPE_<NAME>``; lists are written as JSON.

docs/settings.md is generated from these classes: docstrings of classes are sections, those of fields descriptions.
"""

from __future__ import annotations

import os
import re
import shlex
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    IPvAnyNetwork,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from index.jobs.pipeline import PipelineConfig
from index.jobs.sources.access_policy import AccessPolicy, check_url, expand_home
from index.jobs.sources.list_limits import ListLimits
from index.records import MAX_TEXT_LENGTH
from index.vectors.interface import check_backend
from service.http.api_keys import admin_key_digest
from service.http_client.url_policy import UrlPolicy
from vitascope.bundle.signing import PublicKey, read_public_keys
from vitascope.cli.options import default_bundle, default_data
from vitascope.errors import InvalidInput
from vitascope.integrations.kserve import server_url
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.network import is_loopback
from vitascope.sandbox.recognition import MEMORY_BYTES, TIME_FACTOR, RecognitionKind


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
FORM_OVERHEAD = 512 * 1024
"""Bytes that the boundaries of a form may have."""

RENAMED = {
    "answer_idle_seconds": "write_timeout",
    "batch_rows": "max_batch_size",
    "batch_tokens": "max_batch_tokens",
    "body_idle_seconds": "read_timeout",
    "body_rate": "min_body_rate",
    "decoders": "job_decode_threads",
    "decoding_memory_bytes": "decode_memory_bytes",
    "decoding_processes": "decode_processes",
    "decoding_seconds": "decode_timeout",
    "drain_seconds": "shutdown_delay",
    "files_in_flight": "job_concurrency",
    "head_seconds": "header_timeout",
    "keep_alive_seconds": "keep_alive_timeout",
    "lanes": "inference_workers",
    "max_head_bytes": "max_header_bytes",
    "max_kept_answers": "max_idempotency_keys",
    "max_upload_bytes": "max_video_bytes",
    "max_waiting": "max_queue",
    "max_waiting_bytes": "max_queue_bytes",
    "metrics_without_key": "public_metrics",
    "queue_seconds": "queue_timeout",
    "readers": "io_threads",
    "request_seconds": "request_timeout",
    "shutdown_seconds": "shutdown_timeout",
    "thumbnail_side": "thumbnail_size",
    "upload_workers": "upload_threads",
    "url_fetch_redirects": "url_fetch_max_redirects",
    "url_fetch_refused": "url_fetch_blocked_networks",
    "url_fetch_seconds": "url_fetch_timeout",
    "vectors": "vector_store",
    "workers": "request_threads",
    "writers": "write_threads",
}
"""Settings of version 0.2 and their successors: a variable that is set and ignored would go unnoticed."""


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


class _BasicSettings(_Section):
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


class _AccessSettings(_Section):
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


class _UrlFetchSettings(_Section):
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


class _WebhookSettings(_Section):
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


class _RequestSettings(_Section):
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


class _MediaSettings(_Section):
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


class _ConcurrencySettings(_Section):
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


class _ConnectionSettings(_Section):
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


class _InferenceSettings(_Section):
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


class _RecognitionSettings(_Section):
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


class _MonitoringSettings(_Section):
    """Logs and traces"""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines."""
    otlp_endpoint: CollectorURL | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP), such as `http://collector:4318`. Unset: no traces."""


class Settings(
    _BasicSettings,
    _AccessSettings,
    _UrlFetchSettings,
    _WebhookSettings,
    _RequestSettings,
    _MediaSettings,
    _ConcurrencySettings,
    _ConnectionSettings,
    _InferenceSettings,
    _RecognitionSettings,
    _MonitoringSettings,
):
    """All settings of the service. Sizes in bytes, times in seconds."""

    @model_validator(mode="after")
    def _has_one_admin_key(self) -> Self:
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("admin_key and admin_key_file are both set; one of them was expected")
        return self

    @model_validator(mode="after")
    def _has_keys_for_signatures(self) -> Self:
        if self.require_signature and not self.trusted_keys:
            raise ValueError("require_signature is set and trusted_keys is empty; a public key was expected")
        if self.trusted_keys and not self.require_signature:
            raise ValueError("trusted_keys is set and require_signature is not; require_signature was expected")
        return self

    @model_validator(mode="after")
    def _has_two_ports(self) -> Self:
        if self.health_port and self.health_port == self.port:
            raise ValueError(f"health_port and port are both {self.port}; another port, or 0, was expected")
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: list[str]) -> list[str]:
        if proxies != ["*"]:
            for each in proxies:
                ip_network(each)  # raises ValueError
        return proxies

    @field_validator("allowed_roots")
    @classmethod
    def _expand_home(cls, roots: list[Path]) -> list[Path]:
        return [Path(expand_home(str(root))) for root in roots]

    @field_validator("allowed_urls")
    @classmethod
    def _check_urls(cls, urls: list[str]) -> list[str]:
        try:
            return [check_url("allowed_urls", url) for url in urls]
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("vector_store")
    @classmethod
    def _check_vector_store(cls, value: str) -> str:
        try:
            return check_backend(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, value: str) -> str:
        try:
            server_url(value)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        return value

    def pipeline_config(self) -> PipelineConfig:
        """Return the concurrency of indexing jobs."""
        decoders = {"decoders": self.job_decode_threads} if self.job_decode_threads else {}
        return PipelineConfig(in_flight=self.job_concurrency, **decoders)

    def recognizers(self) -> dict[RecognitionKind, str]:
        """Return the models of the recognisers by kind."""
        models: dict[RecognitionKind, str | None] = {"speech": self.speech_model, "screen_text": self.text_reader}
        return {kind: model for kind, model in models.items() if model}

    def decode_process_count(self) -> int:
        """Return the number of decoding processes."""
        return self.decode_processes or (os.cpu_count() or 1) + 1

    def upload_pool_size(self) -> tuple[int, int]:
        """Return how many uploads are indexed concurrently, and how many more may be queued."""
        workers = min(self.upload_threads or max(1, (os.cpu_count() or 1) - 1), self.max_uploads)
        return workers, self.max_uploads - workers

    def media_limits(self) -> MediaLimits:
        """Return the limits of a media file."""
        return MediaLimits(
            max_bytes=self.max_video_bytes,
            max_pixels=self.max_pixels,
            max_seconds=self.max_video_seconds,
            max_frames=self.max_video_frames,
        )

    def list_limits(self) -> ListLimits:
        """Return the limits of a file list or shard."""
        cell, expansion = self.max_list_cell_characters, self.max_list_expansion
        return ListLimits(self.max_list_rows, self.max_list_columns, cell, self.max_list_bytes, expansion)

    def access_policy(self) -> AccessPolicy:
        """Return what indexing jobs may read."""
        return AccessPolicy(tuple(self.roots()), tuple(self.allowed_urls), public_urls=self.url_fetch == "on")

    def url_policy(self) -> UrlPolicy:
        """Return which public URLs may be fetched."""
        return UrlPolicy(
            schemes=frozenset(self.url_fetch_schemes),
            ports=frozenset(self.url_fetch_ports),
            hosts=tuple(self.url_fetch_hosts),
            blocked_networks=tuple(self.url_fetch_blocked_networks),
            max_redirects=self.url_fetch_max_redirects,
            max_bytes=self.max_video_bytes,
            total_timeout=self.url_fetch_timeout,
        )

    def webhook_policy(self) -> UrlPolicy:
        """Return where webhook messages may be sent."""
        return UrlPolicy(
            schemes=frozenset(self.webhook_schemes),
            ports=frozenset(self.webhook_ports),
            allowed_networks=tuple(self.webhook_networks),
            hosts=tuple(self.webhook_hosts),
            response_timeout=10.0,
            total_timeout=20.0,
        )

    def roots(self) -> list[Path]:
        """Return the folders that jobs may index; relative paths are below the first."""
        is_unrestricted = self.allow_unauthenticated and not self.allowed_roots
        return [self.data_dir / "incoming", *([Path("/")] if is_unrestricted else self.allowed_roots)]

    def serve_command(self, root: Path) -> str:
        """Return the command that serves as these settings do, and allows the folder ``root``, too."""
        defaults = Settings.model_fields
        words = ["vitascope", "serve", *(["--no-keys"] if self.allow_unauthenticated else [])]
        for option, name in (("--host", "host"), ("--port", "port"), ("--data", "data_dir"), ("--bundle", "bundle")):
            if (value := getattr(self, name)) != defaults[name].get_default(call_default_factory=True):
                words += [option, str(value)]
        for folder in (*self.allowed_roots, root):
            words += ["--root", str(folder)]
        return shlex.join(words)

    def bundle_folders(self) -> list[Path]:
        """Return the folders that bundles may be added from; relative paths are below the first."""
        return [*([] if self.bundles_root is None else [self.bundles_root]), self.bundle, *self.bundles]

    def read_trusted_keys(self) -> tuple[PublicKey, ...] | None:
        """Read the keys of which one must have signed a bundle; None if signatures are not required.

        Raises InvalidInput.
        """
        return read_public_keys(self.trusted_keys) if self.require_signature else None

    def check_exposure(self) -> None:
        """Raise InvalidInput if other machines could reach the service without an API key."""
        if self.allow_unauthenticated and not is_loopback(self.host):
            raise InvalidInput(
                f"host: {self.host!r} can be reached by other machines, and allow_unauthenticated (--no-keys) is set; "
                "a loopback address such as 127.0.0.1 was expected, or required keys"
            )

    def admin_digest(self) -> bytes | None:
        """Return the SHA-256 of the admin key; None without one. Raises InvalidInput for an invalid file."""
        if self.admin_key_file is not None:
            try:
                return admin_key_digest(self.admin_key_file.read_text("utf-8").strip())
            except (OSError, ValueError, InvalidInput) as error:
                raise InvalidInput(f"admin_key_file: {str(self.admin_key_file)!r}: {error}") from error
        return None if self.admin_key is None else bytes.fromhex(self.admin_key)

    @staticmethod
    def body_limit_setting(content_type: str) -> str:
        """Return the environment variable that sets the largest size of a request body."""
        return f"VITASCOPE_MAX_{'VIDEO' if content_type.startswith('multipart/') else 'BODY'}_BYTES"

    def body_limit(self, content_type: str) -> int:
        """Return the largest size of a request body in bytes."""
        is_form = content_type.startswith("multipart/")
        return self.max_video_bytes + self.max_form_bytes + FORM_OVERHEAD if is_form else self.max_body_bytes


LIST_EXPECTED = 'a JSON list such as ["/videos"] or [443] was expected'


def read_settings(**overrides: object) -> Settings:
    """Return the settings by ``overrides``, the environment and the defaults. Raises InvalidInput naming each key."""
    for old, new in RENAMED.items():
        if (variable := f"VITASCOPE_{old.upper()}") in os.environ:
            raise InvalidInput(f"{variable}: renamed in version 0.3.0; VITASCOPE_{new.upper()} was expected")
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_describe(each) for each in error.errors()]
        raise InvalidInput(f"settings (VITASCOPE_…): {'; '.join(problems)}") from None  # the cause shows values
    except SettingsError as error:  # a list that is not JSON; the message has the name of its setting in quotes
        variable = "VITASCOPE_" + str(error).split('"')[1].upper()
        value = next((value for name, value in os.environ.items() if name.upper() == variable), None)
        raise InvalidInput(f"{variable}: {value!r}: {LIST_EXPECTED}") from None


def _describe(error: ErrorDetails) -> str:
    """Return the name of an invalid setting, its value unless that may be a secret, and what was expected."""
    name = ".".join(map(str, error["loc"]))
    if not name:  # of several settings together, whose input is all of them
        return error["msg"]
    if error["type"] in ("list_type", "set_type"):
        return f"VITASCOPE_{name.upper()}: {error['input']!r}: {LIST_EXPECTED}"
    # A URL may contain credentials by mistake; its own message shows it if it does not.
    is_secret = name in ("admin_key", "vector_store", "engine", "otlp_endpoint")
    return f"{name}: {error['msg']}" if is_secret else f"{name}: {error['input']!r}: {error['msg']}"
