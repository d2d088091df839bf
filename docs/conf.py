"""How the pages are made: `bash .ci/docs PYTHON DIRECTORY`."""

import sys
from inspect import getattr_static
from pathlib import Path
from typing import Any

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

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings are written in Markdown's way
myst_heading_anchors = 3

napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
nitpicky = True
# What is not ours has no page here, and needs none; neither have the letters of generic types.
nitpick_ignore_regex = [("py:.*", r"(?!batchify\b).*"), ("py:.*", r"batchify\.\w+\.[A-Z]")]

html_theme = "furo"
html_title = f"batchify {release}"
html_theme_options = {"navigation_with_keys": True}

# Files outside of this directory, and the pages here that show them.
ELSEWHERE = {
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "benchmarks/README.md": "benchmarks",
}


def read_page(_app: Any, name: str, source: list[str]) -> None:
    """Show the files from elsewhere; have links that are right in the checkout be right here."""
    for file, page in ELSEWHERE.items():
        if name == page:
            text = (HERE.parent / file).read_text("utf-8")
            source[0] = text.replace("](docs/", "](")
    for file, page in ELSEWHERE.items():
        for link in (f"](../{file})", f"]({file})"):
            source[0] = source[0].replace(link, f"]({page}.md)")


def put_words_to_types() -> None:
    """Join what `static.py` tells a checker of the types with the docstrings of what runs."""
    both = ((static.Batched, BoundBatched), (static.CallOptions, CallOptions))
    for typed, runs in (*both, (static.Maps, CallOptions)):
        for name, member in vars(typed).items():
            told = getattr(getattr_static(runs, name, None), "__doc__", None)
            if isinstance(member, property):
                setattr(typed, name, property(member.fget, member.fset, doc=told))
            elif callable(member) and told:
                member.__doc__ = told
    batchify.Batched = static.Batched
    Unset.__repr__ = lambda _: "..."
    batchify.batched.__annotations__ = {
        "func": "Callable | None",
        **static.Keywords.__annotations__,
        "return": "Batched | Decorator",
    }


def name_arguments(*event: Any) -> tuple[str, str]:
    """Write `*args: P.args`, as in the source."""
    signature, returned = event[-2:]
    for name in ("args", "kwargs"):
        signature = signature and signature.replace(f"*{name}: ~P", f"*{name}: P.{name}")
    return signature, returned


def setup(app: Any) -> None:
    """Called by Sphinx."""
    put_words_to_types()
    app.connect("autodoc-process-signature", name_arguments)
    app.connect("source-read", read_page)
