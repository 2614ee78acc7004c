"""Cache of the outputs of frozen visual encoders, computed once instead of at every step."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from training.data.arrays import create_array
from training.data.frame_batch import augment, clip_count, sample_clips
from training.data.packed import Packed
from training.evaluation.encoder import streams_of
from training.models.config import FusedConfig
from training.models.fusion import FusedModel
from training.recipe import CACHED_FEATURES, DatasetConfig, Stage

BATCH_SIZE = 8
COMPLETE = "complete"
"""Name of the file that marks a complete cache of a dataset."""
BEHIND_ENCODER = FusedConfig.model_fields.keys() - {"system", "image_mean", "image_std", "grid_height", "grid_width"}
"""Configuration fields that do not affect the features of the video encoder. Fields of an architecture do."""

Cached = Mapping[str, np.ndarray]
"""Arrays (views, N, ...) by name."""
Encode = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Frame streams by name -> features or tokens by name."""


def encode_frozen(
    model: FusedModel,
    stage: Stage,
    packed: Sequence[Packed],
    folder: Path,
    *,
    fresh: bool,
    seed: int = 0,
    bf16: bool = True,
) -> list[Cached | None]:
    """Encode the videos of a stage's datasets with the frozen layers of the visual encoder, and cache the results.

    Features (`CACHED_FEATURES`) are stored under a hash of everything that affects them, so that stages can share them.
    On a CPU they are computed in float32 by ONNX Runtime, independent of the precision of the steps.

    Args:
        model: The model.
        stage: The stage.
        packed: Corpora of the stage's datasets.
        folder: Folder of the cache, from which a resumed run reads the same values.
        fresh: Encode tokens again, because the stage begins.
        seed: Seed of augmentation and clip sampling.
        bf16: Compute in bfloat16, except features on a CPU.

    Returns:
        For each dataset memory-mapped float16 arrays (views, N, ...) by name: `visual`, the visual tokens; or with
        `CACHED_FEATURES` the features that the trained rest of the video encoder reads; or their means over positions,
        if neither objectives nor embeddings need more. None if the dataset's videos cannot be cached, because
        augmentation or clip sampling is used with `num_views` 0, ITC pools the embeddings of clips, sentences are about
        pairs of pictures, or no pictures are read.
    """
    out: list[Cached | None] = []
    features = stage.frozen in CACHED_FEATURES
    bf16 = bf16 and not (features and model.device.type == "cpu")
    encoder = lru_cache(partial(_encoder, model, stage, bf16=bf16))
    weights = _hash_of_weights(model) if features else ""
    for index, (dataset, corpus) in enumerate(zip(stage.datasets, packed, strict=True)):
        clips = clip_count(corpus, dataset.clips_per_video)
        is_random = dataset.augments or clips < corpus.clips
        views = dataset.num_views if is_random else 1
        pools = clips > 1 and model.cfg.clip_merge == "logsumexp" and "itc" in dataset.objectives
        of_pairs = model.cfg.entailment == "pair" and "entailment" in dataset.objectives
        if pools or of_pairs or not views or not corpus.streams or not dataset.needs_video:
            out.append(None)
            continue
        key = f"{index}"
        if features:
            drawn = seed if is_random else None
            settings = (weights, corpus.fingerprint, _augmentation(dataset), clips, views, drawn, bf16)
            key = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        part = folder / f"{key}-{dataset.corpus}-{dataset.split}"
        if (fresh and not features) or not (part / COMPLETE).exists():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            seeds = [[seed, view] if features else [seed, index, view] for view in range(views)]
            _write(encoder(clips), model, stage, corpus, dataset, clips, part, seeds)
            (part / COMPLETE).touch()
        cached: Cached = {path.stem: np.load(path, mmap_mode="r") for path in sorted(part.glob("*.npy"))}
        out.append(_means(cached) if features and model.embeds_means and not dataset.needs_tokens else cached)
    return out


def _hash_of_weights(model: FusedModel) -> str:
    """Return a hash of the weights and configuration fields that affect the features of the video encoder."""
    digest = hashlib.sha256(model.cfg.model_dump_json(exclude=BEHIND_ENCODER).encode())
    for name, value in model.video.state_dict().items():
        if not f"video.{name}".startswith(model.after_features):
            digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def _augmentation(dataset: DatasetConfig) -> tuple[object, ...]:
    """Return the settings of a dataset that affect its frames."""
    names = ("limit", "min_crop", "zoom_out", "resolution_ratio", "flip", "jitter", "channel_mix")
    return tuple(getattr(dataset, name) for name in names)


def _means(cached: Cached) -> Cached:
    """Return the means over positions (views, N, ...) of features (views, N, V, ...)."""
    return {
        name: np.stack([[video.mean(axis=0, dtype=np.float32) for video in view] for view in values])
        for name, values in cached.items()
    }


def _write(
    encode: Encode,
    model: FusedModel,
    stage: Stage,
    packed: Packed,
    dataset: DatasetConfig,
    clips: int,
    folder: Path,
    seeds: Sequence[Sequence[int]],
) -> None:
    """Write one array per output of the frozen encoder, (views, N, ...), with one view per seed."""
    count = len(packed.examples[: dataset.limit])
    arrays: dict[str, np.ndarray] = {}
    for view, seed in enumerate(seeds):
        for rows, encoded in _encode(encode, model, stage, packed, dataset, clips, count, seed):
            for name, values in encoded.items():
                if name not in arrays:
                    shape = (len(seeds), count, *values.shape[1:])
                    arrays[name] = create_array(folder / f"{name}.npy", shape, np.float16)
                arrays[name][view, rows] = values.half().cpu().numpy()
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]


def _encode(
    encode: Encode,
    model: FusedModel,
    stage: Stage,
    packed: Packed,
    dataset: DatasetConfig,
    clips: int,
    count: int,
    seed: Sequence[int],
) -> Iterator[tuple[np.ndarray, Mapping[str, Tensor]]]:
    """Yield indices of examples (n,) and the outputs of the frozen encoder for them, (n, ...) by name."""
    rng = np.random.default_rng(seed)
    batch_size = max(1, BATCH_SIZE // clips)
    pending: deque[tuple[np.ndarray, Future[Mapping[str, Tensor]]]] = deque()
    threads = torch.get_num_threads() if isinstance(encode, _OnnxEncoder) else 1
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, batch_size):
            rows = np.arange(start, min(start + batch_size, count))
            sampled = sample_clips(rng, len(rows), packed.clips, clips)
            frames = streams_of(packed, rows, model.cfg.streams(), sampled)
            tensors = {name: torch.from_numpy(x) for name, x in frames.items()}
            if stage.frozen in CACHED_FEATURES:  # each video gets its own crop
                single = [
                    augment({n: x[i : i + 1] for n, x in tensors.items()}, dataset, rng) for i in range(len(rows))
                ]
                tensors = {name: torch.cat([video[name] for video in single]) for name in tensors}
            else:
                tensors = augment(tensors, dataset, rng)
            pending.append((rows, pool.submit(encode, tensors)))
            if len(pending) > threads:
                first, encoded = pending.popleft()
                yield first, encoded.result()
        for rows, encoded in pending:
            yield rows, encoded.result()


class _TorchEncoder:
    """Encodes frame streams with the model's modules, in evaluation mode."""

    def __init__(self, model: FusedModel, stage: Stage, bf16: bool) -> None:
        self.model, self.features, self.bf16 = model, stage.frozen in CACHED_FEATURES, bf16

    def __call__(self, streams: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        device, training = self.model.device, self.model.training
        self.model.eval()
        on_device = {name: x.to(device) for name, x in streams.items()}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            if self.features:
                encoded = self.model.visual_features(on_device)
            else:
                encoded = {"visual": self.model.encode_video(on_device)[1]}
        self.model.train(training)
        return encoded


class _Features(nn.Module):
    """Wraps `FusedModel.visual_features` with positional inputs and a tuple as output, for export."""

    def __init__(self, model: FusedModel, streams: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.streams, self.outputs = model, streams, outputs

    def forward(self, *frames: Tensor) -> tuple[Tensor, ...]:
        features = self.model.visual_features(dict(zip(self.streams, frames, strict=True)))
        return tuple(features[name] for name in self.outputs)


class _OnnxEncoder:
    """Encodes frame streams with ONNX Runtime in float32, which takes half of torch's time on a CPU.

    Each call uses one thread.
    """

    def __init__(self, model: FusedModel, clips: int) -> None:
        example = {  # no batch size of 1, since torch.export would specialize on it
            stream.name: torch.rand(2, clips, stream.frames, stream.height, stream.width, 3) * 255.0
            for stream in model.cfg.streams()
        }
        training = model.training
        model.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about names that it generates itself
            self.names = sorted(model.visual_features(example))
            program = torch.onnx.export(
                _Features(model, list(example), self.names).eval(),
                tuple(example.values()),
                dynamo=True,
                dynamic_shapes=(({0: torch.export.Dim("B")},) * len(example),),
                input_names=list(example),
                output_names=self.names,
                verbose=False,
            )
        model.train(training)
        assert program is not None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, streams: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        values = self.session.run(self.names, {name: x.float().numpy() for name, x in streams.items()})
        return {name: torch.from_numpy(value) for name, value in zip(self.names, values, strict=True)}


def _encoder(model: FusedModel, stage: Stage, clips: int, bf16: bool) -> Encode:
    if stage.frozen in CACHED_FEATURES and model.device.type == "cpu":
        return _OnnxEncoder(model, clips)
    return _TorchEncoder(model, stage, bf16)
