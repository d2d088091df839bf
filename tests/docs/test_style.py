"""The prose of the project is plain English, as far as patterns can tell.

Each pattern stands for a rule of CONTRIBUTING.md: name the actor, say what it does, and use one
word for each thing. The examples below prove that each pattern finds what it should, and nothing
else in the plain wording of the same sentence.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent

# The engine is rewritten as a whole, and its prose with it.
NOT_YET = re.compile(r"batchify/(engine/|forming/|(future|loopfuture|waits)\.py)")


def files(*patterns: str) -> list[Path]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path for path in found if not NOT_YET.match(name_of(path)))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FUNCTIONS = files("batchify/**/*.py", "docs/*.py", "examples/**/*.py")
CODE = [*FUNCTIONS, *files("benchmarks/**/*.py")]  # docstrings there are labels, in part
PAGES = files("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")


class Text(NamedTuple):
    """A paragraph, a comment or a message, without code, and the line where it begins."""

    line: int
    words: str


# ---- where prose stands ----


def prose(path: Path) -> Iterator[Text]:
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        return prose_of_python(text)
    return prose_of_markdown(unreleased(text) if path.name == "CHANGELOG.md" else text)


def unreleased(changelog: str) -> str:
    """Return the part of a changelog that is not released; the rest is history."""
    head, *sections = re.split(r"^(?=## )", changelog, flags=re.MULTILINE)
    return head + "".join(part for part in sections if part.lower().startswith("## [unreleased"))


def prose_of_markdown(text: str) -> Iterator[Text]:
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            words = "".join(
                child.content
                if child.type == "text"
                else {"code_inline": "`x`", "softbreak": " ", "hardbreak": " "}.get(child.type, "")
                for child in token.children or ()
            )
            yield Text((token.map or [0])[0] + 1, words)


def prose_of_python(text: str) -> Iterator[Text]:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield from paragraphs(docstring, node.body[0].lineno)
    yield from comments(text)
    yield from messages(tree)


def paragraphs(docstring: str, line: int) -> Iterator[Text]:
    """Yield the paragraphs of a docstring, without its examples."""
    lines: list[str] = []
    is_example = False
    for text in [*docstring.splitlines(), ""]:
        is_example = bool(text.strip()) and (is_example or text.lstrip().startswith(">>> "))
        if text.strip() and not is_example:
            lines.append(text)
        elif lines:
            yield Text(line, plain(" ".join(lines)))
            lines = []


def plain(text: str) -> str:
    """Replace code in backticks, and join lines."""
    return " ".join(re.sub(r"`[^`]*`", "`x`", text).split())


def comments(text: str) -> Iterator[Text]:
    """Yield the comments; one over several lines as a whole."""
    lines = text.splitlines()
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        has_own_line = lines[line - 1].lstrip().startswith("#")
        if not (block and has_own_line and line == last + 1):
            if block:
                yield Text(first, plain(" ".join(block)))
            block, first = [], line
        block.append(token.string.strip("# "))
        last = line
    if block:
        yield Text(first, plain(" ".join(block)))


def messages(tree: ast.AST) -> Iterator[Text]:
    """Yield the strings that have words, such as messages; not the docstrings."""
    ignored: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # a docstring
            ignored.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            ignored |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if id(node) in ignored or not isinstance(node, (ast.Constant, ast.JoinedStr)):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        values = [part.value if isinstance(part, ast.Constant) else "x" for part in parts]
        words = "".join(value for value in values if isinstance(value, str))
        if " " in words:
            yield Text(node.lineno, plain(words))


# ---- what is not plain ----


class Rule(NamedTuple):
    """A pattern, a sentence that it finds, and a plain one that it does not."""

    pattern: str
    bad: str
    good: str


PERSON = (
    "(?:anyone|author|contributor|developer|maintainer|people|person|reader|team|those|user|you)s?"
)
CAUSED = "(?:be|begin|call|do|end|fail|find|go|happen|leave|live|make|run|start|take|wait|work)"
DETERMINER = "(?:a|all|an|any|each|every|it|its|one|the|their|them|those)"

RULES = [
    Rule(r"\bwho(?:m)?ever\b", "Whoever is hit mends it.", "The caller that is hit repairs it."),
    Rule(r"\b(?:no|some|every)body\b", "Nobody waits.", "No caller waits."),
    Rule(r"\b(?:everyone|someone)\b", "Tell everyone.", "Notify all waiters."),
    Rule(
        rf"(?:^|(?<!\S)(?!{PERSON}\b)\S+ )\(?whom?\b(?![^.?!]*\?)",
        "Who stops waiting gives up its place. It follows who waits.",
        "A caller that stops waiting gives up its place. Who should use it? Users who need it.",
    ),
    Rule(r"\b(?:let|letting)\b", "Let the items leave now.", "Dispatch the items now."),
    Rule(r"(?:^|[.;:] )(?-i:Have)\b", "Have the next call start.", "Start the next call."),
    Rule(
        rf"\b(?:ha[sd]|have|having) {DETERMINER} (?:\w+ ){{0,2}}{CAUSED}(?= |[.,;]|$)",
        "It has every call run at once.",
        "It runs every call at once, and has a new batch.",
    ),
    Rule(
        r"\bsee(?:s|ing|n)? to\b", "The worker sees to that.", "The worker does that; see the page."
    ),
    Rule(r"\b(?:come|comes|came|coming) about\b", "However that came about.", "For any reason."),
    Rule(r"\bfor ever\b", "It waits for ever.", "It waits forever."),
    Rule(r"\bcompany\b", "It waits for company.", "It waits for more items."),
    Rule(r"\broom\b", "There is room in the queue.", "There is space in the queue."),
    Rule(r"\b(?:tell|tells|telling|told) of\b", "A line tells of it.", "A line says so."),
    Rule(r"\bhears? of\b", "The flush hears of the end.", "The flush returns."),
    Rule(r"\b(?:is|are|was|were) to be\b", "The item is to be run.", "The item must run."),
    Rule(r"\bgo(?:es|ing|ne)? on\b|\bwent on\b", "The batch goes on.", "The batch continues."),
    Rule(r"\bby (?:itself|themselves)\b", "It ends by itself.", "It ends without a call."),
    Rule(r"\bunder way\b", "Items are under way.", "Items are in flight."),
    Rule(
        r"\b(?:lone caller|a caller alone)\b", "A lone caller waits.", "A sequential caller waits."
    ),
    Rule(r"\bg[ia]ve(?:s|n)? back\b", "It gave back a list.", "It returned a list."),
    Rule(r"\bbatch(?:es)? (?:leaves?|left)\b", "The batch leaves.", "The batch is dispatched."),
    Rule(r"\bas ever\b", "It works as ever.", "It works as usual."),
    Rule(r"\bmend(?:s|ed|ing)?\b", "It mends the count.", "It repairs the count."),
    Rule(r"\bliv(?:e|es|ed) on(?=[.,;:)]|$)", "The worker lives on.", "The worker keeps running."),
]

PATTERNS = [re.compile(rule.pattern, re.IGNORECASE) for rule in RULES]


def faults(texts: Iterator[Text]) -> list[str]:
    """Return the places in `texts` that are not plain, with their lines."""
    found = []
    for text in texts:
        for match in filter(None, (pattern.search(text.words) for pattern in PATTERNS)):
            around = text.words[max(0, match.start() - 60) : match.end() + 60]
            found.append(f"{text.line}: {match[0].strip()!r} in {around!r}")
    return found


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=name_of)
def test_prose_is_plain(path: Path) -> None:
    assert not faults(prose(path))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.bad)
def test_each_pattern_finds_its_example(rule: Rule) -> None:
    pattern = re.compile(rule.pattern, re.IGNORECASE)
    for sentence in re.split(r"(?<=[.]) ", rule.bad):
        assert pattern.search(sentence), sentence
        assert pattern.search(f"It is long. {sentence} It is long."), sentence
    assert not pattern.search(rule.good)


@pytest.mark.parametrize(
    "carrier",
    [
        '"""{}"""',
        'class A:\n    """A class.\n\n    {}\n    """',
        'def f():\n    """Do it.\n\n    Args:\n        x: {}\n\n    >>> f()\n    """',
        "x = 1  # {}",
        "# It is\n# long. {}\nx = 1",
        'raise ValueError("{}")',
        'raise ValueError(f"{{x}}. {}")',
        'raise ValueError("It is long. "\n    "{}")',
    ],
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.bad)
def test_python_is_searched_wherever_prose_stands(rule: Rule, carrier: str) -> None:
    assert faults(prose_of_python(carrier.format(rule.bad)))
    assert not faults(prose_of_python(carrier.format(rule.good)))


@pytest.mark.parametrize(
    "carrier",
    ["{}", "# {}", "- {}", "A line.\n{}", "> {}", "| a | {} |\n|---|---|", "**{}**", "[{}](x.md)"],
)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.bad)
def test_markdown_is_searched_wherever_prose_stands(rule: Rule, carrier: str) -> None:
    assert faults(prose_of_markdown(carrier.format(rule.bad)))
    assert not faults(prose_of_markdown(carrier.format(rule.good)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.bad)
def test_code_is_not_prose(rule: Rule) -> None:
    code = rule.bad.replace(" ", "_")
    for text in (f"`{rule.bad}`", f"```\n{rule.bad}\n```", f"<!-- {rule.bad} -->"):
        assert not faults(prose_of_markdown(text))
    for text in (f"# `{rule.bad}`", f'"""Do it.\n\n>>> f()\n{rule.bad}\n"""', f'x = "{code}"'):
        assert not faults(prose_of_python(text))


def test_released_changes_are_history() -> None:
    changelog = "# Changelog\n\n## [Unreleased]\n\n- New.\n\n## 0.1.0\n\n- Old.\n"
    assert "New" in unreleased(changelog)
    assert "Old" not in unreleased(changelog)


# ---- docstrings of functions ----

VERBS = set(
    """
    abandon abort accept acquire adapt add admit advance allow analyse answer append apply
    archive ask assert assign assume attach await balance begin bind block book bound break
    bring build bury calculate call cancel cap carry catch change check choose claim clamp
    clean clear clone close collect combine commit compare compensate compete compile complete
    compute configure confirm connect consume continue convert copy correct count create cut
    cycle deal debug decide decode decorate defer define degrade delay delete deliver derive
    describe deserialize detach detect determine disable discard dispatch divide do document
    double draw drop embed emit empty enable encode end enforce enqueue ensure enter enumerate
    escape estimate evaluate exchange execute exit expand expect expire explain export expose
    extend extract fail fake fall feed fetch fill filter find finish fit fix flatten flip
    flush follow forget fork format forward free freeze gather generate get give group grow
    guess halve hand handle hide hold identify ignore implement import include increase index
    infer inform inherit init initialize insert inspect install interpret interrupt invalidate
    invoke isolate issue iterate join judge keep kill label launch lease leave lengthen level
    limit link list listen load locate lock log look lower make map mark mask match measure
    merge migrate mock modify move mute name nest normalize note notify number observe obtain
    offer open order own pack parse pass patch pause peek perform pick ping place plot point
    poll pop post prefer prepare preserve prevent print process produce propose protect
    provide prune publish pull push put query queue quote raise rank reach read receive
    reclaim recommend recompute reconnect record recover redirect redo reduce refer refresh
    refuse register reject release reload rely remember remove rename render renew reopen
    reorder repeat replace reply report represent request requeue require reserve reset
    resolve restart restore resume retrieve retry return reuse reverse rewind rewrite roll
    round route run sample save say scan schedule search seed select send separate serialize
    serve set settle share shift shorten show shrink shut signal simplify simulate skip sleep
    slice slow solve sort split spread stand start stay step stop store stream strip submit
    substitute subtract succeed suggest sum summarize supply support suppress suspend swap
    switch synchronize tag take tell terminate test throw tidy time total touch trace track
    transform translate trigger trim truncate try tune turn type unblock undo unlock unpack
    unregister unsubscribe unwind unwrap update upload use validate vary verify visit wait
    wake walk warn watch wrap write yield zip
    """.split()
)


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Yield the functions and methods that have a docstring; a property is described as a value."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring is not None and not any(map(is_property, node.decorator_list)):
                yield node, docstring


def is_property(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).rpartition(".")[2] in ("property", "cached_property", "setter")


def summary_faults(text: str) -> list[str]:
    """Return the docstrings of functions in `text` that do not begin or end as they must."""
    found = []
    for node, docstring in functions(ast.parse(text)):
        summary = re.split(r"\n\s*\n", docstring)[0]
        first = re.match(r"\w+", summary)
        if first is None or not first[0][0].isupper() or first[0].lower() not in VERBS:
            found.append(f"{node.lineno}: {node.name} does not begin with a verb: {plain(summary)}")
        if not summary.endswith((".", ".)")):
            found.append(
                f"{node.lineno}: {node.name} does not end with a full stop: {plain(summary)}"
            )
    return found


@pytest.mark.parametrize("path", FUNCTIONS, ids=name_of)
def test_docstrings_of_functions_begin_with_a_verb(path: Path) -> None:
    assert not summary_faults(path.read_text("utf-8"))


@pytest.mark.parametrize(
    "docstring",
    [
        "Returns the value.",
        "The value.",
        "What it returns.",
        "How it waits.",
        "Does it wait?",
        "Return the value",
        "Return the value?",
        "Return the value:\n\n    - one.",
        "return the value.",
        "`x`: the value.",
        "Who waits here.",
        "In the child of a fork: forget.",
        "Have it run.",
        "Let it run.",
    ],
)
@pytest.mark.parametrize(
    "function", ["def f():", "async def f():", "class A:\n  @classmethod\n  def f(cls):"]
)
def test_a_wrong_docstring_is_found(function: str, docstring: str) -> None:
    indent = "    " * function.count("\n") + "    "
    assert summary_faults(f'{function}\n{indent}"""{docstring}"""')


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    """Return the value."""',
        'def f():\n    """Return the value.\n\n    Is that so?\n    """',
        'def f():\n    """Stop, and return the value of `x`."""',
        'class A:\n    """The value."""\n    @property\n    def f(self):\n        """The value"""',
        "def f(): pass",
    ],
)
def test_a_plain_docstring_passes(code: str) -> None:
    assert not summary_faults(code)


def test_the_files_are_found() -> None:
    names = {name_of(path) for path in (*CODE, *PAGES)}
    assert {"batchify/api.py", "batchify/cli/tune.py", "batchify/redis/consumer.py"} <= names
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/index.md"} <= names
    assert {"docs/conf.py", "docs/reference/calls.md", "benchmarks/README.md"} <= names
    assert not any(name.startswith("batchify/engine/") for name in names)
