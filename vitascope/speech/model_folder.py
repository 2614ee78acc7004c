"""Folders of speech models as published for sherpa-onnx: find the kind of model, its files and its metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from vitascope.errors import InvalidInput

CHECKSUMS = "SHA256SUMS"
"""File with the SHA-256 of the other files, in the format of ``sha256sum``; verified if present."""
VOICE_DETECTOR = "silero_vad.onnx"
_LAYOUTS: dict[str, dict[str, str]] = {
    "moonshine": {
        "preprocessor": r"preprocess",
        "encoder": r"encode",
        "uncached_decoder": r"uncached_decode",
        "cached_decoder": r"cached_decode",
    },
    "moonshine_v2": {"encoder": r"encoder_model", "decoder": r"decoder_model_merged"},
    "transducer": {"encoder": r"(.*-)?encoder", "decoder": r"(.*-)?decoder", "joiner": r"(.*-)?joiner"},
    "whisper": {"encoder": r"(.*-)?encoder", "decoder": r"(.*-)?decoder"},
    "ctc": {"model": r"model|(.*-)?ctc|ctc-.*"},
}
"""File names (without suffixes) by parameter, for each kind of model; the first complete kind is used."""
_SUFFIXES = r"([-.](epoch|avg|iter|chunk|left)[-.\d].*?)?(\.(int8|fp16|quant))?\.(onnx|ort)"
_CTC_KINDS = {
    "sense_voice_ctc": "sense_voice",
    "zipformer2_ctc": "zipformer_ctc",
    "EncDecCTCModel": "nemo_ctc",
    "EncDecCTCModelBPE": "nemo_ctc",
    "EncDecHybridRNNTCTCBPEModel": "nemo_ctc",
}
"""Kind by ``model_type``, for models with a single graph."""
_NEEDED_METADATA = {
    "whisper": "n_mels n_text_layer n_text_ctx n_text_state n_vocab sot eot blank_id translate transcribe "
    "is_multilingual no_timestamps no_speech sot_sequence",
    "nemo_ctc": "vocab_size subsampling_factor",
    "nemo_transducer": "vocab_size subsampling_factor pred_rnn_layers pred_hidden",
    "sense_voice": "vocab_size lfr_window_size lfr_window_shift normalize_samples with_itn without_itn lang_auto "
    "lang_zh lang_en lang_ja lang_ko lang_yue neg_mean inv_stddev",
}
"""Metadata keys without which sherpa-onnx exits the process."""
_NEMO_TRANSDUCERS = ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel")
_STREAMING_KEYS = ("decode_chunk_len", "cache_last_channel_dim1")
"""Metadata keys of streaming models, which process sound chunk by chunk."""
_PICKLES = frozenset({".pt", ".pth", ".ckpt", ".nemo", ".pkl"})
_EXPECTED = "files of a Whisper, Moonshine, Parakeet, SenseVoice or Zipformer model for sherpa-onnx were expected"


@dataclass(frozen=True)
class ModelFolder:
    """A speech model whose files are known and verified."""

    kind: str
    """"whisper", "moonshine", "moonshine_v2", "transducer", "nemo_transducer", "nemo_ctc", "zipformer_ctc" or
    "sense_voice".
    """
    files: Mapping[str, Path]
    """Files by parameter of sherpa-onnx's constructor: graphs and "tokens"."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the encoder, or of the only graph."""
    voice_detector: Path | None = None

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that can be specified for the model; empty if unknown."""
        if self.kind == "sense_voice":
            return ("zh", "en", "ja", "ko", "yue")
        if self.kind != "whisper":
            return ()
        codes = self.metadata.get("all_language_codes", "")
        return tuple(codes.split(",")) if self.metadata.get("is_multilingual") == "1" else ("en",)


def find_model(folder: Path, *, prefer_small: bool = True) -> ModelFolder:
    """Detect the kind of model in a folder from its files, and verify their checksums.

    Args:
        folder: Folder with graphs and tokens.
        prefer_small: Of a graph in several precisions, take that of 8 bits, which is faster on a CPU.

    Raises:
        InvalidInput: No such folder; no model of a known kind; a checksum differs.
    """
    if not folder.is_dir():
        raise InvalidInput(f"speech model: {str(folder)!r}: no such folder; 'pocketsphinx' or a folder was expected")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    tokens = next((name for name in names if name == "tokens.txt" or name.endswith("-tokens.txt")), None)
    kind, graphs = _match_layout(names, prefer_small)
    if kind is None or tokens is None:
        raise InvalidInput(f"speech model: {str(folder)!r}: {_describe(names, kind)}; {_EXPECTED}")
    files = {parameter: folder / name for parameter, name in graphs.items()} | {"tokens": folder / tokens}
    detector = next((path for parent in (folder, folder.parent) if (path := parent / VOICE_DETECTOR).is_file()), None)
    _verify_checksums(folder, [*files.values(), *([detector] if detector and detector.parent == folder else [])])
    first = files.get("model") or files["encoder"]
    metadata = {} if kind.startswith("moonshine") else read_metadata(first)
    kind = _exact_kind(kind, first, metadata)
    if missing := [key for key in _NEEDED_METADATA.get(kind, "").split() if key not in metadata]:
        raise InvalidInput(f"speech model: {str(first)!r}: its metadata has no {missing[0]!r}, which sherpa-onnx needs")
    return ModelFolder(kind, files, metadata, detector)


def _match_layout(names: list[str], prefer_small: bool) -> tuple[str | None, dict[str, str]]:
    # Sort by precision, smallest first or last; of equal precision, the shorter name first.
    ordered = sorted(names, key=lambda name: ((".int8." in name) != prefer_small, len(name), name))
    for kind, layout in _LAYOUTS.items():
        graphs = {
            parameter: next((name for name in ordered if re.fullmatch(f"({stem}){_SUFFIXES}", name)), None)
            for parameter, stem in layout.items()
        }
        if all(graphs.values()):
            return kind, {parameter: name for parameter, name in graphs.items() if name}
    return None, {}


def _exact_kind(kind: str, graph: Path, metadata: Mapping[str, str]) -> str:
    """Return the kind according to the metadata of a graph. Raises InvalidInput for an unsupported model."""
    model_type = metadata.get("model_type", "")
    name = f"speech model: {str(graph)!r}"
    if any(key in metadata for key in _STREAMING_KEYS):
        raise InvalidInput(f"{name}: a streaming model; one for whole files was expected")
    if kind == "transducer":
        return "nemo_transducer" if model_type in _NEMO_TRANSDUCERS else kind
    if kind == "whisper" and not model_type.startswith("whisper"):
        raise InvalidInput(f"{name}: model_type {model_type!r}; 'whisper-…' was expected")
    if kind == "ctc":
        if model_type not in _CTC_KINDS:
            raise InvalidInput(f"{name}: model_type {model_type!r}; one of {', '.join(_CTC_KINDS)} was expected")
        return _CTC_KINDS[model_type]
    return kind


def _describe(names: list[str], kind: str | None) -> str:
    if kind is not None:
        return "no tokens.txt"
    if pickles := [name for name in names if Path(name).suffix in _PICKLES]:
        return f"{pickles[0]} is a checkpoint, which is not loaded"
    return f"no speech model of a known kind among {len(names)} files"


def _verify_checksums(folder: Path, paths: list[Path]) -> None:
    """If there is a list of SHA-256 sums, compare the files with it. Raises InvalidInput."""
    sums = folder / CHECKSUMS
    if not sums.is_file():
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(sums.read_text("utf-8", "replace").splitlines(), 1):
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line)
        if match is None and line.strip():
            raise InvalidInput(f"{sums}:{number}: {line[:60]!r}; a SHA-256, two spaces and a file name were expected")
        if match is not None:
            listed[match[2]] = match[1].lower()
    for path in paths:
        expected = listed.get(path.name)
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != expected:
            raise InvalidInput(f"{path}: SHA-256 {actual}; {expected or 'a line of it'} was expected, as in {sums}")


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a graph. Raises InvalidInput for a file that is not a graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        reason = str(error).splitlines()[0][:200]
        raise InvalidInput(f"speech model: {str(path)!r}: not a graph that can be run: {reason}") from error
    return dict(session.get_modelmeta().custom_metadata_map)
