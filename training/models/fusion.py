"""The base class of all architectures: a video encoder, a split text Transformer, and heads on the fused states.

An architecture (`hd_vila`, `soho`, `visual_parsing`) supplies the video encoder and the module that embeds its visual
tokens for the fused layers. All architectures share the retrieval embeddings, the heads for matching, masked words and
answers, and the optional audio encoder.

Shape letters: B samples, C clips, F frames, H W pixels, V visual tokens, N samples of sound, A audio tokens, L text
tokens, D width of the fused layers, W width of the visual or audio tokens, E embedding dim; in the caption decoder
Y layers, H heads, T = V + A tokens, P words so far, L new words, d head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.audio import AudioEmbeddings, AudioEncoder
from training.models.caption_decoder import CaptionDecoder
from training.models.config import FusedConfig
from training.models.entailment_head import EntailmentHead, pool_states
from training.models.grounding_head import GroundingHead
from training.models.hubness import SIMILARITY_SCALE, HubnessCorrection
from training.models.pooled_answer_head import AnswerLogits, PooledAnswerHead
from training.models.text import (
    MaskedWordHead,
    TextTransformer,
    VisualCache,
    cache_audio,
    cache_visual,
    masked_mean,
    repeated,
    tokens_present,
)
from vitascope.errors import InvalidInput

AUDIO_PREFIX, AUDIO_BACKBONE = "audio.", "audio.encoder.stages."
"""Parameter prefixes of the audio encoder with its projection, and of its CNN."""
ENCODER_PREFIXES = ("video.", "text.bert.embeddings.", "text_pool.", "text_project.", "video_project.", AUDIO_PREFIX)
"""Parameter prefixes of the encoders and their projections, besides the text layers."""
TOKEN_PREFIXES = ("visual_embeddings.", "audio_embeddings.")
"""Parameter prefixes of the embeddings of visual and audio tokens for the fused layers."""
CAPTION_PREFIX, GROUNDING_PREFIX, ENTAILMENT_PREFIX = "caption_decoder.", "grounding_head.", "entailment_head."
POOLED_ANSWER_PREFIX = "pooled_answer_head."
"""Parameter prefixes of the caption decoder, the grounding head, the entailment head and the pooled answer head."""
AUDIO_PREFIXES = (AUDIO_PREFIX, "audio_embeddings.", "match_audio_")
"""Parameter prefixes of everything that sound adds to a model. Inputs without sound do not use these parameters."""


def text_transformer(cfg: FusedConfig) -> TextTransformer:
    """Build the text layers and fused layers of a configuration."""
    return TextTransformer(
        width=cfg.text_width,
        heads=cfg.text_heads,
        text_layers=cfg.text_layers,
        fused_layers=cfg.fused_layers,
        intermediate=cfg.text_intermediate,
        vocabulary=cfg.vocabulary,
        max_positions=cfg.max_positions,
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        visual_reads_text=cfg.visual_reads_text,
    )


class FusedModel(nn.Module, ABC):
    """A video-language model whose steps can be exported one by one: encoders, fusion and heads."""

    backbones: tuple[str, ...]
    """Parameter prefixes of the visual backbones."""
    never_trained: ClassVar[tuple[str, ...]] = ()
    """Parameter prefixes of pretrained parts that no stage trains."""
    after_features: tuple[str, ...] = ()
    """Parameter prefixes of the video encoder that stages with `frozen = "visual"` train."""
    embeds_means: bool = True
    """Whether the embedding can be computed from the means of a video's features over positions."""
    details: tuple[str, ...] = ()
    """Prefixes of `after_features` that do not affect embeddings."""

    def __init__(self, cfg: FusedConfig, video: nn.Module) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoders_frozen = False
        """Keep both encoders in evaluation mode (see `train`), for stages that freeze them."""
        self.visual_frozen = False
        """Keep the video encoder, except its parts `after_features`, in evaluation mode."""
        self.only_trained: str | None = None
        """Name of a part; keep all others in evaluation mode."""
        self.text_frozen = False
        """Keep the text layers in evaluation mode, for stages that do not train them."""
        self.backbones_frozen = False
        """Keep the visual backbones in evaluation mode, for stages that do not train them."""
        self.video = video
        self.text = text_transformer(cfg)
        self.text_pool = nn.Linear(cfg.text_width, cfg.text_width)
        # Starts as the identity, since the masked mean of a pretrained sentence encoder is already meaningful.
        nn.init.eye_(self.text_pool.weight)
        nn.init.zeros_(self.text_pool.bias)
        self.text_project = nn.Linear(cfg.text_width, cfg.vector_width)
        self.video_project = nn.Linear(cfg.visual_width, cfg.vector_width)
        self.hubness = HubnessCorrection(cfg.vector_width, cfg.hub_references) if cfg.hub_references else None
        self.visual_embeddings = self.make_visual_embeddings()
        self.word_head = MaskedWordHead(cfg.text_width, cfg.vocabulary)
        # Presence of an object, then the classes of each attribute. Only used in training.
        classes = sum(cfg.object_classes)
        self.object_head = nn.Linear(cfg.visual_width, 1 + classes) if classes else None
        self.match_head = nn.Linear(cfg.text_width, 1)
        # Matching starts as a threshold on the similarity; the head learns a correction.
        nn.init.zeros_(self.match_head.weight)
        nn.init.zeros_(self.match_head.bias)
        self.match_scale = nn.Parameter(torch.tensor(0.5))
        self.match_threshold = nn.Parameter(torch.tensor(0.5))
        self.answer_head = (
            nn.Sequential(
                nn.Linear(cfg.text_width, cfg.answer_hidden),
                nn.ReLU(),
                nn.Dropout(cfg.dropout),
                nn.Linear(cfg.answer_hidden, cfg.answers),
            )
            if cfg.answers
            else None
        )
        # Created last, so that the other parts get the same random weights as in a model without sound.
        self.audio = AudioEncoder(cfg.audio, cfg.vector_width) if cfg.audio else None
        self.audio_embeddings = None
        if cfg.audio and cfg.audio.fused:
            self.audio_embeddings = AudioEmbeddings(cfg.audio, cfg.text_width, cfg.dropout)
            self.match_audio_scale = nn.Parameter(torch.tensor(0.0))
            self.match_audio_threshold = nn.Parameter(torch.tensor(0.5))
        self.caption_decoder = (
            CaptionDecoder(self.text.bert.config, cfg.caption_layers, cfg.caption_words) if cfg.caption_layers else None
        )
        self.grounding_head = (
            GroundingHead(self.text.bert.config, cfg.grounding_layers) if cfg.grounding_layers else None
        )
        self.entailment_head = (
            EntailmentHead(cfg.text_width, cfg.entailment, cfg.dropout) if cfg.entailment is not None else None
        )
        self.pooled_answer_head = PooledAnswerHead(cfg) if cfg.pooled_answers and cfg.answers else None

    @property
    def device(self) -> torch.device:
        """The device of the parameters, where inputs are expected."""
        return self.match_threshold.device

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all parts that are not frozen.

        Frozen parts stay in evaluation mode: they have no dropout or stochastic depth, and their running statistics
        and the entries of SOHO's dictionary do not change.
        """
        super().train(mode)
        if self.only_trained and mode:
            super().train(False)
            self.get_submodule(self.only_trained).train()
        if self.encoders_frozen:
            bert = self.text.bert
            audio = () if self.audio is None else (self.audio,)
            for part in (self.video, bert.embeddings, *bert.encoder.layer[: self.text_embedding_layers], *audio):
                part.eval()
        if self.text_frozen:
            self.text.eval()
        if self.visual_frozen and mode:
            self.video.eval()
            for prefix in self.after_features:
                self.get_submodule(prefix.rstrip(".")).train()
        if self.backbones_frozen:
            for prefix in self.backbones:
                self.get_submodule(prefix.rstrip(".")).eval()
        return self

    @abstractmethod
    def make_visual_embeddings(self) -> nn.Module:
        """Build the module that embeds visual tokens (B, V, W) for the fused layers, (B, V, D)."""

    def encode_video(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode videos.

        Args:
            streams: (B, C, F, H, W, 3) by name, as in `cfg.streams()`; pixels 0..255 of any dtype.
            times: Indices (F,) of the learned time embeddings, for video encoders that have them; default all.

        Returns:
            The L2-normalised embedding (B, E) and the visual tokens (B, V, W), averaged over clips.
        """
        tokens = self.clip_tokens(streams, times).mean(dim=1)
        return self.video_embedding(tokens), tokens

    def clip_tokens(self, streams: Mapping[str, Tensor], times: Tensor | None = None) -> Tensor:
        """Return the visual tokens of each clip, (B, C, V, W). Arguments as in `encode_video`."""
        b, c = next(iter(streams.values())).shape[:2]
        tokens: Tensor = self.video({name: frames.flatten(0, 1) for name, frames in streams.items()}, times)
        return tokens.reshape(b, c, *tokens.shape[1:])

    def visual_features(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the output of the part of the video encoder that `frozen = "visual"` freezes.

        Args:
            streams: As in `encode_video`.

        Returns:
            Features by name, (B, V, ...), averaged over clips: the input of `tokens_of_features`.
        """
        b, c = next(iter(streams.values())).shape[:2]
        video: Any = self.video
        features = video.features({name: frames.flatten(0, 1) for name, frames in streams.items()})
        return {name: x.reshape(b, c, *x.shape[1:]).mean(dim=1) for name, x in features.items()}

    def tokens_of_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the visual tokens (B, V, W) of the features of `visual_features`."""
        video: Any = self.video
        tokens: Tensor = video.merge(features)
        return tokens

    def embedding_of_features(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the L2-normalised embedding (B, E) of features (B, V, ...).

        With `embeds_means`, the argument has the means of the features over positions, (B, ...).
        """
        if self.embeds_means:
            return self.normalize_video(self.video_project(features["tokens"]))
        return self.video_embedding(self.tokens_of_features(features))

    def video_embedding(self, tokens: Tensor) -> Tensor:
        """Return the L2-normalised embedding (..., E) of visual tokens (..., V, W)."""
        return self.normalize_video(self.video_project(self.pool_tokens(tokens)))

    def normalize_video(self, projected: Tensor) -> Tensor:
        """Return the L2-normalised embedding (..., E) of the projection (..., E) of a video or sound, corrected for
        hubs."""
        return F.normalize(projected, dim=-1) if self.hubness is None else self.hubness.correct_video(projected)

    def pool_tokens(self, tokens: Tensor) -> Tensor:
        """Pool visual tokens (..., V, W) into the input (..., W) of the embedding's projection."""
        return tokens.mean(dim=-2)

    def encode_audio(self, samples_BN: Tensor, lengths_B: Tensor, masked: float = 0.0) -> tuple[Tensor, Tensor]:
        """Encode sounds.

        Args:
            samples_BN: From -1 to 1, at the configured sample rate, at most one window.
            lengths_B: int64, the number of samples before padding.
            masked: Largest fraction of mel bins, and of frames, that are masked at random.

        Returns:
            The L2-normalised embedding (B, E) and the audio tokens (B, A, W), 0 where there is no sound.

        Raises:
            ValueError: The model has no audio encoder.
        """
        if self.audio is None:
            raise ValueError("audio: none in this model's config; an audio encoder was expected")
        tokens = self.audio(samples_BN, lengths_B, masked)
        return self.audio_embedding(tokens), tokens

    def audio_embedding(self, audio_BAW: Tensor) -> Tensor:
        """Return the L2-normalised embedding (B, E) of audio tokens (B, A, W); undefined for rows without sound."""
        assert self.audio is not None
        return self.normalize_video(self.audio.pool(audio_BAW))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the L2-normalised embedding (B, E) and the text states (B, L, D) of ids and mask (B, L)."""
        states = self.text.encode(input_ids, attention_mask)
        return self.text_embedding(states, attention_mask), states

    def text_embedding(self, states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the L2-normalised embedding (B, E) of text states (B, L, D) and their mask (B, L)."""
        return self.embedding_of_text_mean(self.mean_text_state(states_BLD, attention_mask))

    def embedding_of_text_mean(self, mean_BD: Tensor) -> Tensor:
        """Return the L2-normalised embedding (B, E) of mean text states (B, D)."""
        projected = self.text_project(torch.tanh(self.text_pool(mean_BD)))
        return F.normalize(projected, dim=-1) if self.hubness is None else self.hubness.correct_text(projected)

    def mean_text_state(self, states_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the mean state (B, D) of texts.

        In a single-stream model the states (B, L, D) first pass the fused layers, without a video.
        """
        if self.cfg.vector_from_fused:
            states_BLD = self.text.fuse_text_only(states_BLD, attention_mask)
        return masked_mean(states_BLD, attention_mask)

    def prepare_visual(self, visual_PVW: Tensor, audio_PAW: Tensor | None = None) -> VisualCache:
        """Embed the tokens of P videos for the fused layers and their heads, once for many texts.

        Args:
            visual_PVW: Visual tokens; all 0 for a sound without a picture.
            audio_PAW: Audio tokens, 0 where there is no sound; None: the videos have none.
        """
        cache = self.text.prepare_visual(visual_PVW, self.visual_embeddings(visual_PVW))
        if audio_PAW is None or self.audio_embeddings is None:
            return cache
        return self.text.add_audio(cache, audio_PAW, self.audio_embeddings(audio_PAW))

    def fuse(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the fused states (B, L, D) of B = n * P texts, the n texts about a video adjacent."""
        return self.text.fuse(text_BLD, attention_mask, cache)

    def match_logits(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the uncalibrated matching logits (B,) of text states (B, L, D), the texts about a video adjacent.

        The logit is the scaled similarity of the two embeddings plus a correction by the head on the fused [CLS]. With
        few training steps, a head on [CLS] alone ranks much worse than similarity. The published HD-VILA does not use
        its matching head.
        """
        first = self.text.fuse(text_BLD, attention_mask, cache, first_only=True)[:, 0]
        texts = text_BLD.shape[0]
        video = repeated(self.video_embedding(cache.visual), texts)
        text = self.text_embedding(text_BLD, attention_mask)
        similarity = (text * video).sum(dim=-1)
        above = self.match_scale * (similarity - self.match_threshold) / self.cfg.temperature
        if cache.audio is not None:
            similarity = (text * repeated(self.audio_embedding(cache.audio), texts)).sum(dim=-1)
            audio_above = self.match_audio_scale * (similarity - self.match_audio_threshold) / self.cfg.temperature
            sees, hears = (repeated(tokens_present(x).amax(dim=1), texts) for x in (cache.visual, cache.audio))
            above = above * sees + audio_above * hears
        logits: Tensor = self.match_head(first).squeeze(-1) + above
        return logits

    def answer_logits(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the answer logits (B, answers) of question states (B, L, D), the questions about a video adjacent.

        With a pooled answer head they are the log-probabilities of the mixture of all estimates.

        Raises:
            ValueError: The model has no answer vocabulary.
        """
        if self.pooled_answer_head is None:
            return self._fused_answer_logits(text_BLD, attention_mask, cache)
        return self.pooled_answer_head.mix(self.answer_logits_by_head(text_BLD, attention_mask, cache))

    def answer_logits_by_head(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> AnswerLogits:
        """Return the estimates that `answer_logits` mixes. Arguments as in `answer_logits`.

        Raises:
            ValueError: The model has no pooled answer head.
        """
        head = self.get_pooled_answer_head()
        question = self.text_embedding(text_BLD, attention_mask)
        media = self.video_embedding(cache.visual)
        if cache.audio is not None:  # sounds without a picture
            sees = tokens_present(cache.visual).amax(dim=1, keepdim=True)
            media = sees * media + (1 - sees) * self.audio_embedding(cache.audio)
        return AnswerLogits(
            self._fused_answer_logits(text_BLD, attention_mask, cache),
            head(question, cache.visual, cache.audio),
            head.similarity(media, question.shape[0]),
            question,
        )

    def get_pooled_answer_head(self) -> PooledAnswerHead:
        """Return the pooled answer head. Raises ValueError for a model without a pooled answer head."""
        if self.pooled_answer_head is None:
            raise ValueError("pooled_answers: 0 in this model's config; the width of its hidden layers was expected")
        return self.pooled_answer_head

    def _fused_answer_logits(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the logits (B, answers) of the answer head on the fused states. Arguments as in `answer_logits`."""
        if self.answer_head is None:
            raise ValueError("answers: 0 in this model's config; an answer vocabulary was expected")
        first = self.text.fuse(text_BLD, attention_mask, cache, first_only=True)[:, 0]
        logits: Tensor = self.answer_head(first)
        return logits

    def entailment_inputs(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the input of the entailment head: (B, 3D), or (B, 6D) for pairs of pictures.

        Args:
            text_BLD: States of B = n * P texts; the texts about one video, or one pair of pictures, are adjacent.
            cache: P videos; or 2P pictures, the two of a pair adjacent.
        """
        premises = self.get_entailment_head().premises
        if premises == 1:
            return pool_states(self.text.fuse(text_BLD, attention_mask, cache), attention_mask)
        pairs = len(cache.tokens) // premises
        states, mask = (
            torch.stack([x.reshape(pairs, -1, *x.shape[1:])] * premises, dim=1).flatten(0, 2)
            for x in (text_BLD, attention_mask)
        )
        pooled = pool_states(self.text.fuse(states, mask, cache), mask).reshape(
            pairs, premises, -1, 3 * self.cfg.text_width
        )
        return pooled.transpose(1, 2).flatten(2).flatten(0, 1)

    def entailment_logits(self, text_BLD: Tensor, attention_mask: Tensor, cache: VisualCache) -> Tensor:
        """Return the logits (B, classes) of the entailment head. Arguments as in `entailment_inputs`."""
        logits: Tensor = self.get_entailment_head()(self.entailment_inputs(text_BLD, attention_mask, cache))
        return logits

    def get_entailment_head(self) -> EntailmentHead:
        """Return the entailment head. Raises ValueError for a model without an entailment head."""
        if self.entailment_head is None:
            raise ValueError("entailment: null in this model's config; 'video' or 'pair' was expected")
        return self.entailment_head

    def prepare_captions(self, visual_BVW: Tensor, audio_BAW: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the keys and values of videos for the caption decoder, once for all words.

        Arguments as in `prepare_visual`.

        Returns:
            Keys and values (B, Y, H, T, d) of the visual and audio tokens, and their mask (B, T) int64.
        """
        layers = list(self.get_caption_decoder().layers)
        cache = cache_visual(layers, visual_BVW, self.visual_embeddings(visual_BVW))
        if audio_BAW is not None and self.audio_embeddings is not None:
            cache = cache_audio(layers, cache, audio_BAW, self.audio_embeddings(audio_BAW))
        keys, values = (torch.stack(x, dim=1) for x in zip(*cache.layers, strict=True))
        present = cache.present
        if present is None:
            present = torch.ones(cache.tokens.shape[:2], dtype=torch.int64, device=cache.tokens.device)
        return keys, values, present

    def next_word_logits(
        self, input_ids: Tensor, past_keys: Tensor, past_values: Tensor, *prepared: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits (B, vocabulary) after new words, and the keys and values (B, Y, H, P + L, d) of all words.

        Args:
            input_ids: (B, L) int64, the words at positions P to P + L - 1.
            past_keys, past_values: (B, Y, H, P, d), keys and values of the first P words.
            prepared: Keys, values and mask of `prepare_captions`.
        """
        decoder = self.get_caption_decoder()
        states, keys, values = decoder(input_ids, self.text.bert.embeddings, past_keys, past_values, *prepared)
        return decoder.word_logits(states[:, -1], self.text.word_embeddings), keys, values

    def get_caption_decoder(self) -> CaptionDecoder:
        """Return the caption decoder. Raises ValueError for a model without a caption decoder."""
        if self.caption_decoder is None:
            raise ValueError("caption_layers: 0 in this model's config; a decoder of captions was expected")
        return self.caption_decoder

    def object_logits(self, visual_BVW: Tensor) -> Tensor:
        """Return presence and attribute logits (B, V, 1 + classes of all attributes) of visual tokens (B, V, W)."""
        if self.object_head is None:
            raise ValueError(
                "object_classes: empty in this model's config; the classes of each attribute were expected"
            )
        logits: Tensor = self.object_head(visual_BVW)
        return logits

    def encode_for_masking(self, streams: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, V, W) of one clip per video, and the data that selects which to mask together.

        Raises InvalidInput for an architecture without masked visual modelling.
        """
        raise InvalidInput(f"objectives: 'mvm' for {self.cfg.architecture}, which masks no visual tokens")

    def masked_visual_loss(self, tokens: Tensor, parts: Tensor, text_BLD: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the loss of predicting masked visual tokens from unmasked tokens and one text per video.

        tokens, parts: Results of `encode_for_masking`. Raises InvalidInput for an architecture without masked visual
        modelling.
        """
        raise InvalidInput(f"objectives: 'mvm' for {self.cfg.architecture}, which masks no visual tokens")

    def align_class_names(self, names_KE: Tensor, tokens_ND: Tensor, length: float) -> None:
        """Initialize the class weights of the kept pretrained classifier (stage option `align_class_names`).

        Raises InvalidInput for an architecture that keeps no classifier.
        """
        raise InvalidInput(f"align_class_names: {self.cfg.architecture} keeps no classifier")

    def scale_class_names(self, factor: float) -> None:
        """Scale the class weights of the kept pretrained classifier (stage option `scale_class_names`).

        Raises InvalidInput for an architecture that keeps no classifier.
        """
        raise InvalidInput(f"scale_class_names: {self.cfg.architecture} keeps no classifier")

    def align_visual_embeddings(self) -> None:
        """Initialize the projection of visual tokens from the retrieval projections (stage option `align_visual`).

        Raises InvalidInput for an architecture without such a projection.
        """
        raise InvalidInput(f"align_visual: {self.cfg.architecture} has no projection of visual tokens to align")

    def remove_hubness_correction(self) -> None:
        """Remove the hubness correction: embeddings are again the normalised projections."""
        if self.hubness is not None:
            self.match_scale.data.mul_(SIMILARITY_SCALE)
            self.match_threshold.data.div_(SIMILARITY_SCALE)
            self.hubness, self.cfg = None, self.cfg.model_copy(update={"hub_references": 0})

    @torch.no_grad()
    def add_hubness_correction(self, texts_TE: Tensor, videos_NE: Tensor, references: int, seed: int) -> None:
        """Correct embeddings for hubs (stage option `hub_references`).

        The projections are rotated, so that the directions of least variance make room for the correction.

        Args:
            texts_TE: Embeddings of texts, not corrected.
            videos_NE: Embeddings of videos, not corrected.
            references: Number of reference texts, and of reference videos.
            seed: Seed of the clustering.

        Raises:
            InvalidInput: There are fewer texts or videos than references.
        """
        moments = texts_TE.T @ texts_TE / len(texts_TE) + videos_NE.T @ videos_NE / len(videos_NE)
        rotation = torch.linalg.eigh(moments.double()).eigenvectors.flip(1).to(moments.dtype)  # most variance first
        hubness = HubnessCorrection(self.cfg.vector_width, references).to(moments.device)
        hubness.fit(texts_TE @ rotation, videos_NE @ rotation, seed)
        for project in (self.text_project, self.video_project, *([] if self.audio is None else [self.audio.project])):
            project.weight.copy_(rotation.T @ project.weight)
            project.bias.copy_(rotation.T @ project.bias)
        self.hubness, self.cfg = hubness, self.cfg.model_copy(update={"hub_references": references})
        self.match_scale.div_(SIMILARITY_SCALE)
        self.match_threshold.mul_(SIMILARITY_SCALE)

    def step_metrics(self) -> dict[str, float]:
        """Return metrics of the model's state after a step, by name, for the training log."""
        return {}

    def word_logits(self, states: Tensor) -> Tensor:
        """Return the logits (n, vocabulary) of fused states (n, D) at masked positions."""
        logits: Tensor = self.word_head(states, self.text.word_embeddings)
        return logits

    @property
    def text_embedding_layers(self) -> int:
        """Number of Transformer layers that compute a text embedding; in a single-stream model all layers."""
        return self.cfg.text_layers + (self.cfg.fused_layers if self.cfg.vector_from_fused else 0)

    def encoder_parameters(self) -> list[str]:
        """Names of all parameters that embeddings depend on (HD-VILA, section 3.4, stage 1)."""
        layers = tuple(f"text.bert.encoder.layer.{i}." for i in range(self.text_embedding_layers))
        return [name for name, _ in self.named_parameters() if name.startswith(ENCODER_PREFIXES + layers)]
