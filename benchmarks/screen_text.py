"""Accuracy and cost of reading text on screen.

    python -m benchmarks.screen_text --clips 300

Renders clips of ten words over moving backgrounds as H.264 files, reads them through the decoder, and compares words
and times with what was drawn; then searches them. Processor seconds are measured on one thread, on those clips and on a
talk: slides with a moving speaker in a corner.
"""

# ruff: noqa: RUF001

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from benchmarks import run_main
from index.recognitions import store_screen_text
from tests.index.sample_data import new_collection, new_video
from tests.index.searches import MODEL, search_hits
from vitascope.cli.output import plain_table, print_text_or_json
from vitascope.errors import InvalidInput
from vitascope.screen_text.interface import DEFAULT_INTERVAL, TextReader, TextSpan
from vitascope.screen_text.rapid_ocr import DETECTION_SIDE
from vitascope.screen_text.reading import DEFAULT_MODEL, open_text_reader, read_screen_text

MIN_RECALL, MIN_PRECISION, MIN_HIT_RATE, MIN_SPEED = 0.95, 0.97, 0.95, 5.0
"""Recall at ``READABLE_SIZE`` pixels and up; speed: seconds of a talk per processor second of two cores."""
READABLE_SIZE = 24
WORDS_PER_CLIP = 10
SIZES = (18, 20, 24, 28, 32, 40, 48)
FRAME_SIZES = ((640, 360), (1280, 720), (1280, 720), (1920, 1080))
CONTRASTS = (3.0, 4.5, 7.0, 12.0)
SECONDS, FRAMES_PER_SECOND = 8, 8
FONT_FOLDERS = (Path("/usr/share/fonts/truetype"), Path("/usr/share/fonts/opentype"))
FONTS = {
    "Latin": ("dejavu/DejaVuSans.ttf", "dejavu/DejaVuSans-Bold.ttf", "dejavu/DejaVuSerif.ttf"),
    "Chinese": ("noto/NotoSansCJK-Regular.ttc:2", "noto/NotoSansCJK-Bold.ttc:2", "noto/NotoSerifCJK-Regular.ttc:2"),
    "Japanese": ("noto/NotoSansCJK-Regular.ttc:0", "noto/NotoSansCJK-Bold.ttc:0", "noto/NotoSerifCJK-Regular.ttc:0"),
}
"""By script; behind the colon the number of the face in a collection of fonts."""
WORDS = {
    "Latin": """
        Straße Übergang Größe Bücher möglich später Führung Äpfel Österreich schön Prüfung Gebäude
        Verlängerung Wörter Käse Brücke Fußgänger Menü Überblick Lösung élève château hôtel garçon français
        forêt où déjà naïf Noël cœur théâtre première élection réseau été île août français fenêtre problème
        hiver señor mañana corazón español niño teléfono jardín canción árbol días después también lección
        avión São coração informação ações português amanhã manhã três câmara łódź źródło książka święto
        dziękuję żółty środa miejsce późno řeka město příliš žluťoučký kůň děti škola tři otázka Ångström
        söder kött räksmörgås smørbrød fjord blåbær år Malmö Tromsø çocuk güneş şehir ışık öğretmen
        üniversite değil București învățare țară șapte până școală hrvatski čovjek život kuća šuma őrült
        fűszer gyönyörű kérdés město výzkum analysis network learning gradient baseline results dataset
        method figure overview summary chapter question deadline budget quarter revenue market customer
        engine pressure velocity theorem protein membrane harvest village mountain bridge window kitchen
        garden
    """,
    "Chinese": """
        学习 模型 数据 结果 方法 网络 图像 视频 搜索 文字 语音 系统 时间 空间 研究 问题 分析 实验 总结 介绍
        北京 上海 天气 新闻 经济 市场 公司 产品 设计 技术 历史 文化 音乐 电影 学校 老师 学生 图书馆 计算机
        人工智能 机器 训练 测试 优化 函数 变量 温度 压力 速度 能量 蛋白质 细胞 医院 健康 运动 足球 火车站
        飞机场 地铁 公园 花园 山水 河流 海洋 森林 城市 乡村 春天 夏季 秋天 冬季 早晨 晚上 星期三 生日 旅行
        酒店 餐厅 咖啡 牛奶 苹果 香蕉 米饭 面条 开始 结束 继续 注意 警告 欢迎 谢谢
    """,
    "Japanese": """
        学習 モデル データ 結果 方法 ネットワーク 画像 動画 検索 文字 音声 システム 時間 空間 研究 問題 分析
        実験 まとめ はじめに 東京 大阪 天気 ニュース 経済 市場 会社 製品 デザイン 技術 歴史 文化 音楽 映画
        学校 先生 学生 図書館 コンピュータ 人工知能 機械 訓練 テスト 最適化 関数 変数 温度 圧力 速度
        エネルギー タンパク質 細胞 病院 健康 運動 サッカー 駅前 空港 地下鉄 公園 ひまわり 山道 河川 海岸
        森林 都市 田舎 さくら 夏休み 紅葉 雪まつり おはよう 夕方 水曜日 誕生日 旅行 ホテル レストラン
        コーヒー 牛乳 りんご バナナ ごはん うどん 開始 終了 続く ありがとう ようこそ
    """,
}
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A line of text as it was drawn, and the time that it is shown (s)."""

    text: str
    start: float
    end: float

    @property
    def words(self) -> list[str]:
        return self.text.split(" ")


@dataclass(frozen=True, slots=True)
class DrawnClip:
    """A rendered clip; ``size``: of the letters, in pixels."""

    path: Path
    script: str
    size: int
    frame_size: tuple[int, int]
    contrast: float
    lines: tuple[DrawnLine, ...]


@dataclass(slots=True)
class WordCounts:
    """Words drawn and read; of Chinese and Japanese, ``read`` and ``correct`` count characters."""

    drawn: int = 0
    recognized: int = 0
    read: int = 0
    correct: int = 0

    @property
    def recall(self) -> float:
        return self.recognized / max(1, self.drawn)

    @property
    def precision(self) -> float:
        return self.correct / max(1, self.read)


def render_clip(path: Path, seed: int) -> DrawnClip:
    """Render a clip whose script, sizes, contrast, words and times follow from ``seed``."""
    dice = random.Random(seed)
    script = tuple(WORDS)[seed % len(WORDS)]
    size = SIZES[seed // len(WORDS) % len(SIZES)]
    width, height = dice.choice(FRAME_SIZES)
    contrast = dice.choice(CONTRASTS)
    scene, color = _scene_and_color(dice, width, height, contrast)
    font = _font(dice.choice(FONTS[script]), size)
    texts = _wrap(dice.sample(sorted(set(WORDS[script].split())), WORDS_PER_CLIP), font, width)
    rows = sorted(dice.sample(range(int(height / (1.6 * size))), len(texts)))
    overlays, lines = [], []
    for text, row in zip(texts, rows, strict=True):
        start = dice.randrange(0, 3 * FRAMES_PER_SECOND)
        end = dice.randrange(start + 3 * FRAMES_PER_SECOND, SECONDS * FRAMES_PER_SECOND + 1)
        left = dice.randrange(4, int(width - font.getlength(text)) - 4)
        overlays.append((_text_mask(text, font, (width, height), (left, round(row * 1.6 * size))), start, end))
        lines.append(DrawnLine(text, start / FRAMES_PER_SECOND, end / FRAMES_PER_SECOND))
    step = (dice.uniform(1, 4), dice.uniform(0.5, 2))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "libx264", rate=FRAMES_PER_SECOND, options={"preset": "ultrafast", "crf": dice.choice(("20", "25", "30"))}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(SECONDS * FRAMES_PER_SECOND):
            left, top = int(number * step[0]), int(number * step[1])
            pixels = scene[top : top + height, left : left + width].copy()
            for mask, start, end in overlays:
                if start <= number < end:
                    _draw(pixels, mask, color)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return DrawnClip(path, script, size, (width, height), contrast, tuple(lines))


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    file, _, face = name.partition(":")
    for folder in FONT_FOLDERS:
        if (folder / file).is_file():
            return ImageFont.truetype(str(folder / file), size, index=int(face or 0))
    raise InvalidInput(f"{file}: no such font; Debian's fonts-dejavu-core and fonts-noto-cjk were expected")


def _wrap(words: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Join words to lines of at most three that fit the width of the frame."""
    lines: list[str] = []
    for word in words:
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and joined.count(" ") < 3 and font.getlength(joined) < width - 20:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


Mask = tuple[NDArray[np.uint16], int, int]
"""Coverage (H, W, 1), 0 to 255, and the position of its left upper corner."""


def _text_mask(text: str, font: ImageFont.FreeTypeFont, frame: tuple[int, int], position: tuple[int, int]) -> Mask:
    canvas = Image.new("L", frame)
    ImageDraw.Draw(canvas).text(position, text, font=font, fill=255)
    left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
    return np.asarray(canvas, np.uint16)[top:bottom, left:right, None], left, top


def _draw(pixels: NDArray[np.uint8], mask: Mask, color: NDArray[np.uint8]) -> None:
    coverage, left, top = mask
    region = pixels[top : top + coverage.shape[0], left : left + coverage.shape[1]]
    region[:] = (region * (255 - coverage) + color.astype(np.uint16) * coverage + 127) // 255


def _scene_and_color(
    dice: random.Random, width: int, height: int, contrast: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a textured picture to pan over, and a colour of text with ``contrast`` to its nearest pixel."""
    noise = np.random.default_rng(dice.randrange(2**32))
    size = (width + 400, height + 200)
    coarse, fine = (_smooth_noise(noise, size, cell) for cell in (90, 6))
    texture = 0.75 * coarse + 0.25 * fine
    is_dark = dice.random() < 0.5
    limit = (
        {3.0: 150, 4.5: 115, 7.0: 85, 12.0: 50}[contrast]
        if is_dark
        else {3.0: 140, 4.5: 150, 7.0: 165, 12.0: 205}[contrast]
    )
    low, high = (0, limit) if is_dark else (limit, 255)
    scene = (low + texture * (high - low)).astype(np.uint8)
    luminance = _luminance(scene)
    nearest = float(luminance.max() if is_dark else luminance.min())
    hue = noise.uniform(0, 255, 3)
    for share in np.linspace(0, 1, 40):
        color = (hue + share * ((255.0 if is_dark else 0.0) - hue)).astype(np.uint8)
        text = float(_luminance(color))
        ratio = (text + 0.05) / (nearest + 0.05) if is_dark else (nearest + 0.05) / (text + 0.05)
        if ratio >= contrast:
            break
    return scene, color


def _smooth_noise(noise: np.random.Generator, size: tuple[int, int], cell: int) -> Floats:
    small = noise.integers(0, 256, (size[1] // cell + 2, size[0] // cell + 2, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    return (picture / 255).astype(np.float32)


def _luminance(rgb: NDArray[np.uint8]) -> Floats:
    """Relative luminance of sRGB colours (..., 3), 0 to 1, as in the Web Content Accessibility Guidelines."""
    share = rgb.astype(np.float32) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance: Floats = (linear @ np.array([0.2126, 0.7152, 0.0722])).astype(np.float32)
    return luminance


def write_talk(path: Path, seconds: int) -> None:
    """Write a talk of 1280x720 at 25 frames a second: a slide every 40 s, a moving speaker in a corner."""
    dice = random.Random(7)
    words = WORDS["Latin"].split()
    noise = np.random.default_rng(7)
    speaker = (_smooth_noise(noise, (700, 500), 25) * 255).astype(np.uint8)
    title, body = _font("dejavu/DejaVuSans-Bold.ttf", 44), _font("dejavu/DejaVuSans.ttf", 28)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        slide: NDArray[np.uint8] = np.zeros((720, 1280, 3), np.uint8)
        for number in range(seconds * 25):
            if number % 1000 == 0:
                picture = Image.new("RGB", (1280, 720), "white")
                draw = ImageDraw.Draw(picture)
                draw.text((60, 40), " ".join(dice.sample(words, 4)), font=title, fill=(20, 40, 90))
                for row in range(10):
                    text = f"• {' '.join(dice.sample(words, 6))}"
                    draw.text((80, 130 + 55 * row), text, font=body, fill=(40, 40, 40))
                slide = np.array(picture, np.uint8)
            left, top = int(150 + 140 * np.sin(number / 40)), int(100 + 90 * np.sin(number / 55))
            slide[500:700, 1000:1260] = speaker[top : top + 200, left : left + 260]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(slide, format="rgb24")))
        container.mux(stream.encode())


def count_words(clip: DrawnClip, spans: Sequence[TextSpan], counts: WordCounts) -> None:
    """Compare the spans that were read with the lines that were drawn."""
    is_spaced = clip.script == "Latin"
    for line in clip.lines:
        texts = [_normal(span.text, is_spaced) for span in _overlapping(spans, line)]
        counts.drawn += len(line.words)
        for word in (_normal(word, is_spaced) for word in line.words):
            counts.recognized += any(word in (text.split() if is_spaced else text) for text in texts)
    for span in spans:
        shown = {_normal(w, is_spaced) for line in clip.lines for w in line.words if _overlapping([span], line)}
        text = _normal(span.text, is_spaced)
        if is_spaced:
            counts.read += len(text.split())
            counts.correct += sum(word in shown for word in text.split())
        else:
            counts.read += len(text)
            counts.correct += sum(_covered(text, shown))


def _covered(text: str, words: set[str]) -> Iterator[bool]:
    """Yield for each character whether it is part of one of ``words``."""
    covered = [False] * len(text)
    for word in words:
        start = text.find(word)
        while start >= 0:
            covered[start : start + len(word)] = [True] * len(word)
            start = text.find(word, start + 1)
    return iter(covered)


def _overlapping(spans: Sequence[TextSpan], line: DrawnLine) -> list[TextSpan]:
    return [span for span in spans if span.start < line.end and span.end > line.start]


def _normal(text: str, is_spaced: bool) -> str:
    words = unicodedata.normalize("NFC", text).casefold().split()
    return " ".join(word.strip(".,;:!?'’`\"·•-") for word in words) if is_spaced else "".join(words)


def time_errors(clip: DrawnClip, spans: Sequence[TextSpan]) -> list[float]:
    """Return the errors (s) of the start and end of each line that was read, compared with the drawn line."""
    is_spaced = clip.script == "Latin"
    errors = []
    for line in clip.lines:
        words = [_normal(word, is_spaced) for word in line.words]
        own = [
            span
            for span in _overlapping(spans, line)
            if 2 * sum(word in _normal(span.text, is_spaced) for word in words) >= len(words)
        ]
        if own:
            errors.append(abs(min(span.start for span in own) - line.start))
            errors.append(abs(max(span.end for span in own) - line.end))
    return errors


def measure_clips(reader: TextReader, folder: Path, count: int, interval: float) -> dict[str, Any]:
    """Render and read ``count`` clips."""
    groups: dict[tuple[str, Any], WordCounts] = defaultdict(WordCounts)
    errors: list[float] = []
    spans_by_line, processor = [], 0.0
    results: list[tuple[DrawnClip, list[TextSpan]]] = []
    for seed in range(count):
        clip = render_clip(folder / f"{seed:04}.mp4", seed)
        started_at = time.process_time()
        spans = read_screen_text(reader, clip.path, interval=interval)
        processor += time.process_time() - started_at
        results.append((clip, spans))
        errors += time_errors(clip, spans)
        spans_by_line.append(len(spans) / len(clip.lines))
        readable = "readable" if clip.size >= READABLE_SIZE else "small"
        width = clip.frame_size[0]
        keys = [("script", clip.script), ("size", clip.size), ("width", width), ("contrast", clip.contrast)]
        for key in (*keys, ("all", readable), ("all", "all"), (f"{readable} by script", clip.script)):
            count_words(clip, spans, groups[key])
    return {
        "groups": {
            f"{kind}: {name}": {"words": counts.drawn, "recall": counts.recall, "precision": counts.precision}
            for (kind, name), counts in sorted(groups.items(), key=str)
        },
        "time_error": {"median": statistics.median(errors), "max": max(errors)},
        "late": sum(error > interval + 1e-6 for error in errors) / len(errors),
        "spans_per_line": statistics.mean(spans_by_line),
        "processor_seconds_per_sample": processor / (count * SECONDS / interval),
        "results": results,
    }


def measure_search(results: Sequence[tuple[DrawnClip, list[TextSpan]]], folder: Path, queries: int) -> dict[str, Any]:
    """Store the recognised texts in a collection, and search by two words of a line that only one clip shows."""
    collection = new_collection(folder)
    for number, (_, spans) in enumerate(results, 1):
        video, clips = new_video(number)
        shown = replace(clips[0], start=0.0, end=float(SECONDS))
        added = collection.add_video(replace(video, duration=float(SECONDS), title="clip"), [shown])
        store_screen_text(collection, added.id, spans, "benchmark")
    vocabularies = [{word for line in clip.lines for word in line.words} for clip, _ in results]
    candidates = [
        (number, f"{first} {second}")
        for number, (clip, _) in enumerate(results, 1)
        for line in clip.lines
        for first, second in itertools.pairwise(line.words)
        if sum({first, second} <= vocabulary for vocabulary in vocabularies) == 1
    ]
    chosen = random.Random(0).sample(candidates, min(queries, len(candidates)))
    hits = 0
    for number, text in chosen:
        best = search_hits(collection, MODEL, text, signals={"screen_text": 1.0}, limit=1)
        hits += bool(best) and best[0].hit.video_id == number
    return {"queries": len(chosen), "hit_at_1": hits / max(1, len(chosen))}


def measure_talk(reader: TextReader, folder: Path, seconds: int, interval: float) -> dict[str, Any]:
    """Read a talk; ``speed``: seconds of video per second, if two cores are fully used."""
    path = folder / "talk.mp4"
    write_talk(path, seconds)
    started_at = time.process_time()
    spans = read_screen_text(reader, path, interval=interval)
    processor = (time.process_time() - started_at) / seconds
    return {"lines": len(spans), "processor_seconds_per_second": processor, "speed": 2 / processor}


def show(result: dict[str, Any], console: Console) -> None:
    table = plain_table("", ">words", ">recall", ">precision")
    for name, group in result["groups"].items():
        table.add_row(name, str(group["words"]), f"{group['recall']:.3f}", f"{group['precision']:.3f}")
    console.print(table)
    error, search, talk = result["time_error"], result["search"], result["talk"]
    readable = result["groups"]["all: readable"]
    rows = [
        (f"recall from {READABLE_SIZE} px", readable["recall"], MIN_RECALL),
        (f"precision from {READABLE_SIZE} px", readable["precision"], MIN_PRECISION),
        (f"hit@1 of {search['queries']} queries", search["hit_at_1"], MIN_HIT_RATE),
        ("speed of a talk on two cores", talk["speed"], MIN_SPEED),
    ]
    for name, value, minimum in rows:
        verdict = "reached" if value >= minimum else "MISSED"
        console.print(f"{name}: {value:.3f}; at least {minimum:g}: {verdict}")
    console.print(
        f"time error: median {error['median']:.2f} s, largest {error['max']:.2f} s, {result['late']:.1%} above the "
        f"interval; {result['spans_per_line']:.2f} spans for a line; "
        f"{result['processor_seconds_per_sample']:.2f} processor seconds for a frame of the clips, "
        f"{talk['processor_seconds_per_second']:.2f} for a second of the talk"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="as in `vitascope read-text`")
    parser.add_argument("--clips", type=int, default=42, metavar="N")
    parser.add_argument("--queries", type=int, default=300, metavar="N")
    parser.add_argument("--talk", type=int, default=80, metavar="SECONDS", help="length of the talk")
    parser.add_argument("--interval", type=float, default=DEFAULT_INTERVAL, metavar="SECONDS")
    parser.add_argument("--detection-side", type=int, default=DETECTION_SIDE, metavar="PIXELS")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.clips < 2 or args.queries < 1 or args.talk < 1:
        parser.error("--clips: at least 2, --queries and --talk: at least 1 were expected")
    reader = open_text_reader(args.model, threads=1, detection_side=args.detection_side)
    with tempfile.TemporaryDirectory() as folder:
        result = measure_clips(reader, Path(folder), args.clips, args.interval)
        result["search"] = measure_search(result.pop("results"), Path(folder) / "library", args.queries)
        result["talk"] = measure_talk(reader, Path(folder), args.talk, args.interval)
    print_text_or_json(result, show, as_json=args.json)


if __name__ == "__main__":
    run_main(main)
