"""Configuration of Sphinx, which builds the pages: `bash .ci/docs PYTHON DIRECTORY`.

The build needs no network: links to Python's own documentation come from a list in this file.
"""

import re
import sys
from collections.abc import Iterator
from inspect import getattr_static, signature
from pathlib import Path
from typing import Any, get_overloads

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import batchify  # noqa: E402
from batchify import _version, static  # noqa: E402
from batchify.decorator import BoundBatched  # noqa: E402
from batchify.options import Unset  # noqa: E402
from batchify.view import CallOptions  # noqa: E402

project = "batchify"
author = "The batchify authors"
project_copyright = author
version = release = _version.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings use single backticks, as Markdown does
myst_heading_anchors = 3

add_module_names = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 110
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
nitpicky = True
# Type variables are explained in the text. Other libraries are not linked.
nitpick_ignore_regex = [
    ("py:.*", r"(batchify\.\w+\.|static\.)?(T|P|R|S|R_co|P\.args|P\.kwargs)"),
    ("py:.*", r"(opentelemetry|prometheus_client)\..*"),
]

html_theme = "furo"
html_title = f"batchify {release}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["custom.css"]

# Files outside of this directory, and the pages here that show them.
INCLUDED_FILES = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "benchmarks/README.md": "benchmarks",
}

# Pages of Python's documentation, and the names that the reference links to. `intersphinx` would
# fetch an inventory from the network.
PYTHON_URL = "https://docs.python.org/3/library/"
PYTHON_NAMES = {
    "functions.html#": "bool float int object",
    "stdtypes.html#": "bytes dict list set str tuple",
    "constants.html#": "None",
    "exceptions.html#": (
        "AttributeError BaseException ConnectionError Exception GeneratorExit ImportError KeyError "
        "KeyboardInterrupt RuntimeError StopAsyncIteration StopIteration SystemExit TimeoutError "
        "TypeError ValueError"
    ),
    "collections.abc.html#collections.abc.": (
        "AsyncGenerator AsyncIterable AsyncIterator Callable Collection Generator Hashable "
        "Iterable Iterator Mapping Sequence"
    ),
    "concurrent.futures.html#concurrent.futures.": (
        "CancelledError Executor Future as_completed wait BrokenExecutor"
    ),
    "contextlib.html#contextlib.": "contextmanager",
    "contextvars.html#contextvars.": "Context",
    "datetime.html#datetime.": "timedelta",
    "queue.html#queue.": "Full",
    "typing.html#typing.": "Any Literal",
}
PYTHON_LINKS = {
    name: f"{PYTHON_URL}{page}{name}"
    for page, names in PYTHON_NAMES.items()
    for name in names.split()
}

# The types of the options, as the reference shows them: the important part of `static.Keywords`.
OPTION_TYPES = {
    "func": "Callable",
    "size": "int",
    "linger": "float | timedelta | None",
    "workers": "int",
    "capacity": "int | None",
    "key": "Callable[[T], Hashable] | None",
    "weight": "Callable[[T], float] | None",
    "max_weight": "float | None",
    "dedupe": "bool | Callable[[T], Hashable]",
    "isolate": "bool",
    "on_error": "Callable[[~batchify.BatchFailure], Any] | None",
    "executor": "Executor | Callable[[], Executor] | None",
    "broker": "~batchify.redis.RedisStreams | None",
    "exit_timeout": "float | timedelta",
    "name": "str | None",
}


def read_page(_app: Any, name: str, source: list[str]) -> None:
    """Insert the files from outside, and adapt links that are right in the repository."""
    for file, page in INCLUDED_FILES.items():
        if name == page:
            text = (HERE.parent / file).read_text("utf-8")
            source[0] = text.replace("](docs/", "](")
    for file, page in INCLUDED_FILES.items():
        for link in (f"](../{file})", f"]({file})"):
            source[0] = source[0].replace(link, f"]({page}.md)")
    if name in INCLUDED_FILES.values():  # other files of the repository have no page
        source[0] = re.sub(r"\[([^]]+)\]\((?:examples|tests)/[^)]*\)", r"\1", source[0])


def join_types_and_docstrings() -> None:
    """Give the types of `static` the docstrings of the code that runs."""
    both = ((static.Batched, BoundBatched), (static.CallOptions, CallOptions))
    for typed, runs in (*both, (static.Maps, CallOptions)):
        for name, member in vars(typed).items():
            text = getattr(getattr_static(runs, name, None), "__doc__", None)
            if isinstance(member, property):
                setattr(typed, name, property(member.fget, member.fset, doc=text))
            elif callable(member) and text:
                member.__doc__ = text
    for method in (static.Maps.map, static.Maps.amap):
        use_overload(method)
    batchify.Batched = static.Batched
    Unset.__repr__ = lambda _: "..."


def order_inherited() -> None:
    """Show `map` and `amap` after `asubmit`; by default inherited methods come last, by name."""
    analyzer = ModuleAnalyzer.for_module("batchify.static")
    analyzer.analyze()
    order: dict[str, Any] = analyzer.tagorder
    for owner in ("Batched", "CallOptions"):
        place = order[f"{owner}.asubmit"]
        order |= {f"{owner}.map": place + 0.1, f"{owner}.amap": place + 0.2}


def use_overload(method: Any) -> None:
    """Document one signature of `method` in place of its overloads."""
    overload = get_overloads(method)[0]
    method.__annotations__ = overload.__annotations__ | {"return_exceptions": "bool"}
    method.__signature__ = signature(overload)


def tidy_signature(*event: Any) -> tuple[str, str]:
    """Write type variables and defaults as in the source: `*args: P.args`, `REGISTRY`."""
    arguments, returned = event[-2:]
    if arguments:
        for name in ("args", "kwargs"):
            arguments = re.sub(rf"\*{name}: [\w.~]*P\b(\.\w+)?", f"*{name}: P.{name}", arguments)
        arguments = re.sub(r"<[\w.]*CollectorRegistry object[^>]*>", "REGISTRY", arguments)
        arguments = re.sub(r"~?batchify\.static\.([TRSP])\b", r"\1", arguments)
    returned = returned and re.sub(r"~?batchify\.static\.([TRSP])\b", r"\1", returned)
    return arguments, returned


def tidy_docstring(*event: Any) -> None:
    """Shorten the types of attributes, and add those of the options.

    In the signature of the decorator, the types would hide the defaults.
    """
    name, lines = event[2], event[-1]
    for number, line in enumerate(lines):
        if line.startswith(":vartype"):
            lines[number] = re.sub(r"(?<![\w.~])(?=[a-z_]+\.)", "~", line)
    if name == "batchify.batched":
        for option, text in OPTION_TYPES.items():
            first = next(line for line in lines if line.startswith(f":param {option}:"))
            lines.insert(lines.index(first), f":type {option}: {text}")


def link_to_python(_app: Any, _env: Any, node: Any, shown: Any) -> Any:
    """Return a link to Python's documentation for a name that is not batchify's."""
    target = node.get("reftarget", "").removesuffix("()")
    if node.get("refdomain") != "py" or target.startswith("batchify."):
        return None
    url = PYTHON_LINKS.get(target.rpartition(".")[2])
    return url and nodes.reference("", "", shown, refuri=url, internal=False)


def link_names(app: Any, doctree: Any, page: str) -> None:
    """Turn names in the text of the reference into links: `QueueFull`, `submit`."""
    if not page.startswith("reference/"):
        return
    objects = app.env.domaindata["py"]["objects"]
    for literal in list(doctree.findall(nodes.literal)):
        if isinstance(literal.parent, nodes.reference) or in_heading(literal):
            continue
        text = re.sub(r"\(.*\)$", "", literal.astext())
        own = own_name(literal)
        for name in candidates(text, own):
            if name == own:
                break
            if name in objects and not is_option(objects[name], name, own):
                entry = objects[name]
                url = app.builder.get_relative_uri(page, entry.docname) + "#" + entry.node_id
                replace_by_link(literal, url, True)
                break
        else:
            name = text.rpartition(".")[2]
            if (
                name in PYTHON_LINKS
                and re.fullmatch(r"[A-Z]\w+|[a-z.]+\.\w+", text)
                and name != "None"
            ):
                replace_by_link(literal, PYTHON_LINKS[name], False)


def is_option(entry: Any, name: str, own: str) -> bool:
    """Return True if `name` is an attribute of `Batched`, and `own` describes something else."""
    return entry.objtype == "property" and not own.startswith(name.rpartition(".")[0])


def candidates(text: str, own: str) -> Iterator[str]:
    """Yield the full names that `text` may mean in the description of `own`."""
    if not re.fullmatch(r"[\w.]+", text):
        return
    parents = own.split(".") if own else []
    for length in range(len(parents), 0, -1):
        yield ".".join([*parents[:length], text])
    yield f"batchify.{text}"
    if own or text.startswith("f."):  # else it may be a function of Python, such as `map`
        yield f"batchify.Batched.{text.removeprefix('f.')}"
        yield f"batchify.BatchFuture.{text}"
    yield text


def own_name(node: Any) -> str:
    """Return the full name of the object that the text around `node` describes."""
    while node is not None:
        if isinstance(node, addnodes.desc):
            return str(next(iter(node[0].get("ids", ())), ""))
        node = node.parent
    return ""


def mark_options(_app: Any, _page: str, _template: str, context: Any, _doctree: Any) -> None:
    """Mark options such as `--help` in a text, so that no line breaks inside of them."""
    if "body" in context:
        context["body"] = re.sub(
            r'<span class="pre">(?=-{1,2}\w)', '<span class="pre option">', context["body"]
        )


def in_heading(node: Any) -> bool:
    """Return True if `node` is in a title or in a signature."""
    while node is not None:
        if isinstance(node, (nodes.title, addnodes.desc_signature)):
            return True
        node = node.parent
    return False


def replace_by_link(literal: Any, url: str, is_internal: bool) -> None:
    """Put a link around `literal`."""
    link = nodes.reference("", "", refuri=url, internal=is_internal)
    literal.replace_self(link)
    link += literal


def setup(app: Any) -> None:
    """Connect the functions above; Sphinx calls this."""
    join_types_and_docstrings()
    order_inherited()
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-signature", tidy_signature)
    app.connect("autodoc-process-docstring", tidy_docstring, priority=600)
    app.connect("missing-reference", link_to_python)
    app.connect("doctree-resolved", link_names)
    app.connect("html-page-context", mark_options)
    app.connect("source-read", read_page)
