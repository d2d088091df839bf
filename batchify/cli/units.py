"""Write times and factors with a few digits. Callers are the commands that print or draw them."""

from __future__ import annotations

import sys


def format_time(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    micro = "µs" if _can_print("µ") else "us"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), (micro, 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _can_print(text: str) -> bool:
    """Return True if the encoding of stdout has these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeError:
        return False
    return True


def format_gain(gain: float) -> str:
    """Return a factor such as "0.03x", "7.6x" or "170x"."""
    return f"{gain:.2f}x" if gain < 1 else f"{gain:.1f}x" if gain < 100 else f"{gain:,.0f}x"
