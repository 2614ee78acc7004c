"""`vitascope/client/_sync` is what the generator makes of `_async`.

``python -m tests.vitascope.test_client_generated`` writes it. The generator replaces words: it does no more than
removing `async` and `await` from a copy.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "vitascope" / "client"
SOURCE, TARGET = CLIENT / "_async", CLIENT / "_sync"
UPDATE = "python -m tests.vitascope.test_client_generated"
HEADER = f"# Generated from vitascope/client/_async: change that, then run {UPDATE}\n"

RULES = (
    (r"\b(async|await) ", ""),
    (r"\bAwaitable\[([^\[\]]*)\]", r"\1"),
    (r"\bAsync(ByteStream)\b", r"Sync\1"),
    (r"\bAsync(BaseTransport|Client|Iterator)\b", r"\1"),
    (r"\bAsyncGenerator\[(.*), None\]", r"Generator[\1, None, None]"),
    (r"\bAsyncGenerator\b", "Generator"),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (r"\ba(close|closing|read|iter_lines|iter_bytes)\b", r"\1"),
    (r"\banext\b", "next"),
    (r"\b(\w+)_async\b", r"\1"),
    (r"\b_async\b", "_sync"),
)


def generate() -> dict[str, str]:
    """Return the source of the blocking client's modules by name."""
    modules = {}
    for module in SOURCE.glob("*.py"):
        text = module.read_text("utf-8")
        for pattern, replacement in RULES:
            text = re.sub(pattern, replacement, text)
        modules[module.name] = text and HEADER + text
    return modules


def write(folder: Path) -> None:
    """Write the modules to ``folder``, without unused imports and needless line breaks."""
    for name, text in generate().items():
        (folder / name).write_text(text, "utf-8")
    settings = ("--quiet", "--config", str(CLIENT.parents[1] / "pyproject.toml"), str(folder))
    for command in (("check", "--fix", "--select=F401,I,UP028", "--unsafe-fixes"), ("format",)):
        subprocess.run([sys.executable, "-m", "ruff", *command, *settings], check=True)


def test_the_blocking_client_is_generated_from_the_asynchronous_one(tmp_path: Path) -> None:
    write(tmp_path)
    made = {module.name: module.read_text("utf-8") for module in tmp_path.glob("*.py")}
    assert made == {module.name: module.read_text("utf-8") for module in TARGET.glob("*.py")}, f"run {UPDATE}"


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for old in TARGET.glob("*.py"):
        old.unlink()
    write(TARGET)
    print(f"written: {TARGET}")
