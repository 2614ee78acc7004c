"""A bundle whose graphs TensorRT reads whole, computing in fewer bits: a variant of a bundle, with its own fingerprint.

Every graph is checked against TensorRT's published table of operators, and run beside the original on ONNX Runtime, in
the types that the engine will have. Only then does the variant's folder appear.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from model_export.assemble import CARD_NAME, PARITY_NAME, check_name, finish, folder_replaced_whole, write_documents
from model_export.graphs import StatedSizes, random_streams, random_tokens
from model_export.parity.checks import ParityError
from model_export.parity.variants import named
from model_export.targets.tensorrt_operators import SOURCE, unreadable
from model_export.targets.tensorrt_types import Arrays, as_float16, as_int8
from model_export.weights import store
from training.data.packed import PACK_NAME, Packed, open_packed
from training.evaluation.embedding import streams_of
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.manifest import Calibration, GraphName, Manifest
from vitascope.bundle.onnx_external_data import external_files
from vitascope.engines.onnx_runtime import OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.integrations.tensorrt.onnx_rewrites import readable
from vitascope.scores import match_probability

Types = Literal["float16", "int8"]
Say = Callable[[str], None]

CALIBRATING = 64
"""Examples of each corpus by which ranges are found; as many others are for the check."""
_BATCH = 4


LEAST_COSINE: Mapping[Types, float] = {"float16": 0.999, "int8": 0.98}
"""Of a vector, a video's tokens or a question's logits with the original's."""
PROBABILITY_LOST: Mapping[Types, float] = {"float16": 0.0125, "int8": 0.05}
"""By which the probability that a match logit stands for may differ."""


def make_variant(
    source: Path,
    out: Path,
    types: Types,
    *,
    data: Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    say: Say = lambda _: None,
) -> dict[str, Types]:
    """Write the variant of the bundle ``source`` to ``out``; the types that each graph has in the end.

    data: folder of packed corpora, whose validation splits give int8 its ranges; without, int8 is refused. With int8, a
    graph that would lose too much is float16. seed: of the random inputs of the check, default a fresh one.
    Raises BundleError, InvalidInput for a graph that TensorRT does not read, and ParityError; nothing is written then.
    """
    bundle = Bundle.open(source)
    check_name(name or f"{bundle.manifest.name}-{types}")
    corpora = _validation_splits(data)
    if types == "int8" and not corpora:
        raise InvalidInput(f"data: {data}; a folder with CORPUS/val was expected: int8 needs real clips and captions")
    seed = secrets.randbits(32) if seed is None else seed
    with folder_replaced_whole(out) as folder:
        made = _Variant(bundle, types, corpora, seed, say)
        made.write(folder, name or f"{bundle.manifest.name}-{types}")
    return made.types


class _Variant:
    """One variant on its way: graphs, checks, documents."""

    def __init__(self, bundle: Bundle, types: Types, corpora: Sequence[Packed], seed: int, say: Say) -> None:
        self.bundle, self.say, self.seed, self.wanted = bundle, say, seed, types
        self.paths = {graph: bundle.folder / file for graph, file in bundle.manifest.graphs.items()}
        self.plain: dict[GraphName, onnx.ModelProto] = {graph: readable(path) for graph, path in self.paths.items()}
        self.engines = {graph: OnnxRuntimeEngine(path, device="cpu") for graph, path in self.paths.items()}
        first, second = ([part[i] for part in map(_halves, corpora)] for i in (0, 1))
        self.calibration = self._real_cases(corpora, first)
        self.cases = self._random_cases()
        for graph, cases in self._real_cases(corpora, second).items():
            self.cases[graph] += cases
        self.types: dict[str, Types] = {}
        self.checks: list[dict[str, Any]] = []

    def write(self, folder: Path, name: str) -> None:
        graphs = {graph: self._typed(graph, folder) for graph in self.plain}
        files = store(graphs, folder, "float32")
        stated = self.bundle.manifest
        weights = {file for path in self.paths.values() for file in external_files(path)}
        kept = set(stated.files) - {*stated.graphs.values(), *weights, stated.parity_report, stated.model_card}
        for file in kept:
            shutil.copyfile(self.bundle.folder / file, folder / file)
        origin = named(self.bundle).model_dump()
        report = {
            "variant_of": origin,
            "types": self.types,
            "operators": SOURCE,
            "seed": self.seed,
            "versions": {package: package_version(package) for package in ("onnx", "onnxruntime")},
            "checked": "each graph beside the original, both by ONNX Runtime on a CPU",
            "outputs": self.checks,
        }
        extra = {key: value for key, value in stated.extra.items() if key != "provenance"}
        fields = stated.model_dump() | {
            "name": name,
            "graphs": files,
            "precision": self.wanted,
            "model_card": CARD_NAME,
            "parity_report": PARITY_NAME,
            "extra": extra | {"variant_of": origin, "types": self.types},
        }
        write_documents(folder, {CARD_NAME: ""})
        finish(folder, fields, json.dumps(report, indent=1) + "\n", self._card)

    def _typed(self, graph: GraphName, folder: Path) -> onnx.ModelProto:
        """The graph in the types that were asked for, checked; in float16 where int8 would lose too much."""
        attempts: list[Types] = ["int8", "float16"] if self.wanted == "int8" else [self.wanted]
        for types in attempts:
            model = self._converted(graph, types)
            if types == "int8" and all(node.op_type != "QuantizeLinear" for node in model.graph.node):
                self.say(f"{graph}: has nothing that int8 would compute; float16")
                continue
            self.say(f"{graph}: {types}")
            if problems := unreadable(model):
                raise InvalidInput(f"{graph}: TensorRT does not read it ({SOURCE}): {'; '.join(problems)}")
            try:
                checks = self._compared(graph, model, types, folder)
            except ParityError as error:
                if types == attempts[-1]:
                    raise
                self.say(f"{error}; it stays {attempts[-1]}")
                continue
            self.types[graph] = types
            self.checks += checks
            return model
        raise AssertionError("the last attempt returns or raises")

    def _converted(self, graph: GraphName, types: Types) -> onnx.ModelProto:
        if types == "int8":
            return as_int8(self.plain[graph], self.calibration[graph])
        return as_float16(self.plain[graph])

    def _compared(self, graph: GraphName, model: onnx.ModelProto, types: Types, folder: Path) -> list[dict[str, Any]]:
        path = folder / f"checked-{graph}.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)  # saving takes the weights out of what is saved
        onnx.save_model(
            copy, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.stem}.bin"
        )
        engine = OnnxRuntimeEngine(path, device="cpu")
        pairs = [(self.engines[graph].run(case), engine.run(case)) for case in self.cases[graph]]
        path.unlink()
        (folder / f"{path.stem}.bin").unlink(missing_ok=True)
        outputs = self.engines[graph].outputs
        return [_check(graph, o, types, [a[o] for a, _ in pairs], [b[o] for _, b in pairs]) for o in outputs]

    def _random_cases(self) -> dict[str, list[Arrays]]:
        """Fresh inputs by graph; B 1 to 3, C 1 and 2, L 2 to the text length."""
        sizes = StatedSizes(self.bundle.manifest, vocabulary=self.bundle.tokenizer().vocabulary_size)
        rng = np.random.default_rng(self.seed)
        videos = [random_streams(sizes, rng, batch, clips) for batch, clips in ((1, 1), (3, 1), (2, 2))]
        lengths = ((1, 2), (3, sizes.text_length), (2, max(2, sizes.text_length // 2)))
        texts = [random_tokens(sizes, rng, batch, length) for batch, length in lengths]
        return self._by_graph(videos, texts)

    def _real_cases(self, corpora: Sequence[Packed], rows: Sequence[np.ndarray]) -> dict[str, list[Arrays]]:
        """Frames, captions and questions of these rows of each corpus, by graph."""
        tokenizer = self.bundle.tokenizer()
        videos, texts = [], []
        for packed, chosen in zip(corpora, rows, strict=True):
            for first in range(0, len(chosen), _BATCH):
                piece = chosen[first : first + _BATCH]
                videos.append(streams_of(packed, piece, self.bundle.manifest.streams))
                said = [text for row in piece for text in _said(packed, int(row))]
                if said:
                    ids, mask = tokenizer.encode(said)
                    texts.append({"input_ids": ids, "attention_mask": mask})
        return self._by_graph(videos, texts)

    def _by_graph(self, videos: list[Arrays], texts: list[Arrays]) -> dict[str, list[Arrays]]:
        stated = self.bundle.manifest
        seen = (
            [self.engines["video"].run(streams)["visual_tokens"] for streams in videos] if "video" in self.paths else []
        )
        tokens = np.concatenate(seen) if seen else np.zeros((1, stated.visual_tokens, stated.visual_width), np.float32)
        fused = [text | {"visual_tokens": tokens[np.arange(len(text["input_ids"])) % len(tokens)]} for text in texts]
        return {"video": list(videos), "text": list(texts), "match": list(fused), "answer": list(fused)}

    def _card(self, draft: Manifest) -> str:
        stated = self.bundle.manifest
        original = (self.bundle.folder / stated.model_card).read_text("utf-8").rstrip()
        told = ", ".join(f"{graph} {types}" for graph, types in sorted(self.types.items()))
        return (
            f"{original}\n\n## A variant for TensorRT\n\n"
            f"Made from {stated.name} {stated.version}, for engines that compute in fewer bits: {told}. Numbers above "
            f"are of the original. How far its outputs are from the original's is in {draft.parity_report}.\n"
        )


def _check(
    graph: GraphName, output: str, types: Types, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]
) -> dict[str, Any]:
    """One output over all cases. Raises ParityError where it loses more than these types may."""
    check: dict[str, Any] = {
        "graph": graph,
        "output": output,
        "types": types,
        "max_difference": max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True)),
    }
    where = f"{graph}: output {output!r} in {types}"
    # Each comparison is written so that a NaN fails.
    if wanted[0].ndim == 1:
        plain = Calibration()
        pairs = zip(wanted, found, strict=True)
        off = max(float(np.abs(match_probability(plain, a) - match_probability(plain, b)).max()) for a, b in pairs)
        if not off <= PROBABILITY_LOST[types]:
            raise ParityError(f"{where} is off by a probability of {off:.3g}; {PROBABILITY_LOST[types]:g} may be lost")
        return check | {"probability_difference": off}
    cosine = min(float(_cosines(a, b).min()) for a, b in zip(wanted, found, strict=True))
    if not cosine >= LEAST_COSINE[types]:
        raise ParityError(f"{where} has a cosine of {cosine:.5f}; at least {LEAST_COSINE[types]:g} was expected")
    return check | {"cosine": cosine}


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    result: np.ndarray = (a * b).sum(axis=1) / np.maximum(norms, 1e-30)
    return result


def _validation_splits(data: Path | None) -> list[Packed]:
    if data is None:
        return []
    return [open_packed(pack.parent) for pack in sorted(data.glob(f"*/val/{PACK_NAME}"))]


def _halves(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """Rows for finding ranges, and others for the check, both spread evenly over the split."""
    rows = np.unique(np.linspace(0, len(packed) - 1, min(len(packed), 2 * CALIBRATING)).astype(int))
    return rows[::2], rows[1::2] if len(rows) > 1 else rows


def _said(packed: Packed, row: int) -> list[str]:
    example = packed.examples[row]
    return [*example.captions[:1], *(question.question for question in example.questions[:1])]
