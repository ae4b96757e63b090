"""The language of the project: phrases that no text may contain, and names that no code may use (CONTRIBUTING.md).

The patterns are narrow: they hold particular phrases, not the English language. A text that passes can still be bad.
"""

import ast
import re
from bisect import bisect_right

import pytest

from tests.architecture.code import ROOT, parse, product_files, tracked_files

# fmt: off
# ruff: noqa: E501
BANNED = [  # (regular expression, write instead)  # code / docs / tests today
    (r"\b(?:rows?|bytes?|files?|seconds?|ms|images?|captions?|regions?|numbers?|shards?|lines?|epochs?|steps?|batch(?:es)?|bars?|vectors?|items?|entr(?:y|ies)|CRC|descriptors?|pictures?|logits?|anchors?|tables?|process(?:es)?) an? (?:image|row|item|caption|shard|query|batch|step|list|line|epoch|second|token|vector|side|cell|worker|process|class|element|picture|split|record|region|run|collection|day|load|number|GPU|stage|modality|point|centroid|proposal)\b", "`rows per image`, `ms per query`"),
    (r"\bset[ _-]aside\b", "invalid, skipped as invalid"),
    (r"\b(?:direct|fast|other|same|old|between) roads?\b", "shortcut, fast path, path"),
    (r"\bto be had\b|\bat hand\b|\bfor want of\b", "available, not available; because ... is missing"),
    (r"\b(?:is|are|be|been|was|were|not) told\b|\btold (?:by|of|to|apart|at)\b", "receives, is passed, is known; distinguished, checked"),
    (r"\btells? (?:of|apart|which|nothing)\b", "distinguishes, reports"),
    (r"\blets? go of\b", "release, delete"),
    (r"\bstands? (?:beside|behind|here|twice|once|under|in (?:the|it|docs|LOG|a)\b)", "is in, follows, occurs twice"),
    (r"\b(?:lies|lie|lying) (?:in|below|beside|elsewhere|outside|under|there)\b", "is in, is located"),
    (r"\b(?:goes|go|went|going) on (?:with|where|from|as|there|bit|again|beside|to its)\b", "resumes, continues"),
    (r"\banew\b|\b(?:begun|begins?|began|made|makes?) again\b", "again, restart; rebuild, recompute"),
    (r"(?<!there )\b(?:is|are) no (?:id|template|tensor|text|HDF5|folder|file|version|tag|place|task|part|parameters?|detection|class|plain|data set|features?|whole|scalar|checkpoint|query|vectors?|array|child|children|matter|error|gain|negative|anchors?|bottom-up|Faster)\b", "is not a ..."),
    (r"\bbut for\b|\bfor ever\b", "except; forever"),
    (r"\b(?:in|into|of|take|by|over|for|so|best|every|has|no|costs|with) so many\b", "`n` with its name: `num_processes` processes"),
    (r"\b(?:taken|takes?|took) up\b", "resumed"),
    (r"\bwhole or absent\b|\bwhole at every moment\b|\bwhole of it\b", "complete or absent; always consistent; all of it"),
    (r"\bwhole vectors?\b", "uncompressed vectors"),
    (r"\bthe house\b|\bworkshops?\b", "package layout, packages"),
    (r"\bwith(?:out)? news\b|\bby heart\b", "with / without changes; memorize, overfit"),
    (r"\bthe way out\b|\bnext move\b|\bwatcher\b|\bdiary\b|\bspared\b", "fix, next step; user; event log; kept"),
    (r"\bdead (?:rows?|keys?)\b|\bthe dead\b|\bliving rows?\b|\brows? dead\b", "deleted rows, live rows"),
    (r"\bpatiently\b|\bundisturbed\b|\bcarried[ _]out\b|\bdisturbs?\b", "with retries, without waiting, run"),
    (r"\bof (?:before|then)\b", "previous, earlier"),
    (r"\bdata sets?\b", "dataset"),
    (r"\b(?:normalis|tokenis|quantis|optimis|recognis|memoris|summaris)(?:e|es|ed|er|ers|ing|ation)\b", "-ize (American spelling)"),
    (r"\b(?:colour|centre|grey)(?:s|d|ed)?\b", "color, center, gray"),
    (r"\b(?:set|file|split|mean|BGR|length|TERN|manifest|authors|shards|antialiasing) less\b|, less (?:the|what|two|their)\b", "without, minus"),
    (r"\b(?:this|in the) very\b", "this, exactly this"),
    (r"\b(?:is|are|was|were) there already\b|\bthere already\b", "already exists"),
    (r"\bmend(?:s|ed|ing)?\b|\bpassed over\b", "fix, repair; ignored"),
    (r"\bwr(?:ite|ites|itten|ote) over\b|\bwrit(?:e|es|ten|ing) beside\b", "overwrite; write to a temporary file, then rename"),
    (r"(?-i:\b(?:it|that) is none\b)", "is not one"),
    (r"\bnobody (?:reads|needs|had|names|asks)\b", "unused, unreferenced; passive voice"),
    (r"\b(?:split|set|it|one|first|where it) has not\b(?! been| yet| finished| ended| run)", "does not have"),
    (r"\b(?:or|is) foreign\b|\bif need be\b|\bunder what is given\b", "of another index; if needed; the explicit settings"),
    (r"\bfaults? (?:of the machine|mended)\b|\bmachine is at fault\b", "transient I/O error"),
    (r"\bheld against\b|\bthe least (?:of|cosine)\b", "compared with; minimum"),
    (r"\b(?:pickles|files|features|numpy files|forks|writers|formats?) of others\b", "third-party ..."),
    (r"\bsays? of (?:itself|it|them|each|all)\b", "contains, its header"),
    (r"\bof like length\b|\blike shapes\b|\bwithout a word\b|\bin silence\b", "of similar length, of equal shape; silently"),
    (r"\bc(?:ame|omes?) late\b|\bwon instead\b", "ranked below k; ranked higher"),
]
BANNED_IDENTIFIERS = {  # definitions, arguments, assigned names and attributes in the six packages; count today
    "each", "told", "given", "place", "spread", "middle", "asked", "wanted", "aside", "filling", "usable",
    "mended", "undisturbed", "patiently", "spared", "deed", "deeds", "owner", "told_ids", "seen_ids",
    "both_ways", "one_way", "sound", "rehearse", "settle",
}
# fmt: on
EXCLUDED = (
    "tests/architecture/test_language.py",
    "data/demo/words.py",  # words of the drawn captions
    "data/demo/captions.py",
)


def join_lines(text: str) -> tuple[str, list[int]]:
    """Join the lines of a text, so that a phrase broken over two lines is found.

    Returns:
        The text, in which a newline, indentation and a leading `# ` are one space, and the offset at which each line begins.
    """
    parts, starts, length = [], [], 0
    for line in text.splitlines():
        part = re.sub(r"^[ \t]*(?:# )?", "", line) + " "
        starts.append(length)
        parts.append(part)
        length += len(part)
    return "".join(parts), starts


def find_banned(file: str, text: str) -> list[str]:
    """Find the banned phrases of a file, each as `file:line: phrase; write instead`."""
    if file.startswith("docs/decisions/"):
        text = re.sub(r"`[^`\n]+`", "", text)  # names of their time are quoted there
    joined, starts = join_lines(text)
    return [
        f"{file}:{bisect_right(starts, match.start())}: {match[0]!r}; write: {instead}"
        for pattern, instead in BANNED
        for match in re.finditer(pattern, joined, re.IGNORECASE)
    ]


def test_no_text_contains_a_banned_phrase():
    files = tracked_files("*.py", "*.md", "*.toml", "*.yaml", "*.html", "Makefile", "*/Makefile")
    found = [
        problem
        for file in files
        if file not in EXCLUDED
        for problem in find_banned(file, (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_no_definition_uses_a_banned_name():
    found = []
    for file in product_files():
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = node.name
            elif isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.attr
            else:
                continue
            if name == "place" and file.startswith("data/demo/"):
                continue  # a scene takes place somewhere: the word of Places365
            if name in BANNED_IDENTIFIERS:
                found.append(f"{file}:{node.lineno}: {name}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("It takes 3 seconds an image.", 1),
        ("# what is read\n    # goes on\n    # with the next", 2),
        ("Nothing here.\nThe data\n    sets of others", 2),
        ("NORMALISE", 1),
    ],
)
def test_banned_phrases_are_found_over_line_breaks(text, line):
    found = find_banned("x.py", text)
    assert [problem.split(":")[1] for problem in found] == [str(line)]


def test_quotations_in_decisions_are_exempt():
    assert not find_banned("docs/decisions/001-x.md", "the setting `data set` of that time")
    assert find_banned("docs/decisions/001-x.md", "the data set of that time")
