"""The guard's rules for MIME bundles, tried with what libraries really make."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from html import unescape
from typing import Any

import pytest

from sandbox_kernel.guard import Guard, frames, markup
from sandbox_kernel.guard.bundles import CUT, IN_FRAME, BundleGuard
from sandbox_kernel.guard.markdown import clean_markdown
from sandbox_kernel.guard.svg import clean_svg

Json = dict[str, Any]
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def clean(data: Json, metadata: Json | None = None, **policy: Any) -> Any:
    return BundleGuard(policy.get("mime_types", ()), policy.get("script_hosts", ())).clean(data, metadata or {})


def scriptless(data: Json) -> Any:
    return BundleGuard((), None).clean(data, {})


def html_of(source: str) -> str:
    html: str = clean({"text/html": source}).data["text/html"]
    return html


def inner_document(html: str) -> str:
    """The document in the inner of two frames."""
    outer = re.search(r'srcdoc="([^"]*)"', html)
    assert outer is not None
    inner = re.search(r'srcdoc="([^"]*)"', unescape(outer[1]))
    assert inner is not None
    return unescape(inner[1])


@pytest.mark.parametrize(
    "data",
    [
        {"text/plain": "<script>text</script>"},
        {"text/plain": "x", "text/latex": r"$\frac{a}{b<c}$"},
        {"text/plain": "x", "text/x-rst": ".. raw:: html"},
        {"application/json": {"a": ["<b>", 1, None]}},
        {"image/png": "iVBORw0KGgo=\n", "text/plain": "<Figure>"},
        {"text/html": "<b>x</b>"},
        {"text/html": '<table border="1" class="dataframe"><tr style="text-align: right;"><td>1</td></tr></table>'},
        {"text/html": f'<img src="{PICTURE}" width="10">'},
        {"text/html": '<a href="https://a.example/?b" target="_blank">x</a>'},
        {"text/markdown": "**b** $a<b$ `<T>` and `List<int>`\n\n```html\n<p>x</p>\n```\n"},
        {"text/markdown": f"![a]({PICTURE}) ![b](attachment:b.png) [l](https://a.example)"},
        {"application/vnd.jupyter.widget-view+json": {"model_id": "a", "version_major": 2, "version_minor": 0}},
        {"application/vnd.vscode.bg.execution.3": "", "application/vnd.vscode.bg.execution.3.result": {"a": "<b>"}},
        {"application/geo+json": {"type": "Point", "coordinates": [1, 2]}},
    ],
)
def test_what_does_nothing_passes_unchanged(data: Json) -> None:
    cleaned = clean(data)
    assert cleaned.data == data
    assert not cleaned.changed
    assert cleaned.notes == []


@pytest.mark.parametrize(
    ("source", "cleaned"),
    [
        ('<img src="https://e.example/x.png">', "<img>"),
        ("<img src=/api/contents>", "<img>"),
        ("<a href='javascript:alert(1)'>x</a>", "<a>x</a>"),
        ("<a href=' java\tscript:alert(1)'>x</a>", "<a>x</a>"),
        ("<a href='data:text/html,x'>x</a>", "<a>x</a>"),
        ("<b data-commandlinker-command='terminal:create-new'>x</b>", "<b>x</b>"),
        ("<b class='jp-Cell mine lm-Widget' id='jupyter-config-data'>x</b>", '<b class="mine">x</b>'),
        ("<br/>a &amp; b<!-- x --><wbr>", "<br>a &amp; b<wbr>"),
        ("<audio controls><source src='data:audio/wav;base64,AA'></audio>",
         '<audio controls=""><source src="data:audio/wav;base64,AA"></audio>'),
    ],
)  # fmt: skip
def test_html_without_scripts_is_cleaned_in_the_page(source: str, cleaned: str) -> None:
    assert html_of(source) == cleaned


@pytest.mark.parametrize(
    "source",
    [
        "<script>x</script>",
        "<img src=x onerror=alert(1)>",
        "<svg onload=alert(1)></svg>",
        "<iframe srcdoc='<script>x</script>'></iframe>",
        "<iframe src='javascript:x'></iframe>",
        "<object data='javascript:x'></object>",
        "<embed src='javascript:x'>",
        "<form action='https://e.example'><input name=a></form>",
        "<meta http-equiv=refresh content='0;url=https://e.example'>",
        "<base href='https://e.example'>",
        "<link rel=prefetch href='https://e.example'>",
        "<style>b{background:url(https://e.example)}</style>",
        "<b style='background: url(https://e.example)'>x</b>",
        "<b style='position: fixed; top: 0'>x</b>",
        "<math><mtext><img src=x onerror=y></mtext></math>",
        "<B/oNclick=x>",
        "<td><img\nsrc=x\nonerror=y></td>",
    ],
)
def test_html_that_acts_goes_into_two_frames(source: str) -> None:
    cleaned = clean({"text/html": source})
    html = cleaned.data["text/html"]
    assert IN_FRAME in cleaned.notes
    # Outside of the attribute that holds the outer document there is nothing but one frame of ours.
    outside = re.sub(r'srcdoc="[^"]*"', "", html)
    assert re.findall(r"<(\w+)", outside) == ["div", "iframe"]
    assert outside.count('sandbox="allow-scripts"') == 1
    assert "allow-same-origin" not in html
    inner = inner_document(html)
    assert "default-src 'none'" in inner
    assert re.search(r"<iframe[\s/>]", inner, re.IGNORECASE) is None


@pytest.mark.parametrize("tag", ["iframe", "LINK", "object", "embed", "frame", "fencedframe"])
def test_frames_hold_no_element_that_connects_past_their_policy(tag: str) -> None:
    inner = inner_document(html_of(f"<script>1</script><{tag}/rel=preconnect src=https://e.example href=//e.example>"))
    assert re.search(rf"<{tag}[\s/>]", inner, re.IGNORECASE) is None
    assert f"<x-{tag}" in inner


def test_style_sheets_of_allowed_hosts_are_imported() -> None:
    source = "<link rel='stylesheet' href='https://cdn.example/a.css'><script src='https://cdn.example/a.js'></script>"
    html = clean({"text/html": source}, script_hosts=["https://cdn.example"]).data["text/html"]
    assert '<style>@import url("https://cdn.example/a.css");</style>' in inner_document(html)
    assert "@import" not in html_of(source)


def test_frames_without_scripts_are_marked_so() -> None:
    cleaned = scriptless({"text/html": "<p onclick=x>shown</p><script>1</script>"})
    html = cleaned.data["text/html"]
    assert "allow-scripts" not in html
    inner = inner_document(html)
    assert "script-src 'none'" in inner
    assert "<p onclick=x>shown</p>" in inner
    assert cleaned.notes == [IN_FRAME, "its scripts were not run (Guard.framed_scripts)"]
    assert scriptless({"text/html": "<style>p{color:red}</style><p>x</p>"}).notes == [IN_FRAME]
    assert "not run" in " ".join(scriptless({"application/javascript": "1", "text/plain": "x"}).notes)


@pytest.mark.parametrize("length", [10, 700_000])
def test_html_that_is_passed_or_cleaned_has_nothing_that_acts(length: int) -> None:
    source = "<td>x</td>" * (length // 10) + "<td <b onmouseover=x>y</b>"
    html = html_of(source)
    assert "onmouseover" not in re.sub(r'srcdoc="[^"]*"', "", html)


@pytest.mark.parametrize(
    "source", ["<b title=1>" * 40_000, "<div class=x>" * 40_000, "<a <" * 100_000, "<a href=1><p>" * 30_000]
)
def test_hostile_html_takes_no_long_time(source: str) -> None:
    began = time.process_time()
    html_of(source)
    markup.clean(source)
    assert time.process_time() - began < 20


def test_javascript_runs_in_a_frame_only() -> None:
    cleaned = clean(
        {"application/javascript": "element.textContent = '</script>'", "text/plain": "<Javascript object>"}
    )
    assert "application/javascript" not in cleaned.data
    assert r"'<\/script>'" in inner_document(cleaned.data["text/html"])
    assert cleaned.data["text/plain"]


@pytest.mark.parametrize(
    ("source", "cleaned"),
    [
        ("**b** <img src=x onerror=alert(1)> $a<b$", "**b** <img> $a<b$"),
        ("a <script>alert(1)</script> b", "a alert(1) b"),
        ("<div onclick=x>\n\n*b*\n\n</div>", "<div>\n\n*b*\n\n</div>"),
        ("> <iframe src=https://e.example></iframe>", "> "),
        ("![a](https://e.example/x) ![b][c]\n\n[c]: https://e.example/y",
         "[a](https://e.example/x) [b][c]\n\n[c]: https://e.example/y"),
        ("[l](javascript:alert(1)) [m](<java&#115;cript:x>)", "[l](#) [m](<#>)"),
        ("[l]: javascript:alert(1)", "[l]: #"),
        ("<javascript:alert(1)>", "<\u200bjavascript:alert(1)>"),
        ("```mermaid\ngraph\n```", "```text\ngraph\n```"),
        ("a\r```mermaid\rgraph\r```", "a\n```text\ngraph\n```"),
        ("- [ ] ~~~ Mermaid x\n  ~~~", "- [ ] ~~~ text x\n  ~~~"),
        ("```" + 60 * " " + "{.mermaid}\n```", "```" + 60 * " " + "{.text}\n```"),
    ],
)  # fmt: skip
def test_markdown_loses_only_what_acts_or_loads(source: str, cleaned: str) -> None:
    assert clean_markdown(source) == (cleaned, True)


def test_code_in_markdown_stays_byte_for_byte() -> None:
    source = "Text\n\n```html\n<img src=x onerror=alert(1)>\n```\n\n`<script>` in code\n\n`<i onclick=x>`\n"
    assert clean_markdown(source).text.replace("\u200b", "") == source
    fence = "Text\n\n```html\n<img src=x onerror=alert(1)>\n```\n"
    assert clean_markdown(fence) == (fence, False)


@pytest.mark.parametrize(
    "source",
    [
        "$ `$<img src=x onerror=y>` $",
        "    <img src=x onerror=y>",
        "`a | <img src=x onerror=y>`",
        "``` <img src=x onerror=y>\n```",
        "<!-- `-->` <img src=x onerror=y>",
        "- a\n\n      <img src=x onerror=y>",
        r"\`<img src=x onerror=y>`",
        '<div "<=x onclick=y>\n',
        "<x$ <img src=x onerror=y>",
        "| a |\n|---|\n| `b | <img src=x onerror=y>` |",
        '<b title="a>b" onclick=x>',
    ],
)
def test_html_that_parsers_may_see_differently_is_broken_for_all(source: str) -> None:
    text = clean_markdown(source).text
    assert re.search(r"<[a-z!/][^>]*(?:onerror|onclick)", text, re.IGNORECASE) is None


@pytest.mark.parametrize("piece", ["<a ", "![", "[a](", "<b x=1>", "`<i x=1", "[[", "\n\n```\n", "<!--", "]:"])
def test_hostile_markdown_takes_no_long_time(piece: str) -> None:
    began = time.process_time()
    clean_markdown(piece * (400_000 // len(piece)))
    assert time.process_time() - began < 20


def test_svg_is_drawn_and_does_nothing_else() -> None:
    source = (
        "<?xml version='1.0'?><svg onload='x' viewBox='0 0 1 1'><script>x</script><style>@import 'https://e.example'</style>"
        "<foreignObject><b>x</b></foreignObject><image href='https://e.example/x'/><use href='#a'/>"
        "<a href='javascript:x'><path d='M0 0' style='fill: url(https://e.example)' fill='url(#g)'/></a>"
        "<set attributeName='href' to='javascript:x'/><text>a &lt; b</text></svg>"
    )
    svg = clean_svg(source)
    for part in ("onload", "script", "e.example", "foreign", "javascript", "<set", "<a"):
        assert part not in svg
    for part in ('viewBox="0 0 1 1"', '<use href="#a">', 'fill="url(#g)"', "a &lt; b"):
        assert part in svg


@pytest.mark.parametrize(
    "source", ["<svg", "<p/>", "<!DOCTYPE svg [<!ENTITY a 'b'>]><svg>&a;</svg>", "<svg>" + "<g>" * 5000]
)
def test_what_is_no_svg_is_replaced_by_a_note(source: str) -> None:
    cleaned = clean({"image/svg+xml": source, "text/plain": "x"})
    assert cleaned.data == {"text/plain": "x"}
    assert "image/svg+xml is not shown" in cleaned.notes[0]


def test_unknown_types_are_replaced_by_their_text_unless_allowed() -> None:
    data = {"application/vnd.other.v1+json": {"html": "<script>"}, "text/plain": "x"}
    assert clean(data).data == {"text/plain": "x"}
    assert clean(data, mime_types=["application/vnd.other.v1+json"]).data == data
    shown, _ = Guard().bundle(data)
    assert shown == {"text/plain": "x\n[sandbox: application/vnd.other.v1+json is not shown (Guard.mime_types)]"}


@pytest.mark.parametrize(
    ("mime", "value"),
    [
        ("application/vnd.plotly.v1+json", {"data": [{"type": "choropleth"}]}),
        ("application/vnd.plotly.v1+json", {"data": [], "layout": {"images": [{"source": "https://e.example"}]}}),
        ("application/vnd.vegalite.v5+json", {"data": {"url": "https://e.example"}, "mark": "bar"}),
        ("application/vnd.vegalite.v5+json", {"mark": {"type": "image"}, "encoding": {}}),
        ("application/vnd.vega.v5+json", {"usermeta": {"embedOptions": {"sourceHeader": "<script>"}}}),
        ("application/vnd.jupyter.widget-view+json", {"model_id": {}}),
        ("image/png", '" onerror="x'),
    ],
)
def test_vendor_data_that_loads_or_acts_is_not_drawn(mime: str, value: Any) -> None:
    assert clean({mime: value, "text/plain": "x"}).data == {"text/plain": "x"}


def test_properties_of_maps_are_cleaned() -> None:
    value = {"type": "Feature", "properties": {"<b onclick=x>name</b>": "<img src=x onerror=y>"}}
    cleaned = clean(
        {"application/geo+json": value}, {"application/geo+json": {"url_template": "https://e.example/{x}"}}
    )
    assert cleaned.data["application/geo+json"]["properties"] == {"<b>name</b>": "<img>"}
    assert cleaned.metadata == {"application/geo+json": {}}


def test_metadata_of_pictures_is_what_exporters_expect() -> None:
    metadata = {
        "image/png": {"width": "1 onload=x", "height": 10, "unconfined": True, "alt": "'>"},
        "filenames": {"image/png": "/etc/passwd"},
        "isolated": "yes",
        "other": {"kept": "<b>"},
    }
    cleaned = clean({"image/png": "AAAA"}, metadata)
    assert cleaned.metadata == {"image/png": {"height": 10, "unconfined": True}, "other": {"kept": "<b>"}}


def test_note_stands_where_it_is_seen() -> None:
    data, _ = Guard().bundle({"text/html": '<img src="https://e.example">', "text/plain": "x"})
    assert data["text/html"] == f'<img><div style="font-size: 80%; opacity: 0.6;">sandbox: {CUT}</div>'
    assert data["text/plain"] == "x"
    data, _ = Guard().bundle({"text/markdown": "<b onclick=x>y</b>", "text/plain": "x"})
    assert data["text/markdown"] == f"<b>y</b>\n\n*sandbox: {CUT}*"


def test_text_beside_a_frame_says_something() -> None:
    data = clean(
        {"text/html": "<style>b{}</style><p>Hello &amp; more</p>", "text/plain": "<IPython.core.display.HTML object>"}
    )
    assert data.data["text/plain"] == "Hello & more"
    data = clean({"text/html": "<script>x</script>"})
    assert data.data["text/plain"] == frames.FALLBACK
    data = clean({"text/html": "<script>x</script>", "text/plain": "Figure(1)"})
    assert data.data["text/plain"] == "Figure(1)"


def test_listed_hosts_may_give_scripts() -> None:
    source = '<script src="https://cdn.plot.ly/plotly.min.js"></script>'
    assert clean({"text/html": source}).notes == [
        IN_FRAME,
        "scripts from cdn.plot.ly were not loaded (Guard.script_hosts)",
    ]
    allowed = clean({"text/html": source}, script_hosts=["https://cdn.plot.ly"])
    assert allowed.notes == [IN_FRAME]
    assert "'unsafe-eval' https://cdn.plot.ly;" in inner_document(allowed.data["text/html"])


# ---- what people use


def test_data_frames_pass_unchanged_and_quickly() -> None:
    pandas = pytest.importorskip("pandas")
    html = pandas.DataFrame({"a": [1, 2], "b": ["x<y", "&"]})._repr_html_()
    assert clean({"text/html": html}).data == {"text/html": html}
    large = pandas.DataFrame([[row * column for column in range(8)] for row in range(10_000)])
    html = large.to_html()
    assert len(html) > 1_500_000
    assert markup.judge(html) == (html, markup.Verdict.SAME)


def test_styled_tables_keep_their_style_in_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    styler = pandas.DataFrame({"a": [1, 2]}).style.highlight_max(color="red")
    html = clean({"text/html": styler._repr_html_()}).data["text/html"]
    assert "background-color: red" in inner_document(html)


def test_figures_of_matplotlib_stay_complete_as_svg() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label="a & b")
    axes.imshow([[1, 2], [3, 4]])
    axes.legend()
    file = io.StringIO()
    figure.savefig(file, format="svg")
    source = file.getvalue()
    svg = clean_svg(source)
    assert matplotlib.__version__
    for tag in ("<path", "<use", "<image", "<clipPath", "<g"):
        assert svg.count(tag) == source.count(tag)
    assert (
        svg.count("xlink:href=") == len(re.findall(r"xlink:href=", source)) == svg.count("<use") + svg.count("<image")
    )
    assert "stroke-linejoin: round" in svg


def test_sound_and_pictures_by_data_urls_are_kept() -> None:
    from IPython.display import Audio, Image

    sound = html_of(Audio(b"RIFF", embed=True, rate=8000)._repr_html_())  # type: ignore[no-untyped-call]
    assert '<source src="data:audio/' in sound
    data = base64.b64encode(b"\x89PNG").decode()
    assert clean({"image/png": data, "text/plain": repr(Image)}).data["image/png"] == data


@pytest.mark.parametrize("library", ["plotly", "altair", "bokeh"])
def test_plots_with_their_library_inside_go_into_frames(library: str) -> None:
    pytest.importorskip(library)
    html = {"plotly": plotly_html, "altair": altair_html, "bokeh": bokeh_html}[library]()
    cleaned = clean({"text/html": html, "text/plain": "plot"})
    assert cleaned.notes[0] == IN_FRAME
    assert cleaned.data["text/plain"] == "plot"
    assert html in inner_document(cleaned.data["text/html"])


def plotly_html() -> str:
    from plotly.graph_objects import Bar, Figure

    html: str = Figure(Bar(y=[1, 2])).to_html(include_plotlyjs=True)
    return html


def altair_html() -> str:
    import altair as alt
    import pandas as pd

    html: str = alt.Chart(pd.DataFrame({"a": [1, 2]})).mark_bar().encode(x="a").to_html()
    return html


def bokeh_html() -> str:
    from bokeh.embed import file_html
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    plot = figure(height=250)
    plot.line([1, 2], [3, 4])
    html: str = file_html(plot, INLINE, "plot")
    return html


def test_plots_as_data_are_drawn_by_the_front_end() -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("altair")
    import altair as alt
    import pandas as pd
    from plotly.graph_objects import Bar, Figure

    figure = json.loads(Figure(Bar(y=[1, 2])).to_json())
    assert clean({"application/vnd.plotly.v1+json": figure}).notes == []
    spec = alt.Chart(pd.DataFrame({"a": [1, 2]})).mark_bar().encode(x="a").to_dict()
    assert clean({"application/vnd.vegalite.v5+json": spec}).notes == []


def test_library_that_bokeh_loads_is_there_in_the_frames_of_its_plots() -> None:
    guard = BundleGuard([], [])
    load = "application/vnd.bokehjs_load.v0+json"
    loaded = guard.clean({"application/javascript": "var Bokeh = 1;", load: "var Bokeh = 1;"}, {})
    assert list(loaded.data) == ["text/plain"]
    script = 'embed({"roots":{"p1":"place-1"}})'
    shown = guard.clean({"application/javascript": script, "application/vnd.bokehjs_exec.v0+json": ""}, {})
    document = inner_document(shown.data["text/html"])
    assert (
        document.index('<div id="place-1" data-root-id="p1"')
        < document.index("var Bokeh = 1;")
        < document.index(script)
    )


@pytest.mark.parametrize("chart", ["https://e.example/chart.json", ["https://e.example/chart.json"], None])
def test_charts_that_are_addresses_are_not_shown(chart: object) -> None:
    assert "application/vnd.vegalite.v5+json" not in clean({"application/vnd.vegalite.v5+json": chart}).data


@pytest.mark.parametrize("change", [{"images[0].source": "https://e.example/x.png"}, {"type": "scattergeo"}])
def test_what_a_plots_buttons_would_load_is_refused(change: Json) -> None:
    button = {"method": "update", "args": [change]}
    figure = {"data": [], "layout": {"updatemenus": [{"buttons": [button]}]}}
    assert "application/vnd.plotly.v1+json" not in clean({"application/vnd.plotly.v1+json": figure}).data


def test_a_widgets_view_is_named_by_an_id() -> None:
    mime = "application/vnd.jupyter.widget-view+json"
    assert mime not in clean({mime: {"model_id": "</script><img src=x onerror=y>"}}).data
    assert mime in clean({mime: {"model_id": "0c1d2e", "version_major": 2}}).data


def test_charts_whose_tooltips_could_name_a_picture_are_not_shown() -> None:
    mime = "application/vnd.vegalite.v5+json"
    pivot = {"mark": {"type": "rect", "tooltip": {"content": "data"}}, "transform": [{"pivot": "k", "value": "v"}]}
    by_expression = {**pivot, "mark": {"type": "rect", "tooltip": {"expr": "datum"}}}
    computed = {"transform": [{"calculate": "1", "as": {"signal": "'im' + 'age'"}}]}
    for chart in (pivot, by_expression, computed):
        assert mime not in clean({mime: chart}).data
    named = {**pivot, "mark": "rect", "encoding": {"tooltip": [{"field": "a"}]}, "params": [{"expr": "datum.a > 1"}]}
    assert mime in clean({mime: named}).data
