"""Bundle in, the fastest bundle out that finds, judges and answers nearly as well.

Each graph is made in several ways (see `ways`); each way is timed on this machine and measured on validation splits; of
each graph one way is taken, the fastest that together lose at most what the budget allows. What is reported is
measured again of the bundle as it is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import onnx

from model_export.assemble import check_name, folder_replaced_whole, write_documents, write_manifest
from model_export.calibrate import recalibrate, stated_calibration
from model_export.card import model_card
from model_export.optimize.budget import Budget
from model_export.optimize.candidates import FLOAT16, FUSED, INT8, STORED, Whole, fewer_in_int8, float16_graph, prepared
from model_export.optimize.compare import compared_bundles
from model_export.optimize.evaluation_cache import Evidence, Texts, Videos, open_corpora
from model_export.optimize.fold import folded
from model_export.optimize.fusion import fused
from model_export.optimize.report import KEY, ORIGIN_KEY, Variant, Way, variant_section
from model_export.optimize.running import THREADS, engine_of
from model_export.optimize.speed import QUICK, THOROUGH, Effort, Speed, machine, speeds, speedup, timed_inputs
from model_export.optimize.validation_scores import Shares, lost
from model_export.parity.checks import FLOAT32, ParityError, ParityReport, compared
from model_export.parity.variants import Beside, beside_section, named, report_of
from model_export.weights import Precision, reduce, store, stored_kinds
from vitascope.bundle.bundle import Bundle
from vitascope.bundle.calibration_summary import calibrated
from vitascope.bundle.manifest import GraphName, Manifest
from vitascope.engines.onnx_runtime import Device, Engine, OnnxRuntimeEngine
from vitascope.errors import InvalidInput
from vitascope.model import Model

Say = Callable[[str], None]
OF_ITS_GRAPHS = ("measured", "clip_ms", "calibration")
"""What a manifest's `extra` says of the very graphs that are replaced here."""


@dataclass(eq=False)
class _Option:
    """One graph in one way, and what was measured of it."""

    graph: GraphName
    way: str
    model: onnx.ModelProto
    """As it will be stored."""
    engine: Engine
    in_float32: int = 0
    speeds: list[Speed] = field(default_factory=list)
    videos: Videos | None = None
    texts: Texts | None = None
    cosines: np.ndarray | None = None
    lost: float | None = None


def optimize(
    source: Path,
    out: Path,
    budget: Budget,
    data: Path,
    *,
    name: str | None = None,
    device: Device = "cpu",
    say: Say = lambda _: None,
) -> Path:
    """Write the fastest variant of the bundle `source` that keeps within the budget at `out`; returns `out`.

    data: folder of packed corpora, whose validation splits are measured on. name: of the new bundle, default the
    folder's name. device: what it shall be fast on. Raises BundleError, InvalidInput, and ParityError where the bundle
    as written loses more than was measured before; then nothing is written and a bundle at `out` stays.
    """
    check_name(name or out.name)
    bundle = Bundle.open(source)
    if ORIGIN_KEY in bundle.manifest.extra:
        raise InvalidInput(f"{source}: is a variant itself; the bundle it was made from was expected")
    if "retrieval" not in bundle.manifest.tasks:
        raise InvalidInput(
            f"{source}: its tasks are {', '.join(bundle.manifest.tasks)}; retrieval was expected among them"
        )
    if out.resolve() == source.resolve():
        raise InvalidInput(f"out: {out} is the bundle itself; another folder was expected")
    model = Model(bundle, THREADS, device)
    corpora = open_corpora(model, data)
    with folder_replaced_whole(out) as folder:
        say(f"measuring {bundle.manifest.name} on {', '.join(c.name for c in corpora)} (val)")
        search = _Search(bundle, Evidence(model, corpora), budget, device, say)
        _write(search, search.chosen(), folder, name or out.name)
    return out


class _Search:
    """All options of a bundle's graphs, measured."""

    def __init__(self, bundle: Bundle, evidence: Evidence, budget: Budget, device: Device, say: Say) -> None:
        self.bundle, self.evidence, self.budget, self.device, self.say = bundle, evidence, budget, device, say
        self.options: dict[GraphName, list[_Option]] = {}
        for graph in bundle.manifest.graphs:
            self.options[graph] = self._options(graph)
        self._beside: dict[tuple[_Option, GraphName], _Option | None] = {}

    def chosen(self) -> dict[GraphName, _Option]:
        """The fastest options that together keep within the budget."""
        pairs = sorted(
            product(self._measured("text"), self._measured("video")),
            key=lambda pair: -self.speedup(pair[0]) * self.speedup(pair[1]),
        )
        for text, video in pairs:
            shares = self.evidence.retrieved(*self._vectors(text, video))
            if not self.budget.allows(lost(self.evidence.shares, shares)):
                continue
            beside = [self._fastest_beside(video, graph) for graph in self.options if graph not in ("text", "video")]
            taken = [text, video, *(option for option in beside if option is not None)]
            if len(taken) == len(self.options):
                return {option.graph: option for option in taken}
        raise AssertionError("the graphs as stored lose nothing")

    def speedup(self, option: _Option, stored: _Option | None = None) -> float:
        """Over the graph as stored."""
        return speedup((stored or self.options[option.graph][0]).speeds, option.speeds)

    def _measured(self, graph: GraphName) -> list[_Option]:
        return [option for option in self.options[graph] if option.lost is not None]

    def _vectors(self, text: _Option, video: _Option) -> tuple[Videos, Texts]:
        return video.videos or self.evidence.videos, text.texts or self.evidence.texts

    def _fastest_beside(self, video: _Option, graph: GraphName) -> _Option | None:
        """The fastest option of a graph that reads the visual tokens of `video`."""
        key = video, graph
        if key not in self._beside:
            ordered = sorted(self._measured(graph), key=lambda option: -self.speedup(option))
            fitting = (o for o in ordered if self.budget.allows(self._lost_beside(video, o)))
            self._beside[key] = next(fitting, None)
        return self._beside[key]

    def _lost_beside(self, video: _Option, option: _Option) -> float:
        videos = video.videos or self.evidence.videos
        return lost(self.evidence.shares, self._told(option, videos))

    def _told(self, option: _Option, videos: Videos) -> Shares:
        told = self.evidence.judged if option.graph == "match" else self.evidence.answered
        return told({option.graph: option.engine}, videos)

    def _options(self, graph: GraphName) -> list[_Option]:
        path = self.bundle.graph_path(graph)
        assert path is not None
        self.say(f"{graph}: fusing, and measuring ranges for int8")
        stored = _Option(graph, STORED, onnx.load(path), OnnxRuntimeEngine(path, THREADS, self.device), lost=0.0)
        quick = fused(folded(path))
        whole = prepared(quick, self.evidence.calibration(graph))
        options = [stored, self._same(stored, quick), self._option(graph, FLOAT16, float16_graph(quick))]
        if whole.nodes:
            options.append(self._option(graph, INT8, whole.in_int8(whole.nodes)))
        self._time(options, QUICK)
        for option in options[2:]:
            if self.speedup(option, stored) > 1.0:
                self._measure(option)
        options += self._more_in_float32(whole, options[-1])
        self._time(options, THOROUGH)
        return options

    def _same(self, stored: _Option, model: onnx.ModelProto) -> _Option:
        """The fused graph, which gives what the stored one gives. Raises ParityError where it does not."""
        option = self._option(stored.graph, FUSED, model)
        given = self.evidence.sample(stored.graph)
        found = option.engine.run(given)
        for output, expected in stored.engine.run(given).items():
            compared(stored.graph, output, "real", [expected], [found[output]], "float32", FLOAT32)
        option.lost = 0.0
        return option

    def _more_in_float32(self, whole: Whole, first: _Option) -> list[_Option]:
        """Graphs in int8 until one loses at most half of the budget: there is more than one graph that may lose."""
        options: list[_Option] = []
        if first.way != INT8 or first.lost is None or first.lost <= self.budget.recall / 2:
            return options
        self.say(f"{first.graph}: which nodes int8 harms")
        for nodes in fewer_in_int8(whole, self.evidence.sample(first.graph)):
            option = self._option(first.graph, INT8, whole.in_int8(nodes), len(whole.nodes) - len(nodes))
            points = self._measure(option)
            if self.budget.allows(points):
                options.append(option)
            if points <= self.budget.recall / 2:
                break
        return options

    def _time(self, options: Sequence[_Option], effort: Effort) -> None:
        graph = options[0].graph
        engines = {str(number): option.engine for number, option in enumerate(options)}
        timed = speeds(engines, lambda batch: timed_inputs(self.bundle.manifest, graph, batch), effort, self.device)
        for number, option in enumerate(options):
            option.speeds = timed[str(number)]

    def _option(self, graph: GraphName, way: str, model: onnx.ModelProto, in_float32: int = 0) -> _Option:
        return _Option(graph, way, reduce(model, _precision(self.bundle)), engine_of(model, self.device), in_float32)

    def _measure(self, option: _Option) -> float:
        """Points that an option loses, all other graphs as stored; what it gives is kept."""
        evidence = self.evidence
        engines: dict[str, Engine] = {option.graph: option.engine}
        if option.graph == "video":
            option.videos = evidence.see(engines)
            option.cosines = _cosines(
                [(v.gallery.vectors, option.videos[n].gallery.vectors) for n, v in evidence.videos.items()]
            )
            shares = evidence.retrieved(option.videos, evidence.texts)
        elif option.graph == "text":
            option.texts = evidence.read(engines)
            option.cosines = _cosines([(v, option.texts[n]) for n, v in evidence.texts.items()])
            shares = evidence.retrieved(evidence.videos, option.texts)
        else:
            shares = self._told(option, evidence.videos)
        option.lost = lost(evidence.shares, shares)
        kept = f" with {option.in_float32} nodes in float32" if option.in_float32 else ""
        self.say(f"{option.graph}: {option.way}{kept} loses {option.lost:.2f} points")
        return option.lost


def _cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.concatenate([(a * b).sum(axis=-1).ravel() for a, b in pairs])


def _precision(bundle: Bundle) -> Precision:
    """How weights that stay in float32 are stored: as those of the bundle."""
    stated = bundle.manifest.precision
    return next((known for known in get_args(Precision) if known == stated), "float32")


def _write(search: _Search, chosen: Mapping[GraphName, _Option], folder: Path, name: str) -> None:
    """The new bundle's files, after it was measured as it is."""
    source = search.bundle.manifest
    search.say(f"writing {name}: {', '.join(f'{o.graph} {o.way}' for o in chosen.values())}")
    files = store({graph: option.model for graph, option in chosen.items()}, folder, "float32")
    kept = {source.tokenizer, *(n for n in source.files if n.endswith(".md"))}
    for file in kept | ({source.answers} if source.answers else set()):
        shutil.copyfile(search.bundle.folder / file, folder / file)
    write_documents(folder, {source.parity_report: ""})
    fields = source.model_dump() | {"name": name, "graphs": files, "precision": _stated(chosen), "metrics": {}}
    write_manifest(folder, fields)
    made = _measured_again(search, folder)
    origin, before = named(search.bundle), search.evidence
    search.say("comparing it with the bundle that it was made of, and calibrating")
    report = _report(search, chosen, made, name)
    fitted = recalibrate(made.model, made.embedded(), source.calibration)
    variant = Variant(
        name=f"{source.name} {source.version}",
        fingerprint=origin.fingerprint,
        recall=search.budget.recall,
        lost=round(lost(before.shares, made.shares), 4),
        speedup={graph: round(search.speedup(option), 3) for graph, option in chosen.items()},
        machine=machine() if search.device == "cpu" else search.device,
        ways=[_way(option, chosen) for options in search.options.values() for option in options],
        shares={name: (round(before.shares[name], 4), round(share, 4)) for name, share in made.shares.items()},
    )
    fields["calibration"] = fitted.calibration
    fields["extra"] = {key: value for key, value in source.extra.items() if key not in OF_ITS_GRAPHS} | {
        ORIGIN_KEY: origin.model_dump(),
        KEY: variant.model_dump(mode="json"),
        "calibration": stated_calibration(fitted, origin, source.tasks),
    }
    write_documents(folder, {source.parity_report: report.model_dump_json(indent=1) + "\n", source.model_card: ""})
    draft = write_manifest(folder, fields)
    write_documents(folder, {source.model_card: _card(search.bundle, draft, report, variant)})
    write_manifest(folder, fields)


def _measured_again(search: _Search, folder: Path) -> Evidence:
    """What the bundle as written finds, judges and answers. Raises ParityError where it loses too much."""
    search.say("measuring it as it is written")
    model = Model(Bundle.open(folder), THREADS, search.device)
    made = Evidence(model, search.evidence.corpora, search.evidence.pairs)
    if not search.budget.allows(points := lost(search.evidence.shares, made.shares)):
        raise ParityError(f"as written it loses {points:.2f} points; at most {search.budget.recall:g} was expected")
    return made


def _report(search: _Search, chosen: Mapping[GraphName, _Option], made: Evidence, name: str) -> ParityReport:
    before = search.evidence
    checks = (compared_bundles(corpus, before.side(corpus), made.side(corpus)) for corpus in before.corpora)
    return ParityReport(
        model=name,
        precision=_stated(chosen),
        seed=None,
        versions={package: package_version(package) for package in ("onnx", "onnxruntime")},
        tolerances={},
        outputs=[],
        recall=[],
        beside=Beside(
            of=named(search.bundle),
            outputs=[check for found in checks for check in found],
            unchanged=[graph for graph, option in chosen.items() if option.way == STORED],
            lost=round(lost(before.shares, made.shares), 4),
            budget=search.budget.recall,
            report=report_of(search.bundle),
        ),
    )


def _card(source: Bundle, draft: Manifest, report: ParityReport, variant: Variant) -> str:
    """Written anew where the manifest says how the model came about; else what the other bundle's card says follows."""
    if "provenance" in draft.extra:
        return model_card(draft, report, {})
    assert report.beside is not None
    before = (source.folder / source.manifest.model_card).read_text("utf-8").rstrip("\n")
    of = f"{variant.name} (fingerprint {variant.fingerprint[:12]})"
    lines = [
        f"# {draft.name} {draft.version}",
        "",
        *variant_section(variant),
        "",
        *beside_section(report.beside, calibrated(draft)),
        "",
        f"## The card of {variant.name}",
        "",
        f"What follows is the card of {of}, numbers and all. What it says of uses, limits, data and terms holds here,",
        "too.",
        "",
        *(f"##{line}" if line.startswith("#") else line for line in before.splitlines()),
    ]
    return "\n".join([*lines, ""])


def _stated(chosen: Mapping[GraphName, _Option]) -> str:
    """The manifest's precision: of how graphs compute, where one does otherwise than in float32."""
    ways = sorted({option.way for option in chosen.values()} - {STORED, FUSED})
    return ", ".join(ways) or "float32"


def _way(option: _Option, chosen: Mapping[GraphName, _Option]) -> Way:
    cosines = option.cosines
    return Way(
        graph=option.graph,
        way=option.way,
        in_float32=option.in_float32,
        bytes=sum(stored_kinds(option.model).values()),
        speeds=option.speeds,
        cosine=None if cosines is None else round(float(cosines.mean()), 6),
        least_cosine=None if cosines is None else round(float(cosines.min()), 6),
        lost=None if option.lost is None else round(option.lost, 4),
        chosen=chosen.get(option.graph) is option,
    )
