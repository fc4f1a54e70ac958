"""Browsers, which ask for more than people do."""

from __future__ import annotations

from fastapi import HTTPException, Request


async def refuse_pages(request: Request) -> None:
    """Lets no GET do anything that a browser sends by itself, for a page of another site or ahead of time.

    Raises:
        HTTPException: It is such a request (403). What programs send never is.
    """
    headers = request.headers
    is_ahead = "prefetch" in headers.get("sec-purpose", "") + headers.get("purpose", "")
    if is_ahead or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "Work is not handed out to pages of other sites, nor ahead of time.")
