"""URLs of stores, as they may be shown."""

from __future__ import annotations

import re


def without_password(url: str) -> str:
    """Return a URL whose passwords are hidden."""
    url = re.sub(r"(//[^/@:]*:)[^/]*@", r"\1***@", url)
    return re.sub(r"([?&]\w*password=)[^&]*", r"\1***", url)
