"""What the self-contained HTML pages share: templates that escape everything, and pictures inside of the page."""

from __future__ import annotations

import base64

import jinja2


def environment(package: str, *, html: bool = True) -> jinja2.Environment:
    """Templates of a package's folder templates/; a name that a template is not given is an error.

    Without `html` nothing is escaped: for Markdown.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_url(content: bytes, kind: str = "png") -> str:
    """A picture as an address that loads nothing; `kind` as in image/<kind>."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
