"""Frames for output that needs scripts or styles: it works, and can reach neither the page nor another host.

Two frames, one in the other. The inner one holds the output; its scripts run without an origin. A content security
policy forbids it every connection, but no policy of its own can keep a frame from navigating itself away, which is a
request to another host, too. The outer frame's policy can: it has no script, and its `frame-src` binds what it holds.

What no content security policy covers is taken out of the inner frame before the output's scripts run there: see
`frame_script`. What cannot be taken out is `location`: a frame that tries to navigate is stopped, but Chromium has
opened a connection by then. Only a frame without scripts does not do that, which hosts that are None mean here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import frame_script

DEFAULT_HEIGHT = 300
SHORT, SHORT_HEIGHT = 2000, 120
"""Characters of HTML that will hardly draw much, and the pixels for it."""
SMALLEST, LARGEST = 40, 1000
ROW_HEIGHT = 25
"""Pixels of a table's row, as pandas and JupyterLab make them."""
EDGE = 80
"""Pixels around a plot: titles, axes, tools."""
PLOTLY_HEIGHT = 470
TAIL = 20_000
"""Characters at the end, where a plot stands behind the library that draws it."""
FALLBACK = "An interactive output in a sandboxed frame: run the cell again to see it."
"""Shown where frames are taken away, as JupyterLab does in a notebook that is opened again."""
NO_SCRIPTS = "its scripts were not run (Guard.framed_scripts)"
_RUNS = re.compile(r"<script\b|\son\w+\s*=|javascript:", re.IGNORECASE)
_HEIGHTS = re.compile(
    r'(?:"(?:height|continuousHeight)"\s*:\s*|\bheight\s*[:=]\s*["\']?)(\d{2,4})(?:\.\d+)?(?:px|[\s,;}"\'])'
)
_SCRIPT_HOST = re.compile(r"https?://([\w.-]+(?::\d+)?)/[^\s\"'<>`]{0,200}(?:\.js\b|npm/)")
_FORBIDDEN_TAG = re.compile(rf"<(?=(?:{'|'.join(frame_script.FORBIDDEN)})[\s/>])", re.IGNORECASE)
_STYLESHEET = re.compile(
    r"""<link\s(?=[^<>]{0,1000}\brel\s*=\s*["']?stylesheet\b)[^<>]{0,1000}\bhref\s*=\s*["']?(https?://[\w./:@%+~?=-]+)[^<>]{0,1000}>""",
    re.IGNORECASE,
)
_STYLE = (
    "html,body{margin:0;background:#fff;color:#111;font:13px/1.4 system-ui,sans-serif}body{padding:4px}"
    "table{border-collapse:collapse;font-size:12px}td,th{padding:.3em .6em;text-align:right}"
)


Hosts = Sequence[str] | None
"""Hosts from which an output may load scripts besides its own; None where no scripts run at all."""


def policy(script_hosts: Hosts = (), *, inner: bool = False) -> str:
    """Return the content security policy of both frames; the inner one's asks for trusted types, too."""
    hosts = "".join(f" {host}" for host in script_hosts or ())
    scripts = "'none'" if script_hosts is None else f"'unsafe-inline' 'unsafe-eval'{hosts}"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'{hosts}; "
        "img-src data: blob:; media-src data: blob:; font-src data:; connect-src 'none'; frame-src 'none'; "
        "child-src 'none'; worker-src 'none'; object-src 'none'; base-uri 'none'; form-action 'none'"
        + ("; require-trusted-types-for 'script'; trusted-types default" if inner else "")
    )


def frame(html: str, script_hosts: Hosts = (), *, height: int | None = None) -> str:
    """Return HTML that shows ``html`` in a frame of its own; ``height`` in pixels is estimated if not known."""
    shown = _FORBIDDEN_TAG.sub("<x-", _with_imports(html) if script_hosts else html)
    first = "" if script_hosts is None else f"<script>{frame_script.SCRIPT}</script>"
    sandbox = "" if script_hosts is None else "allow-scripts"
    inner = f"{_head(policy(script_hosts, inner=True))}{first}<style>{_STYLE}</style></head><body>{shown}</body></html>"
    outer = (
        f"{_head(policy(script_hosts))}"
        "<style>html,body{margin:0;height:100%;overflow:hidden}iframe{border:0;width:100%;height:100%}</style></head>"
        f'<body><iframe sandbox="{sandbox}" srcdoc="{_attribute(inner)}"></iframe></body></html>'
    )
    pixels = min(LARGEST, max(SMALLEST, height or estimated_height(html)))
    return (
        f'<div style="height: {pixels}px; width: 100%; resize: vertical; overflow: hidden;">'
        f'<iframe sandbox="{sandbox}" referrerpolicy="no-referrer" style="width: 100%; height: 100%; border: 0;" '
        f'srcdoc="{_attribute(outer)}">{FALLBACK}</iframe></div>'
    )


def _with_imports(html: str) -> str:
    """Load style sheets by a rule, which a policy binds, where the output does it by links, which are taken away."""
    return _STYLESHEET.sub(r'<style>@import url("\1");</style>', html)


def _head(rules: str) -> str:
    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_attribute(rules)}">'
        '<meta http-equiv="x-dns-prefetch-control" content="off"><meta name="referrer" content="no-referrer">'
    )


def missing(html: str, script_hosts: Hosts) -> list[str]:
    """Return notes on what the output's scripts will lack: a host that is not allowed, or to be run at all."""
    if script_hosts is None:
        return [NO_SCRIPTS] if _RUNS.search(html) else []
    asked = dict.fromkeys(_SCRIPT_HOST.findall(html[:TAIL] + html[-TAIL:]))
    absent = [host for host in asked if not any(host in allowed for allowed in script_hosts)]
    return [f"scripts from {', '.join(absent[:3])} were not loaded (Guard.script_hosts)"] if absent else []


def script_frame(script: str, script_hosts: Hosts = (), *, body: str = "") -> str:
    """Return HTML that runs JavaScript in a frame; it finds its output's place as `element`, as in a notebook."""
    script = re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE)
    place = f'{body}<div id="output"></div>'
    return frame(
        f'{place}<script>var element = document.getElementById("output");</script><script>{script}</script>',
        script_hosts,
        height=estimated_height(script),
    )


def estimated_height(html: str) -> int:
    """Return the height in pixels that the output asks for, or that its rows will need."""
    asked = [int(found) for found in _HEIGHTS.findall(html[-TAIL:])]
    plausible = [height for height in asked if SMALLEST <= height <= LARGEST]
    if plausible:
        return max(plausible) + EDGE
    if "Plotly.newPlot" in html[-TAIL:]:
        return PLOTLY_HEIGHT
    rows = html.count("<tr") + html.count("<li") + html.count("<p") + html.count("<br")
    if rows:
        return rows * ROW_HEIGHT + 60
    return DEFAULT_HEIGHT if len(html) > SHORT else SHORT_HEIGHT


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
