# Generated from vitascope/client/_async: change that, then run python -m tests.vitascope.client.test_generated
"""Methods for caption scores, answers, moments, captions, chapters, grounding, embeddings and reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

from vitascope.client import response_types
from vitascope.client._sync.transport import BaseClient
from vitascope.client.api import JSON, CaptionOptions, Granularity, InputType, api_path, drop_none, form_field, to_list
from vitascope.client.progress import UploadProgress
from vitascope.errors import InvalidInput

T = TypeVar("T")


class Inference(BaseClient):
    """Tasks of the model. ``model`` is a name, name@version or fingerprint; by default the service's default model."""

    def score(
        self,
        captions: Sequence[str],
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        references: Sequence[str] = (),
        frames: int = 0,
        model: str | None = None,
    ) -> response_types.ScoreResponse:
        """Score how well captions describe a stored video: similarity, clipscore, match and fused per caption.

        Args:
            captions: sentences.
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            references: captions known to be right; they add refclipscore.
            frames: number of frames to compare word by word; they add emscore.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options = {
            "captions": to_list("captions", captions),
            "references": to_list("references", references),
            "frames": frames,
            "model": model,
        }
        return self._compute(response_types.ScoreResponse, "caption-scores", span | options)

    def score_file(
        self,
        file: str | Path,
        captions: Sequence[str],
        *,
        start: float | None = None,
        end: float | None = None,
        references: Sequence[str] = (),
        frames: int = 0,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.ScoreResponse:
        """Score how well captions describe a file; the file is uploaded, but not stored. Otherwise like `score`."""
        fields = {
            "captions": to_list("captions", captions),
            "start": start,
            "end": end,
            "references": to_list("references", references),
            "frames": frames,
            "model": model,
        }
        return self._compute_of_file(response_types.ScoreResponse, "caption-scores", file, fields, progress)

    def ask(
        self,
        question: str,
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        top: int | None = None,
        candidates: Sequence[str] | None = None,
        abstain_below: float = 0.0,
        model: str | None = None,
    ) -> response_types.AnswerResponse:
        """Answer a question about a stored video.

        Args:
            question: a sentence.
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            top: number of answers; None: 5, or the limit of the service if that is lower.
            candidates: restrict the answers; probabilities are then among them.
            abstain_below: ``answer`` is null if the highest probability is lower.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options: JSON = {"question": question, "top": top, "abstain_below": abstain_below, "model": model}
        options["candidates"] = None if candidates is None else to_list("candidates", candidates)
        return self._compute(response_types.AnswerResponse, "answers", span | options)

    def ask_file(
        self,
        file: str | Path,
        question: str,
        *,
        start: float | None = None,
        end: float | None = None,
        top: int | None = None,
        candidates: Sequence[str] | None = None,
        abstain_below: float = 0.0,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.AnswerResponse:
        """Answer a question about a file; the file is uploaded, but not stored. Otherwise like `ask`."""
        fields: JSON = {"question": question, "top": top, "abstain_below": abstain_below, "model": model}
        fields |= {"start": start, "end": end}
        fields["candidates"] = None if candidates is None else to_list("candidates", candidates)
        if fields["candidates"] == []:  # a form has no empty lists
            raise InvalidInput("candidates: none; at least one was expected")
        return self._compute_of_file(response_types.AnswerResponse, "answers", file, fields, progress)

    def classify_entailment(
        self,
        hypotheses: Sequence[str],
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        model: str | None = None,
    ) -> response_types.EntailmentResponse:
        """Tell whether a stored video entails or contradicts sentences, or is neutral about them.

        Args:
            hypotheses: sentences.
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options = {"hypotheses": to_list("hypotheses", hypotheses), "model": model}
        return self._compute(response_types.EntailmentResponse, "entailment", span | options)

    def classify_entailment_of_file(
        self,
        file: str | Path,
        hypotheses: Sequence[str],
        *,
        start: float | None = None,
        end: float | None = None,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.EntailmentResponse:
        """Classify sentences about a file, which is uploaded, but not stored. Otherwise like `classify_entailment`."""
        fields = {"hypotheses": to_list("hypotheses", hypotheses), "start": start, "end": end, "model": model}
        return self._compute_of_file(response_types.EntailmentResponse, "entailment", file, fields, progress)

    def find_moments(
        self,
        texts: Sequence[str],
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        top: int | None = None,
        model: str | None = None,
    ) -> response_types.MomentResponse:
        """Find the spans of a stored video, finer than its clips, in which texts are true.

        Args:
            texts: sentences.
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            top: number of moments of each text; None: 5, or the limit of the service if that is lower.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options = {"texts": to_list("texts", texts), "top": top, "model": model}
        return self._compute(response_types.MomentResponse, "moments", span | options)

    def find_moments_in_file(
        self,
        file: str | Path,
        texts: Sequence[str],
        *,
        start: float | None = None,
        end: float | None = None,
        top: int | None = None,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.MomentResponse:
        """Find moments of a file; the file is uploaded, but not stored. Otherwise like `find_moments`."""
        fields = {"texts": to_list("texts", texts), "start": start, "end": end, "top": top, "model": model}
        return self._compute_of_file(response_types.MomentResponse, "moments", file, fields, progress)

    def ground(
        self,
        phrases: Sequence[str],
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        model: str | None = None,
    ) -> response_types.GroundingResponse:
        """Locate the objects that phrases describe in the middle frame of a part of a stored video.

        Args:
            phrases: such as ``the brown dog``.
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options = {"phrases": to_list("phrases", phrases), "model": model}
        return self._compute(response_types.GroundingResponse, "groundings", span | options)

    def ground_file(
        self,
        file: str | Path,
        phrases: Sequence[str],
        *,
        start: float | None = None,
        end: float | None = None,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.GroundingResponse:
        """Locate the objects that phrases describe in a file, which is uploaded, but not stored. See `ground`."""
        fields = {"phrases": to_list("phrases", phrases), "start": start, "end": end, "model": model}
        return self._compute_of_file(response_types.GroundingResponse, "groundings", file, fields, progress)

    def generate_captions(
        self,
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        segmentation: Literal["stored"] | Mapping[str, Any] | None = None,
        beams: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_tokens: int | None = None,
        count: int = 1,
        rerank: bool = False,
        model: str | None = None,
    ) -> response_types.CaptionResponse:
        """Generate captions of a stored video, or of each of its clips.

        Args:
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            segmentation: caption each clip alone: ``stored``, the indexed clips, or a rule as for ``add_video``.
            beams: sentences kept at each token (beam search); 1: greedy search; None: 3, or the limit of the service if
                that is lower.
            temperature: above 0: tokens are sampled; needs ``beams=1`` or ``rerank``.
            top_p: sample from the most probable tokens that together have this probability.
            seed: seed of sampling.
            max_tokens: maximum tokens of a caption; None: the maximum of the model.
            count: number of captions of each clip.
            rerank: order all beams (with a temperature, also as many samples) also by how well they match the clip.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options: JSON = {"segmentation": segmentation, "max_tokens": max_tokens, "rerank": rerank, "model": model}
        options |= {"beams": beams, "temperature": temperature, "top_p": top_p, "seed": seed, "count": count}
        return self._compute(response_types.CaptionResponse, "captions", span | options)

    def generate_captions_for_file(
        self,
        file: str | Path,
        *,
        progress: UploadProgress = False,
        **options: Unpack[CaptionOptions],
    ) -> response_types.CaptionResponse:
        """Generate captions of a file; the file is uploaded, but not stored. Otherwise like `generate_captions`."""
        return self._compute_of_file(response_types.CaptionResponse, "captions", file, options, progress)

    def generate_chapters(
        self,
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        segmentation: Literal["stored"] | Mapping[str, Any] | None = None,
        min_seconds: float = 10.0,
        similarity: float | None = None,
        max_chapters: int | None = None,
        model: str | None = None,
    ) -> response_types.ChapterResponse:
        """Divide a stored video into chapters, whose titles are captions.

        Args:
            collection: name of the collection.
            video_id: id of the video.
            start: start in seconds; None: the beginning of the video.
            end: end in seconds; None: the end of the video.
            segmentation: the clips that are merged: ``stored``, the indexed clips, or a rule as for ``add_video``.
            min_seconds: shorter chapters are merged with a neighbour.
            similarity: least cosine of neighbours that are merged; None: derived from the similarities in the video.
            max_chapters: maximum number of chapters; None: 20, or the limit of the service if that is lower.
            model: name, name@version or fingerprint; None: the default model of the service.
        """
        span = {"collection": collection, "video_id": video_id, "start": start, "end": end}
        options = {"segmentation": segmentation, "similarity": similarity, "model": model}
        options |= {"min_seconds": min_seconds, "max_chapters": max_chapters}
        return self._compute(response_types.ChapterResponse, "chapters", span | options)

    def generate_chapters_for_file(
        self,
        file: str | Path,
        *,
        start: float | None = None,
        end: float | None = None,
        segmentation: Mapping[str, Any] | None = None,
        min_seconds: float = 10.0,
        similarity: float | None = None,
        max_chapters: int | None = None,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.ChapterResponse:
        """Divide a video file into chapters; it is uploaded, but not stored. Otherwise like `generate_chapters`."""
        options = {"start": start, "end": end, "segmentation": segmentation, "similarity": similarity, "model": model}
        options |= {"min_seconds": min_seconds, "max_chapters": max_chapters}
        return self._compute_of_file(response_types.ChapterResponse, "chapters", file, options, progress)

    def embed_texts(
        self,
        texts: Sequence[str],
        *,
        model: str | None = None,
        input_type: InputType | None = None,
        dimensions: int | None = None,
    ) -> response_types.Embeddings:
        """Return embeddings in OpenAI's format: ``data[i]["embedding"]`` belongs to ``texts[i]`` and has length 1.

        Embeddings of models with another ``fingerprint`` cannot be compared.

        Args:
            texts: texts to embed.
            model: name, name@version or fingerprint; by default the service's default model.
            input_type: ``query`` (default) or ``document``; chooses the prompt of models that expect one.
            dimensions: number of dimensions of the embeddings, if the model supports it; None: all.
        """
        body = {"input": to_list("texts", texts), "model": model, "input_type": input_type, "dimensions": dimensions}
        return self._compute(response_types.Embeddings, "embeddings", body)

    def embed_file(
        self,
        file: str | Path,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        sound: bool = False,
        progress: UploadProgress = False,
    ) -> response_types.Embeddings:
        """Return the embedding of an image or video, or of its sound; the file is not stored. See `embed_texts`."""
        fields = {"model": model, "dimensions": dimensions, "type": "audio" if sound else None}
        return self._compute_of_file(response_types.Embeddings, "embeddings", file, fields, progress)

    def transcribe(
        self,
        file: str | Path,
        *,
        model: str | None = None,
        language: str | None = None,
        granularities: Sequence[Granularity] = ("segment",),
        progress: UploadProgress = False,
    ) -> response_types.Transcription:
        """Transcribe the speech of a video or sound file, which is not stored.

        Args:
            file: path of the file.
            model: name that the service's speech model must have; None: any.
            language: ISO 639-1 code; None: the model detects it, if it can.
            granularities: list segments, words, or both.
            progress: True shows the upload in a terminal or notebook; a function is called with bytes sent and total.
        """
        fields: JSON = {
            "response_format": "verbose_json",
            "timestamp_granularities[]": to_list("granularities", granularities),
        }
        fields |= {"model": model, "language": language}
        return self._compute_of_file(response_types.Transcription, "transcriptions", file, fields, progress)

    def rerank(
        self,
        query: str | Mapping[str, str],
        documents: Sequence[str | Mapping[str, str]],
        *,
        collection: str,
        top_n: int | None = None,
    ) -> response_types.RerankResponse:
        """Order documents by relevance; each gets relevance_score (fused), similarity and match.

        Args:
            query: a sentence, or a stored clip or video: ``{"clip_id": "41"}``, ``{"video_id": "3"}``.
            documents: stored clips and videos for a sentence; sentences for a stored clip or video.
            collection: collection of the clips and videos.
            top_n: number of documents to return.
        """
        body = {"query": query, "documents": to_list("documents", documents), "collection": collection, "top_n": top_n}
        return self._compute(response_types.RerankResponse, "rerank", body)

    def _compute(self, response_type: type[T], task: str, body: Mapping[str, Any]) -> T:
        """POST to a task, which changes nothing; fields that are None are left out."""
        body = drop_none(**body)
        return self._call(response_type, "POST", api_path(task), json=body, is_read_only=True)

    def _compute_of_file(
        self, response_type: type[T], task: str, file: str | Path, fields: Mapping[str, Any], progress: UploadProgress
    ) -> T:
        """POST a file that is not stored; otherwise as `_compute`. Lists are repeated fields."""
        form = {
            name: value if isinstance(value, list) else form_field(name, value)
            for name, value in drop_none(**fields).items()
        }
        return self._upload(response_type, api_path(task), file, form, is_read_only=True, progress=progress)
