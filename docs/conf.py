"""How the pages are made: `bash .ci/docs PYTHON DIRECTORY`."""

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import batchify  # noqa: E402
from batchify import _version, static  # noqa: E402
from batchify.calls import CallOptions, Calls  # noqa: E402

project = "batchify"
author = "The batchify authors"
project_copyright = author
version = release = _version.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["toc.empty_glob"]  # a page that the toctree names by a glob may not be there
default_role = "code"  # docstrings are written in Markdown's way
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
nitpicky = True
# What is not ours has no page here, and needs none; neither have the letters of generic types.
nitpick_ignore_regex = [
    ("py:.*", r"(?!batchify\b).*"),
    ("py:.*", r"batchify\.static\.(T|R|P)(\.args|\.kwargs)?"),
]

html_theme = "furo"
html_title = f"batchify {release}"
html_theme_options = {"navigation_with_keys": True}

# Links to files outside of this directory, and the pages here that show them.
ELSEWHERE = {
    "../benchmarks/README.md": "benchmarks.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
}


def link_to_pages(_app: Any, _page: str, source: list[str]) -> None:
    """Have links that are right in the checkout be right here, too."""
    for path, page in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({path})", f"]({page})")


def put_words_to_types() -> None:
    """Join what `static.py` tells a checker of the types with the docstrings of what runs."""
    for typed, runs in ((static.Batched, Calls), (static.CallOptions, CallOptions)):
        for name, member in vars(typed).items():
            told = getattr(vars(runs).get(name), "__doc__", None)
            if isinstance(member, property):
                setattr(typed, name, property(member.fget, member.fset, doc=told))
            elif callable(member) and told:
                member.__doc__ = told
    batchify.Batched = static.Batched
    batchify.batched.__annotations__ = {
        "func": "Callable | None",
        **static.Keywords.__annotations__,
        "return": "Batched | Decorator",
    }


def setup(app: Any) -> None:
    """Called by Sphinx."""
    put_words_to_types()
    app.connect("source-read", link_to_pages)
