"""Scenes with sound: soundtracks, synthesis, texts about sight and sound, and files."""

from __future__ import annotations

import io
import json
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import pytest

from training.data.audio import SAMPLE_RATE
from training.data.example import Example
from training.data.packed import open_packed
from training.data.prepare import main as prepare
from training.data.scenes.description import Clause, Description, Mention
from training.data.scenes.generate import main, make_example, make_sound_example
from training.data.scenes.render import encode
from training.data.scenes.sampling import sample_world
from training.data.scenes.sound_captions import (
    Joint,
    is_true,
    joint_captions,
    sound_caption,
    sound_captions,
    sound_phrase,
)
from training.data.scenes.sound_questions import joint_questions, sound_questions
from training.data.scenes.sounds import (
    EFFECTS,
    INSTRUMENTS,
    VOICES,
    Claim,
    Sound,
    Soundtrack,
    effect_events,
    hears,
    moment,
    sample_soundtrack,
)
from training.data.scenes.synthesis import play, synthesize
from training.data.scenes.world import DURATION, Background, Event, Thing, World

GREY = Background("flat", (122, 132, 140), (130, 140, 148), 20, 0)
SQUARE = Thing("square", "red", "large", "plain", None, 60, 80.0, 90.0, (Event("moves", 0.1, 1.2, 60.0, "right"),))
RING = Thing("ring", "blue", "large", "plain", None, 60, 240.0, 90.0, (Event("appears", 2.0, 2.17),))
WORLD = World("ordered", (SQUARE, RING), GREY, (0, 1), 0, 0)
BEEPS = Sound("beep", 0.3, 0.9, 3, "rising")
POP = Sound("pop", 2.0, 2.12, cause=(1, 0))
TRACK = Soundtrack((BEEPS, POP), None, 0)


Clips = list[tuple[World, Soundtrack]]


@pytest.fixture(scope="module")
def clips() -> Clips:
    worlds = [sample_world(0, "train", index) for index in range(250)]
    return [(world, sample_soundtrack(world, Random(index))) for index, world in enumerate(worlds)]


def test_sounds_lie_in_the_clip_one_after_another_in_different_voices(clips: Clips) -> None:
    sampled = [track.sounds for _, track in clips]
    assert {len(sounds) for sounds in sampled} == {0, 1, 2, 3}
    for sounds in sampled:
        assert all(0 < sound.start < sound.end <= DURATION for sound in sounds)
        assert all(first.end < second.start for first, second in pairwise(sounds))
        assert len({sound.voice for sound in sounds}) == len(sounds)
    played = [sound for sounds in sampled for sound in sounds]
    assert {sound.voice for sound in played} == set(VOICES)
    assert {sound.count for sound in played if sound.voice in INSTRUMENTS} == {1, 2, 3, 4}


def test_effects_fit_the_picture_contradict_it_or_are_missing(clips: Clips) -> None:
    kinds = set()
    for world, track in clips:
        caused = {sound.cause: sound for sound in track.sounds}
        for thing, number in effect_events(world):
            event = world.things[thing].events[number]
            sound = caused.get((thing, number))
            if sound:
                assert sound.start == pytest.approx(moment(event), abs=0.001)
            kinds.add("none" if sound is None else "right" if sound.voice == EFFECTS[event.motion] else "wrong")
        if any(s.voice in EFFECTS.values() and s.cause is None for s in track.sounds):
            assert not effect_events(world)
            kinds.add("no event")
    assert kinds == {"right", "wrong", "none", "no event"}


def test_captions_are_true_of_their_scene(clips: Clips) -> None:
    for world, track in clips[:120]:
        if track.sounds:
            rng = Random(1)
            assert all(hears(claims, track) for claims, _, _ in sound_captions(track, rng))
            assert all(is_true(joint, world, track) for joint, _, _ in joint_captions(world, track, rng))


def described(thing: Thing, motion: str, direction: str | None = None) -> Description:
    return Description((Mention(thing.colour, thing.shape),), (Clause(0, motion, direction),))


@pytest.mark.parametrize(
    ("joint", "true"),
    [
        (Joint(described(SQUARE, "moves", "right"), Claim("beep", 3), "during"), True),
        (Joint(described(SQUARE, "moves", "left"), Claim("beep", 3), "during"), False),
        (Joint(described(SQUARE, "moves"), Claim("beep", 3), "before"), False),
        (Joint(described(SQUARE, "moves"), Claim("beep", 2), "during"), False),
        (Joint(described(SQUARE, "moves"), Claim("pop"), "after"), True),
        (Joint(described(RING, "appears"), Claim("beep"), "before"), True),
        (Joint(described(RING, "appears"), Claim("beep"), "before", (Claim("bell"),)), False),
        (Joint(described(RING, "appears"), Claim("pop"), "with"), True),
        (Joint(described(RING, "appears"), Claim("knock"), "with"), False),
        (Joint(described(RING, "appears"), None, "without"), False),
        (Joint(described(RING, "appears"), Claim("pop"), "nothing"), False),
        (Joint(described(SQUARE, "moves"), Claim("pop"), ""), True),
    ],
)
def test_a_sentence_about_both_is_true_of_what_is_seen_of_what_is_heard_and_of_their_order(
    joint: Joint, true: bool
) -> None:
    assert is_true(joint, WORLD, TRACK) is true


def test_an_effect_is_contradicted_by_the_picture_or_by_silence() -> None:
    knock = Soundtrack((Sound("knock", 2.0, 2.12, cause=(1, 0)),), None, 0)
    assert is_true(Joint(described(RING, "appears"), Claim("knock"), "nothing"), WORLD, knock)
    assert is_true(Joint(described(RING, "appears"), None, "without"), WORLD, Soundtrack((BEEPS,), None, 0))


def test_claims_about_sounds_must_be_in_order() -> None:
    assert hears([Claim("beep"), Claim("pop")], TRACK)
    assert not hears([Claim("pop"), Claim("beep")], TRACK)
    assert not hears([Claim("beep", contour="falling")], TRACK)


@pytest.mark.parametrize(
    ("claim", "phrases"),
    [
        (Claim("beep", 1), {"a beep", "a single beep"}),
        (Claim("organ", 1, level="loud"), {"a loud organ note", "a noisy organ note", "a single loud organ note"}),
        (Claim("bell", 3, "rising"), {"three rising bell notes", "three bell notes going up"}),
        (Claim("drum", None, height="low"), {"a low drum beat", "a deep drum beat", "a low beat of a drum"}),
        (Claim("whoosh", None, level="quiet"), {"a quiet whoosh", "a faint whooshing sound"}),
    ],
)
def test_a_sound_is_named_in_different_words(claim: Claim, phrases: set[str]) -> None:
    assert phrases <= {sound_phrase(claim, style) for style in range(400)}


def test_a_change_of_order_keeps_the_words() -> None:
    first, second = Claim("drum", 2, level="quiet"), Claim("bell", 1, level="quiet")
    for style in range(20):
        words = [sorted(sound_caption(claims, style).lower().split()) for claims in ((first, second), (second, first))]
        assert [w.strip(",.") for w in words[0]] == [w.strip(",.") for w in words[1]]


def answers(questions: list[tuple[str, str, str]]) -> dict[str, str]:
    return {question: answer for question, answer, _ in questions}


def test_questions_about_sound_are_answered_by_the_soundtrack() -> None:
    actual: dict[str, str] = {}
    for seed in range(200):
        actual |= answers(sound_questions(TRACK, Random(seed)))
    expected = {
        "how many beeps are heard?": "3",
        "does the pitch of the beep rise, fall or stay the same?": "rises",
        "how many different sounds are heard?": "2",
        "which sound comes first?": "beep",
        "which sound comes last?": "pop",
        "what is heard after the beep?": "pop",
        "which instrument is heard?": "beep",
        "is a pop heard?": "yes",
        "is a drum heard?": "no",
        "is any sound heard?": "yes",
    }
    assert actual.items() >= expected.items()
    silent = answers(sound_questions(Soundtrack((), None, 0), Random(0)))
    assert set(silent.values()) == {"no", "0"}


def test_questions_about_both_are_answered_by_picture_and_soundtrack() -> None:
    actual: dict[str, str] = {}
    for seed in range(200):
        actual |= answers(joint_questions(WORLD, TRACK, Random(seed)))
    expected = {
        "what is heard when the blue ring appears?": "pop",
        "does the ring appear with a sound?": "yes",
        "is the beep heard before or after the blue ring appears?": "before",
        "is the beep heard while the red square moves?": "yes",
        "how many beeps are heard while the red square moves?": "3",
        "how many beeps are heard while the ring appears?": "0",
        "is the pop heard while the square moves?": "no",
        "which shape acts while the beep is heard?": "square",
    }
    assert actual.items() >= expected.items()
    mute = answers(joint_questions(WORLD, Soundtrack((BEEPS,), None, 0), Random(3)))
    assert "nothing" in mute.values()


def decibels(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.square(samples.astype(float) / 2**15).mean()))


@pytest.mark.parametrize("voice", VOICES)
def test_a_voice_is_loud_or_quiet_and_varies_with_the_seed(voice: str) -> None:
    levels = [Sound(voice, 0.5, 0.9, level=level, seed=1) for level in ("quiet", None, "loud")]
    quiet, medium, loud = (np.sqrt(np.square(play(sound)).max()) for sound in levels)
    assert quiet < 0.5 * medium < 0.25 * loud
    again, other = (play(Sound(voice, 0.5, 0.9, seed=seed)) for seed in (1, 2))
    np.testing.assert_array_equal(again, play(levels[1]))
    assert not np.allclose(again, other)


def pitch(samples: np.ndarray) -> float:
    """Frequency of the strongest partial, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * SAMPLE_RATE / len(samples)


def test_notes_are_heard_at_their_times_and_rise_or_fall() -> None:
    for contour, sign in (("rising", 1), ("falling", -1)):
        samples = synthesize(Soundtrack((Sound("beep", 1.0, 2.0, 4, contour, "loud", seed=3),), None, 0))
        assert samples is not None
        assert len(samples) == DURATION * SAMPLE_RATE
        assert not samples[: round(0.99 * SAMPLE_RATE)].any()
        starts = (np.array([1.0, 1.0 + 1 / 3.85, 1.0 + 2 / 3.85, 1.0 + 3 / 3.85]) * SAMPLE_RATE).astype(int)
        notes = [samples[start : start + SAMPLE_RATE // 8] for start in starts]
        assert (np.diff([pitch(note) for note in notes]) * sign > 40).all()
    glide = synthesize(Soundtrack((Sound("flute", 1.0, 1.8, 1, "rising", seed=3),), None, 0))
    assert glide is not None
    assert pitch(glide[26400:28800]) > 1.2 * pitch(glide[16800:19200])


def test_background_noise_is_fainter_than_quiet_sounds_and_silence_has_none() -> None:
    samples = synthesize(Soundtrack((Sound("beep", 1.0, 1.5, 1, None, "quiet", seed=2),), -50.0, 4))
    assert samples is not None
    assert decibels(samples[:8000]) == pytest.approx(-50, abs=2)
    assert decibels(samples[16000:24000]) > -42
    assert synthesize(Soundtrack((), -50.0, 4)) is None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    main(["--sound", "--out", str(root / "scenes"), "--train", "6", "--val", "0", "--test", "0", "--workers", "1"])
    options = ["--source", str(root / "scenes"), "--out", str(root / "packed"), "--splits", "train"]
    assert prepare(["sound_scenes", *options]) == 0
    return root


def test_a_packed_clip_sounds_as_synthesized_at_the_same_time(corpus: Path) -> None:
    packed = open_packed(corpus / "packed" / "sound_scenes" / "train")
    assert packed.audio is not None
    heard = 0
    for index in range(6):
        _, track, _ = make_sound_example(0, "train", index)
        expected, actual = synthesize(track), packed.audio[index]
        if expected is None:
            assert len(actual) == 0
            continue
        assert len(actual) == len(expected)
        assert np.corrcoef(expected, actual)[0, 1] > 0.98
        heard += 1
    assert heard > 2


def test_needs_of_texts_and_the_soundtrack_are_packed(corpus: Path) -> None:
    examples = open_packed(corpus / "packed" / "sound_scenes" / "train").examples
    for example in examples:
        if example.attributes["sound"]["sounds"]:
            assert example.caption_needs[:3] == ("sight", "sound", "both")
            assert {"sight", "sound"} <= {question.needs for question in example.questions}
            assert {example.caption_needs[n.of] for n in example.negatives} == {"sight", "sound", "both"}
        else:
            assert set(example.caption_needs) == {"sight"}
    assert json.loads((corpus / "scenes" / "corpus.json").read_text())["name"] == "sound_scenes"


def test_the_picture_is_that_of_the_scene_without_sound(corpus: Path) -> None:
    world, record = make_example(0, "train", 2)
    example: Example = open_packed(corpus / "packed" / "sound_scenes" / "train").examples[2]
    assert example.captions[0] == record["captions"][0]

    def frames(source: Any) -> np.ndarray:
        with av.open(source, "r") as container:
            return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])

    with_sound = corpus / "scenes" / "train" / "000002.mp4"
    np.testing.assert_array_equal(frames(str(with_sound)), frames(io.BytesIO(encode(world))))


def test_a_folder_of_scenes_without_sound_is_not_continued_with_sound(corpus: Path) -> None:
    with pytest.raises(SystemExit, match="sound"):
        main(["--out", str(corpus / "scenes"), "--train", "1", "--val", "0", "--test", "0"])
