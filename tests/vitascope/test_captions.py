"""Captions by a small decoder whose next-word probabilities are known (``tests.small_bundle.NEXT_WORDS``)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import CancelledError
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.clips.segmentation import window_spans
from tests.media_files import solid, write_picture, write_video
from tests.small_bundle import AUDIO, COLOURS, STREAMS, VOCABULARY, make_small_bundle
from tests.vitascope.client.services import Exchange, server
from vitascope import captions as captions_module
from vitascope.bundle.graph_specs import LOGITS, PAST_KEYS, PAST_VALUES
from vitascope.captions import Caption, CaptionOptions
from vitascope.cli.main import main
from vitascope.embeddings import Floats
from vitascope.engines.graphs import GraphRunner, Graphs
from vitascope.engines.onnx_runtime import Array
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.model import Model

GREEDY = CaptionOptions(beams=1)
WORDS = list(VOCABULARY)
START, END = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    tasks = ("retrieval", "audio_retrieval", "captioning")
    folder = tmp_path_factory.mktemp("bundle")
    make_small_bundle(folder, tasks=tasks, audio={**AUDIO, "fused": True}, dynamic_audio=True)
    return Model.open(folder, threads=1, device="cpu")


def tokens_of(model: Model, *names: str) -> Floats:
    """Return the visual tokens of clips of one colour each; zeros for "nothing"."""
    shown = [255 * np.array(COLOURS.get(name, (0, 0, 0)), np.uint8) for name in names]
    sizes = {s["name"]: (s["frames"], s["height"], s["width"], 3) for s in STREAMS}
    streams = {name: np.stack([np.full((1, *size), color) for color in shown]) for name, size in sizes.items()}
    visible = np.array([name != "nothing" for name in names], np.float32)
    return model.embed_video(streams).visual_tokens * visible[:, None, None]


def texts(captions: list[list[Caption]]) -> list[list[str]]:
    return [[caption.text for caption in row] for row in captions]


def all_captions(model: Model, visual_tokens: Floats, max_tokens: int) -> list[tuple[str, float]]:
    """Return every sentence of a clip that is not absurd and its mean log-probability, computed without a cache."""
    audio = np.zeros((1, 2, visual_tokens.shape[2]), np.float32)
    visual = model.run_graph("caption_prefill", {"visual_tokens": visual_tokens, "audio_tokens": audio})
    sentences, complete = {(START,): 0.0}, []
    for length in range(1, max_tokens + 1):
        ids = np.array(list(sentences))
        inputs = {name: np.repeat(array, len(ids), axis=0) for name, array in visual.items()}
        empty = np.zeros((len(ids), 1, 2, 0, len(WORDS)), np.float32)
        inputs |= {"input_ids": ids, PAST_KEYS: empty, PAST_VALUES: empty}
        probabilities = np.exp(model.run_graph("caption_step", inputs)[LOGITS].astype(float))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        longer = {}
        for prefix, row in zip(list(sentences), probabilities, strict=True):
            for token in np.flatnonzero(row > 1e-8):
                total = sentences[prefix] + np.log(row[token])
                if token == END or length == max_tokens:
                    words = [WORDS[i] for i in (*prefix[1:], *[token] * int(token != END))]
                    complete.append((" ".join(words), total / length))
                else:
                    longer[*prefix, int(token)] = total
        sentences = longer
    return sorted(complete, key=lambda caption: -caption[1])


def test_beam_search_returns_the_most_probable_sentences(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions_module, "MAX_BEAMS", 1000)  # all sentences
    red = tokens_of(model, "red")
    for max_tokens in (3, 7):
        expected = all_captions(model, red, max_tokens)
        beams = CaptionOptions(beams=len(expected), count=20, max_tokens=max_tokens)
        [captions] = model.generate_captions(red, options=beams)
        assert [caption.text for caption in captions] == [text for text, _ in expected[:20]]
        log_probabilities = [caption.log_probability for caption in captions]
        assert log_probabilities == pytest.approx([value for _, value in expected[:20]], abs=1e-5)
    [[best]] = model.generate_captions(red)
    assert (best.text, best.log_probability) == (expected[0][0], pytest.approx(expected[0][1], abs=1e-5))
    assert best.text == "the red thing moves"
    [[greedy]] = model.generate_captions(red, options=GREEDY)
    assert greedy.text == "a red thing moves"
    assert greedy.log_probability == pytest.approx(dict(expected)[greedy.text], abs=1e-5)
    assert greedy.log_probability < best.log_probability


class RecordingRunner(Graphs):
    """Graphs that record the rows of each run, and the audio tokens and all tokens that captions read."""

    def __init__(self, inner: GraphRunner) -> None:
        self.inner, self.rows, self.sizes = inner, list[int](), list[tuple[int, ...]]()

    def ensure_loaded(self, graph: str) -> None:
        self.inner.ensure_loaded(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.rows.append(len(next(iter(inputs.values()))))
        outputs = self.inner.run(graph, inputs)
        if graph == "caption_prefill":
            self.sizes.append((inputs["audio_tokens"].shape[1], outputs["visual_mask"].shape[1]))
        return outputs


def test_clips_of_a_batch_do_not_affect_one_another(model: Model) -> None:
    clips = tokens_of(model, "blue", "nothing", "red", "nothing", "green")
    runners: list[RecordingRunner] = []

    def record(inner: GraphRunner) -> GraphRunner:
        runners.append(RecordingRunner(inner))
        return runners[-1]

    for options in (GREEDY, CaptionOptions(count=2), CaptionOptions(beams=1, temperature=1.5, count=3)):
        alone = [model.generate_captions(clips[row : row + 1], options=options)[0] for row in range(len(clips))]
        assert len({len(row[0].text.split()) for row in alone}) > 1, "sentences of several lengths"
        for batch_size in (7, 2):
            batched = model.with_overrides(record, batch_size).generate_captions(clips, options=options)
            assert texts(batched) == texts(alone)
            most = max(batch_size, options.beams, options.count)
            assert max(runners[-1].rows) <= most
            assert min(runners[-1].rows) < most, "a clip that is done leaves the batch"


def test_samples_follow_the_distribution_and_the_seed(model: Model) -> None:
    red = tokens_of(model, "red")
    sampling = CaptionOptions(beams=1, temperature=1.0, count=150)
    [captions] = model.generate_captions(red, options=sampling)
    assert model.generate_captions(red, options=sampling) == [captions]
    of_seed = [
        model.generate_captions(red, options=CaptionOptions(beams=1, temperature=1.0, count=9, seed=s)) for s in (1, 2)
    ]
    assert of_seed[0] != of_seed[1]
    share = np.mean([caption.text.startswith("the") for caption in captions])
    assert share == pytest.approx(4 / 9, abs=0.13)
    assert [caption.log_probability for caption in captions] == sorted(c.log_probability for c in captions)[::-1]
    probable = dict(all_captions(model, red, 8))
    common = max({caption.text for caption in captions}, key=[caption.text for caption in captions].count)
    assert captions[[c.text for c in captions].index(common)].log_probability == pytest.approx(probable[common])
    for sharp in ({"temperature": 0.02}, {"temperature": 1.0, "top_p": 0.5}):
        assert texts(model.generate_captions(red, options=CaptionOptions(beams=1, **sharp))) == [["a red thing moves"]]


def test_captions_use_sound(model: Model) -> None:
    red, nothing = tokens_of(model, "red"), tokens_of(model, "nothing")
    blue = tokens_of(model, "blue")  # of the same form as tokens of its tone
    many = CaptionOptions(beams=60, count=40)
    assert texts(model.generate_captions(nothing, blue)) == [["the blue thing moves"]]
    [of_both], [of_red] = (
        texts(model.generate_captions(red, blue, many)),
        texts(model.generate_captions(red, None, many)),
    )
    assert of_both[0] == of_red[0] == "the red thing moves"
    assert "the blue thing moves" in of_both
    assert "the blue thing moves" not in of_red


def test_clips_without_sound_are_captioned_by_fewer_tokens_where_the_graphs_allow_it(
    model: Model, tmp_path: Path
) -> None:
    tasks = ("retrieval", "audio_retrieval", "captioning")
    folder = make_small_bundle(tmp_path / "fixed", tasks=tasks, audio={**AUDIO, "fused": True})
    clips, sound = tokens_of(model, "red", "nothing"), tokens_of(model, "nothing", "blue")
    captions, runners = [], list[RecordingRunner]()

    def record(inner: GraphRunner) -> GraphRunner:
        runners.append(RecordingRunner(inner))
        return runners[-1]

    for opened, fewest in ((model, 1), (Model.open(folder, threads=1, device="cpu"), 2)):
        recorded = opened.with_overrides(record)
        captions.append([recorded.generate_captions(clips, tokens) for tokens in (None, sound)])
        assert runners[-1].sizes == [(fewest, 2 + fewest), (2, 4)]
    assert captions[0] == captions[1]
    assert texts(captions[0][1]) == [["the red thing moves"], ["the blue thing moves"]]


class OppositeMatch(RecordingRunner):
    """Graphs whose match is high for captions that do not describe the clip."""

    def output_shapes(self, graph: str) -> dict[str, tuple[int, ...]]:
        return self.inner.output_shapes(graph)

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = super().run(graph, inputs)
        return {name: -3 * (array + 6) for name, array in outputs.items()} if graph == "match" else outputs


@pytest.mark.parametrize("by_sound", [False, True])
def test_reranking_orders_all_beams_by_match_and_log_probability(tmp_path: Path, by_sound: bool) -> None:
    reranking = {"default_rerank": 5, "sound_reranking": {"candidates": 5, "match_weight": 1.0}} if by_sound else {}
    tasks = ("retrieval", "audio_retrieval", "matching", "captioning")
    folder = make_small_bundle(tmp_path, tasks=tasks, audio={**AUDIO, "fused": True}, dynamic_audio=True, **reranking)
    model = Model.open(folder, threads=1, device="cpu")
    clips, sound = tokens_of(model, "red", "red", "green"), tokens_of(model, "nothing", "blue", "nothing")
    model = model.with_overrides(OppositeMatch, batch_size=130)
    plain = model.generate_captions(clips, sound, CaptionOptions(beams=60, count=60, max_tokens=3))
    reranked = model.generate_captions(clips, sound, CaptionOptions(beams=60, count=20, max_tokens=3, rerank=True))
    for row, (candidates, best) in enumerate(zip(plain, reranked, strict=True)):
        heard = sound[[row] * len(candidates)] if by_sound else None
        match = model.match([c.text for c in candidates], clips[[row] * len(candidates)], heard)
        pairs = zip(candidates, match.probabilities.tolist(), strict=True)
        expected = sorted(pairs, key=lambda pair: -(np.log(pair[1]) + 4 * pair[0].log_probability))[:20]
        assert [c.text for c in best] == [c.text for c, _ in expected]
        assert [c.match for c in best] == pytest.approx([probability for _, probability in expected], abs=1e-5)
        assert [c.match for c in candidates] == [None] * len(candidates)
        assert {c.text for c in best} != {c.text for c in candidates[:20]}
    samples = CaptionOptions(beams=1, temperature=3.0, count=8, rerank=True)
    [sampled] = model.generate_captions(clips[:1], None, samples)
    assert len(sampled) == 8
    assert all(caption.match is not None for caption in sampled)


def test_beams_that_differ_in_a_full_stop_are_one_caption_and_samples_keep_their_count(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    red, decode = tokens_of(model, "red"), model.tokenizer.decode
    beams = CaptionOptions(beams=60, count=60, max_tokens=5)
    [captions] = model.generate_captions(red, options=beams)
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: decode(ids).replace(" moves", "."))
    [distinct] = model.generate_captions(red, options=beams)
    expected: dict[str, str] = {}
    for caption in captions:
        text = caption.text.replace(" moves", ".")
        expected.setdefault(text.removesuffix("."), text)
    assert [caption.text for caption in distinct] == list(expected.values())
    assert len(distinct) < len(captions)
    [samples] = model.generate_captions(red, options=CaptionOptions(beams=1, temperature=1.0, count=50))
    assert len(samples) == 50


def test_reranking_with_a_temperature_chooses_among_beams_and_samples(tmp_path: Path) -> None:
    tasks = ("retrieval", "audio_retrieval", "matching", "captioning")
    folder = make_small_bundle(tmp_path, tasks=tasks, audio={**AUDIO, "fused": True})
    model = Model.open(folder, threads=1, device="cpu").with_overrides(OppositeMatch)
    red, temperature = tokens_of(model, "red"), 3.0
    [beams] = model.generate_captions(red, options=CaptionOptions(beams=4, count=4))
    [samples] = model.generate_captions(red, options=CaptionOptions(beams=1, temperature=temperature, count=12))
    reranked = CaptionOptions(beams=4, temperature=temperature, count=12, rerank=True)
    [captions] = model.generate_captions(red, options=reranked)
    candidates = {caption.text: caption.log_probability for caption in (*beams, *samples)}
    assert len(candidates) > len(samples)
    matches = model.match(list(candidates), red[[0] * len(candidates)]).probabilities
    scores = {text: math.log(match) + 4 * candidates[text] for text, match in zip(candidates, matches, strict=True)}
    assert [caption.text for caption in captions] == sorted(scores, key=lambda text: -scores[text])[:12]


def test_invalid_options_cancellation_and_a_missing_task(model: Model, small_model: Model) -> None:
    red = tokens_of(model, "red")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"beams": 0}, "beams: 0; at least 1"),
        ({"beams": 257}, "beams: 257; at most 256 was expected"),
        ({"count": 257, "beams": 1, "temperature": 1.0}, "count: 257; at most 256 was expected"),
        ({"seed": 2**63}, f"seed: {2**63}; at most {2**63 - 1} was expected"),
        ({"count": 4}, "count: 4 with 3 beams"),
        ({"temperature": 1.0}, "beams: 3 with temperature 1; 1, or rerank, was expected"),
        ({"temperature": float("nan")}, "temperature: nan"),
        ({"top_p": 0.0}, "top_p: 0.0; above 0"),
        ({"max_tokens": 9}, "max_tokens: 9; at most 8 was expected of this model"),
    ]
    for options, reason in cases:
        with pytest.raises(InvalidInput, match=reason):
            model.generate_captions(red, options=CaptionOptions(**options))
    with pytest.raises(InvalidInput, match="visual_tokens"):
        model.generate_captions(red[:, :1])
    assert model.generate_captions(red[:0]) == []
    calls = count()
    with pytest.raises(CancelledError):
        model.generate_captions(red, is_cancelled=lambda: next(calls) == 2)
    assert next(calls) == 3
    with pytest.raises(
        TaskMissing, match="no graph 'caption_step', so no captioning; the bundle's tasks are retrieval"
    ):
        small_model.generate_captions(red)
    with pytest.raises(TaskMissing, match="rerank: true; false was expected, as the model has no task 'matching'"):
        model.generate_captions(red, options=CaptionOptions(rerank=True))


def test_the_command_captions_each_clip_of_files(
    model: Model, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colors = {name: tuple(255 * np.array(COLOURS[name])) for name in ("red", "blue", "green")}
    frames = [solid(colors[name], 64, 48) for name in ("red", "blue") for _ in range(20)]
    video = write_video(tmp_path / "film.mp4", frames, rate=10)
    picture, text = write_picture(tmp_path / "green.png", solid(colors["green"])), tmp_path / "text.mp4"
    text.write_text("no video")
    bundle = ["--bundle", str(model.bundle.folder)]
    assert main(["caption", str(video), str(text), str(picture), "--clips", "2", *bundle, "--json"]) == 3
    result = json.loads(capsys.readouterr().out)
    film, failed, image = result["files"]
    assert [clip["captions"][0]["text"] for clip in film["clips"]] == ["the red thing moves", "the blue thing moves"]
    assert [(clip["start"], clip["end"]) for clip in film["clips"]] == [(0, 2), (2, 4)]
    assert [clip["modalities"] for clip in film["clips"]] == [["visual"], ["visual"]]
    assert [clip["captions"][0]["text"] for clip in image["clips"]] == ["the green thing moves"]
    assert "text.mp4" in failed["error"]
    assert main(["caption", str(video), "--clips", "3", *bundle, "--json"]) == 0
    [film] = json.loads(capsys.readouterr().out)["files"]
    assert [(clip["start"], clip["end"]) for clip in film["clips"]] == window_spans(4.0, 3.0) == [(0, 4)]
    for length in ("0", "nan", "inf"):
        assert main(["caption", str(video), "--clips", length, *bundle]) == 2
        assert f"--clips: {length}; finite seconds above 0 were expected" in capsys.readouterr().err
    assert main(["caption", str(video), *bundle, "--beams", "1", "--temperature", "1", "--count", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3
    assert all(line.startswith("0:00-0:04 ") for line in shown[1:])
    assert main(["caption", str(video), *bundle, "--rerank"]) == 2
    assert "no task 'matching'" in capsys.readouterr().err
    assert main(["caption", str(video), "--bundle", str(small_bundle)]) == 2
    assert "no graph 'caption_step', so no captioning" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_does_not_stop_captions_by_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def respond(exchange: Exchange) -> None:
        exchange.rfile.read(int(exchange.headers["Content-Length"]))
        captions = [{"text": "a dog", "log_probability": -1.0}]
        exchange.json(200, {"clips": [{"start": 0.0, "end": 2.0, "captions": captions}]})

    (tmp_path / "film.mp4").write_bytes(b"not really a video")
    files = [str(tmp_path / "missing.mp4"), str(tmp_path / "film.mp4")]
    with server(respond) as url:
        assert main(["caption", *files, "--server", url, "--json"]) == 3
    missing, film = json.loads(capsys.readouterr().out)["files"]
    assert "missing.mp4: no such file" in missing["error"]
    assert film["clips"][0]["captions"][0]["text"] == "a dog"
