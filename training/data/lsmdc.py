"""LSMDC 2016, the Large Scale Movie Description Challenge: 118,000 clips of movies with sentences of audio description.

Rohrbach et al.: Movie description, IJCV 2017.

FOLDER/ (files also in task1/ or annotations/)
    LSMDC16_annos_training.csv, LSMDC16_annos_val.csv, LSMDC16_challenge_1000_publictect.csv (1,000 pairs, the test
    split), tab-separated, without header or quotes:
        CLIP START_ALIGNED END_ALIGNED START_EXTRACTED END_EXTRACTED SENTENCE
    avi/ and avi-m-vad-aligned/: MOVIE/CLIP.avi, where CLIP is MOVIE_START-END

Clips are cut to their sentences by the authors, and used whole. A clip may have several sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from training.data.corpus import CorpusError, check_split, first_file, media_path, numbered_lines, present_folders
from training.data.example import Example
from training.data.packed import Media, Origin

ORIGIN = Origin(
    source="LSMDC 2016 (Rohrbach et al., IJCV 2017)",
    licence="research, by agreement with its authors; the movies belong to their owners",
    split_rule="official train and validation; the 1,000 public pairs of the challenge test",
)
ANNOTATIONS = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
ANNOTATION_FOLDERS = (".", "task1", "annotations")
VIDEO_FOLDERS = ("avi", "avi-m-vad-aligned", "videos")
COLUMNS = ("clip", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")


def lsmdc(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every clip of a split with its sentences. Raises CorpusError naming file, line and field."""
    check_split(split)
    path = first_file(folder, ANNOTATION_FOLDERS, (ANNOTATIONS[split],))
    if path is None:
        raise CorpusError(f"{folder}: no {ANNOTATIONS[split]} in any of {ANNOTATION_FOLDERS}; it was expected")
    sentences: dict[str, list[str]] = defaultdict(list)
    for number, line in numbered_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != len(COLUMNS):
            raise CorpusError(f"{path}:{number}: {len(fields)} fields; {', '.join(COLUMNS)}, with tabs, were expected")
        clip, *_, sentence = fields
        if "_" not in clip or "/" in clip:
            raise CorpusError(f"{path}:{number}: clip: {clip[:60]!r}; MOVIE_START-END was expected")
        if not sentence:
            raise CorpusError(f"{path}:{number}: sentence: ''; a sentence was expected")
        sentences[clip].append(sentence)
    folders = present_folders(folder, VIDEO_FOLDERS, "videos")
    for clip, captions in sentences.items():
        movie = clip.rpartition("_")[0]
        yield Example(clip, tuple(captions)), media_path(folders, f"{movie}/{clip}", (".avi", ".mp4"))
