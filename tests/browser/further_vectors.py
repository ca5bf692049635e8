"""More hostile outputs, found by reading the guard: see `attack_vectors` for the words in them. Data only."""

from __future__ import annotations

WRITES, TOP, COOKIE, REQUESTS = "writes", "top", "cookie", "requests"
SCRIPT = frozenset({WRITES, TOP, COOKIE, REQUESTS})
FETCH = frozenset({REQUESTS})
HELD: frozenset[str] = frozenset()
"""By the front end itself, whatever the guard does."""

PAGES: dict[str, tuple[str, frozenset[str]]] = {
    "link-preconnect-slashes": ("<LINK/rel='dns-prefetch preconnect'/href=http://127.0.0.1:@PORT@/ >", FETCH),
    "link-dictionary": ('<link rel="compression-dictionary" href="@URL@/dictionary">', FETCH),
    "attribution": ('<img src="data:," attributionsrc="@URL@/attribution">', HELD),
    "lazy-image": ('<img loading="lazy" src="@URL@/lazy.png">', FETCH),
    "xmp-mutation": ('<xmp><p title="</xmp><img src=x onerror=@JS@>"></xmp>', SCRIPT),
    "annotation-mutation": (
        '<math><annotation-xml encoding="text/html"><img src=x onerror="@JS@"></annotation-xml></math>',
        SCRIPT,
    ),
    "form-mutation": (
        '<form><math><mtext></form><form><mglyph><style></math><img src onerror="@JS@">',
        HELD,
    ),
    "style-block-in-tag": (
        '<p<style scoped>.dataframe tbody { text-align: left; }</style> class="data"><img src=x onerror="@JS@">',
        SCRIPT,
    ),
    "meta-in-body": ('<meta http-equiv="delegate-ch" content="sec-ch-ua @URL@"><p>x</p>', HELD),
    "popover": (
        '<button popovertarget="p-@NAME@">bait</button><div popover id="p-@NAME@" onbeforetoggle="@JS@">x</div>',
        SCRIPT,
    ),
    "content-visibility": (
        '<p style="content-visibility:auto" oncontentvisibilityautostatechange="@JS@">x</p>',
        SCRIPT,
    ),
}
"""HTML that is displayed as it stands."""

MARKDOWN: dict[str, tuple[str, frozenset[str]]] = {
    "mermaid-after-return": (
        '\'text\\r\\r```mermaid\\rflowchart TD\\r  A@{ img: "@URL@/m.png", label: "x", h: 60 }\\r```\\r\'',
        FETCH,
    ),
    "mermaid-in-task": (
        '\'- [ ] ```mermaid\\n  flowchart TD\\n    A@{ img: "@URL@/m.png", label: "x", h: 60 }\\n  ```\'',
        HELD,
    ),
    "mermaid-far": (
        "'```' + 60 * ' ' + 'mermaid\\nflowchart TD\\n  A@{ img: \"@URL@/m.png\", label: \"x\", h: 60 }\\n```'",
        FETCH,
    ),
    "mermaid-entity": (
        '\'```&#109;ermaid\\nflowchart TD\\n  A@{ img: "@URL@/m.png", label: "x", h: 60 }\\n```\'',
        HELD,
    ),
    "mermaid-escaped": (
        '\'```\\\\mermaid\\nflowchart TD\\n  A@{ img: "@URL@/m.png", label: "x", h: 60 }\\n```\'',
        HELD,
    ),
    "mermaid-tilde-info": (
        '\'~~~ mermaid title\\nflowchart TD\\n  A@{ img: "@URL@/m.png", label: "x", h: 60 }\\n~~~\'',
        HELD,
    ),
    "html-after-return": ("'text\\r\\r' + SCRIPTED", SCRIPT),
    "html-in-heading": ("'# a ' + SCRIPTED + ' {#jupyter-config-data}'", SCRIPT),
    "html-in-footnote": ("'a[^1]\\n\\n[^1]: ' + SCRIPTED", HELD),
    "html-in-alt": ("'![' + SCRIPTED + '](data:image/png;base64,AA==)'", HELD),
    "link-data": ("'[bait](data:text/html;base64,PHNjcmlwdD4=)'", HELD),
    "link-entity": ("'[bait](&#106;avascript&colon;@JS@)'", HELD),
    "link-reference": ("'[bait][r]\\n\\n[r]:\\n  javascript:@JS@'", HELD),
    "image-in-link": ("'[![x](@URL@/inner.png)](https://e.example)'", FETCH),
    "image-after-return": ("'text\\r\\r![x\\r](@URL@/i.png)'", FETCH),
    "image-reference-multiline": ("'![x][ r\\n s ]\\n\\n[r s]:\\n@URL@/i.png'", HELD),
    "image-angle": ("'![x](<@URL@/a b.png>)'", FETCH),
    "image-nested-brackets": ("'![a[b]c](@URL@/i.png)'", FETCH),
    "image-data-then-remote": ("'![x](data:image/png;base64,AA==)![y](@URL@/second.png)'", FETCH),
    "math-html": ("'$$\\\\text{' + SCRIPTED + '}$$'", HELD),
}

LATEX: dict[str, tuple[str, frozenset[str]]] = {
    "mml-token": (r"r'$\mmlToken{mi}[href=\"javascript:@JS@\"]{bait}$'", HELD),
    "box": (r"r'$\bbox[background:url(@URL@/box.png)]{x}$'", HELD),
    "box-border": (r"r'$\bbox[border:1px solid;background-image:url(@URL@/box.png)]{x}$'", HELD),
    "unicode": (r"r'$\unicode[url(@URL@/font)]{x41}$'", HELD),
    "class": (r"r'$\class{jp-mod-active}{\cssId{jupyter-config-data}{x}}$'", HELD),
    "tip": (r"r'$\texttip{x}{' + SCRIPTED + '}$'", HELD),
}

OTHER: dict[str, tuple[str, frozenset[str]]] = {
    "html-update-later": (
        (
            "forge('display_data', {'data': {'text/plain': 'x'}, 'metadata': {}, 'transient': {'display_id': 'l-@NAME@'}})\n"
            "forge('update_display_data', {'data': {'text/html': SCRIPTED}, 'metadata': {}, 'transient': {'display_id': 'l-@NAME@'}})"
        ),
        SCRIPT,
    ),
    "json-html": ("show({'application/json': {SCRIPTED: [SCRIPTED, {'__html': SCRIPTED}]}, 'text/plain': 'x'})", HELD),
    "image-html": ("show({'image/png': 'x\" onerror=\"@JS@', 'text/plain': 'x'})", HELD),
    "image-sized": (
        (
            "show({'image/png': 'AA==', 'text/plain': 'x'}, {'image/png': {'width': '9\" onerror=\"@JS@',"
            " 'alt': '\"><img src=x onerror=\"@JS@\">'}})"
        ),
        HELD,
    ),
    "unknown-text": ("show({'text/x-html': SCRIPTED, 'application/xhtml+xml': SCRIPTED, 'text/plain': 'x'})", HELD),
    "notebook-of-notebook": (
        "show({'application/x-ipynb+json': {'cells': []}, 'application/vnd.jupyter.cells': [], 'text/plain': 'x'})",
        HELD,
    ),
    "metadata-isolated-parts": (
        "show({'text/html': SCRIPTED, 'text/plain': 'x'}, {'isolated': True, 'trusted': True, 'text/html': {'trusted': True}})",
        SCRIPT,
    ),
    "vega-embed-options": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'data': {'values': [{'a': 1}]}, 'mark': 'point', 'encoding': {}}, 'text/plain': 'x'},"
            "{'application/vnd.vegalite.v5+json': {'embed_options': {'config': '@URL@/config.json', 'patch': '@URL@/patch.json'}}})"
        ),
        FETCH,
    ),
    "vega-user-meta": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'usermeta': {'embedOptions': {'config': '@URL@/config.json'}},"
            "'data': {'values': [{'a': 1}]}, 'mark': 'point', 'encoding': {}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vega-tooltip": (
        (
            "spec = {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json', 'width': 300, 'height': 200,"
            "'data': {'values': [{'k': 'im~age', 'v': '@URL@/tip.png'.replace('://', '~://')}]}, 'transform': ["
            "{'calculate': \"replace(datum.k, '~', '')\", 'as': 'k2'}, {'calculate': \"replace(datum.v, '~', '')\", 'as': 'v2'},"
            "{'pivot': 'k2', 'value': 'v2', 'op': 'max'}], 'mark': {'type': 'rect', 'tooltip': {'content': 'data'}},"
            "'encoding': {'x': {'value': 0}, 'x2': {'value': 300}, 'y': {'value': 0}, 'y2': {'value': 200}}}\n"
            "show({'application/vnd.vegalite.v5+json': spec, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vega-schema": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': '@URL@/schema.json',"
            "'data': {'values': [{'a': 1}]}, 'mark': 'point', 'encoding': {}}, 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "vega-is-address": ("show({'application/vnd.vegalite.v5+json': '@URL@/spec.json', 'text/plain': 'x'})", FETCH),
    "vega-link": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'data': {'values': [{'u': 'javascript:@JS@'}]}, 'mark': {'type': 'text', 'text': 'bait'},"
            "'encoding': {'href': {'field': 'u'}}}, 'text/plain': 'x'}, "
            "{'application/vnd.vegalite.v5+json': {'embed_options': {'renderer': 'svg'}}})"
        ),
        HELD,
    ),
    "plotly-button-image": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'x': [1], 'y': [1]}], 'layout': {'images': [{'source': 'data:,',"
            "'xref': 'paper', 'yref': 'paper', 'x': 0, 'y': 1, 'sizex': 1, 'sizey': 1}], 'updatemenus': [{'type': 'buttons',"
            "'buttons': [{'label': 'bait', 'method': 'relayout', 'args': [{'images[0].source': '@URL@/button.png'}]}]}]}},"
            " 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "plotly-button-map": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'x': [1], 'y': [1]}], 'config': {}, 'layout': {"
            "'updatemenus': [{'type': 'buttons',"
            "'buttons': [{'label': 'bait', 'method': 'restyle', 'args': [{'type': 'scattergeo', 'lat': [[1]], 'lon': [[1]]}]}]}]}},"
            " 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "plotly-frame-image": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'x': [1], 'y': [1]}], 'layout': {}, 'frames': [{'layout': {'images': [{"
            "'source': '@URL@/frame.png', 'xref': 'paper', 'yref': 'paper', 'x': 0, 'y': 1, 'sizex': 1, 'sizey': 1}]}}]},"
            " 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "plotly-annotation": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [], 'layout': {'annotations': [{'text': "
            "'<a href=\"javascript:@JS@\">bait</a>', 'x': 0, 'y': 0}]}}, 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "plotly-trace-image": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'type': 'image', 'source': '@URL@/trace.png'}], 'layout': {}},"
            " 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "plotly-config-locale": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'x': [1], 'y': [1]}], 'layout': {'font': {'family': "
            "'url(@URL@/font)'}, 'paper_bgcolor': 'url(@URL@/paper)'}, 'config': {'locale': '@URL@'}}, 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "geojson": (
        (
            "show({'application/geo+json': {'type': 'Feature', 'geometry': {'type': 'Point', 'coordinates': [1, 1]},"
            "'properties': {'name': SCRIPTED}}, 'text/plain': 'x'},"
            " {'application/geo+json': {'url_template': '@URL@/{z}/{x}/{y}.png'}})"
        ),
        HELD,
    ),
    "pdf-uri": (
        (
            "pdf = b'%PDF-1.7\\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/URI/URI(@URL@/pdf)>>>>endobj\\n"
            "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\\n"
            "trailer<</Root 1 0 R>>'\n"
            "show({'application/pdf': base64.b64encode(pdf).decode(), 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "pdf-script": (
        (
            'pdf = b\'%PDF-1.7\\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.launchURL\\\\("@URL@/js"\\\\);'
            'this.submitForm\\\\("@URL@/submit"\\\\);)>>>>endobj\\n'
            "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\\n"
            "trailer<</Root 1 0 R>>'\n"
            "show({'application/pdf': base64.b64encode(pdf).decode(), 'text/plain': 'x'})"
        ),
        HELD,
    ),
    "stream-link-schemes": (
        (
            "for scheme in ('data:text/html,<script>@JS@</script>', 'vbscript:x', 'file:///etc/passwd', 'jupyter:x',"
            " 'javascript&colon;@JS@', ' javascript:@JS@'):\n"
            "    print(f'\\x1b]8;;{scheme}\\x1b\\\\bait\\x1b]8;;\\x1b\\\\')"
        ),
        HELD,
    ),
    "stream-escapes-in-tags": (
        'print(\'<img src=x \\x1b[31monerror="@JS@"\\x1b[0m> \\x1b[38;2;1;2;3"onmouseover="@JS@"mx\\x1b[0m\')',
        HELD,
    ),
    "stream-terminal-queries": (
        "print('\\x1b]52;c;QUJD\\x07\\x1b]1337;File=inline=1:AA==\\x07\\x1bP+q544e\\x1b\\\\')",
        HELD,
    ),
    "traceback-path": (
        (
            "forge('error', {'ename': 'E', 'evalue': '', 'traceback': ['File \"><img src=x onerror=\"@JS@\">:1',"
            " 'Input \\x1b[0;32mIn [1]\\x1b[0m <img/onerror=\"@JS@\"/src=x>', '\\x1b]8;;javascript:@JS@\\x07bait\\x1b]8;;\\x07']})"
        ),
        HELD,
    ),
    "execute-input": (
        "forge('execute_input', {'code': SCRIPTED, 'execution_count': 7})\nforge('clear_output', {'wait': True})",
        HELD,
    ),
    "debug-event": (
        (
            "forge('debug_event', {'seq': 1, 'type': 'event', 'event': 'stopped', 'body': {'reason': SCRIPTED, 'threadId': 1}})\n"
            "forge('debug_event', {'seq': 2, 'type': 'event', 'event': 'output', 'body': {'output': SCRIPTED}})"
        ),
        HELD,
    ),
    "pager-markdown": (
        (
            "get_ipython().payload_manager.write_payload({'source': 'page', 'start': 0,"
            "'data': {'text/markdown': '![x](@URL@/page.png)', 'text/plain': 'x'}})"
        ),
        FETCH,
    ),
    "user-payload": (
        (
            "get_ipython().payload_manager.write_payload({'source': 'edit_magic', 'filename': '/etc/passwd', 'line_number': 1})\n"
            "get_ipython().payload_manager.write_payload({'source': 'load_file', 'text': SCRIPTED})"
        ),
        HELD,
    ),
}

WIDGETS: dict[str, tuple[str, frozenset[str]]] = {
    "html-list": ("show_model(open_comm({'value': [SCRIPTED]}))", SCRIPT),
    "html-nested-list": ("show_model(open_comm({'value': [[[SCRIPTED]]]}))", SCRIPT),
    "htmlmath-list": (
        "show_model(open_comm({'value': [SCRIPTED]}, model='HTMLMathModel', view='HTMLMathView'))",
        SCRIPT,
    ),
    "html-list-updated": (
        (
            "c = open_comm({'value': 'x'}); show_model(c)\n"
            "forge('comm_msg', {'comm_id': c, 'data': {'method': 'update', 'state': {'value': [SCRIPTED]}, 'buffer_paths': []}})"
        ),
        SCRIPT,
    ),
    "html-update-before-open": (
        (
            "c = uuid.uuid4().hex\n"
            "forge('comm_msg', {'comm_id': c, 'data': {'method': 'update', 'state': {'value': SCRIPTED}, 'buffer_paths': []}})\n"
            "show_model(c)"
        ),
        HELD,
    ),
    "html-reopened": (
        (
            "c = open_comm({'value': 'x'}, model='LabelModel', view='LabelView')\n"
            "forge('comm_close', {'comm_id': c, 'data': {}})\n"
            "forge('comm_open', {'comm_id': c, 'target_name': 'jupyter.widget', 'data': {'state': {'value': [SCRIPTED],"
            "'_model_module': '@jupyter-widgets/controls', '_model_module_version': '2.0.0', '_model_name': 'HTMLModel',"
            "'_view_module': '@jupyter-widgets/controls', '_view_module_version': '2.0.0', '_view_name': 'HTMLView'},"
            "'buffer_paths': []}}, metadata={'version': '2.1.0'})\n"
            "show_model(c)"
        ),
        SCRIPT,
    ),
    "style-list": (
        (
            "s = open_comm({'background': ['url(@URL@/list.png)'], '_view_module': '@jupyter-widgets/base'}, model='LabelStyleModel', view='StyleView')\n"
            "show_model(open_comm({'value': 'x', 'style': 'IPY_MODEL_' + s}, model='LabelModel', view='LabelView'))"
        ),
        FETCH,
    ),
    "style-object": (
        (
            "s = open_comm({'background': [['url(@URL@/nested.png)']], '_view_module': '@jupyter-widgets/base'}, model='HTMLStyleModel', view='StyleView')\n"
            "show_model(open_comm({'value': 'x', 'style': 'IPY_MODEL_' + s}))"
        ),
        FETCH,
    ),
    "button-colour": (
        "w = widgets.Button(description='b'); w.style.button_color = 'url(@URL@/button.png)'; display(w)",
        HELD,
    ),
    "bar-colour": (
        "w = widgets.IntProgress(5); w.style.bar_color = 'url(@URL@/bar.png)'; display(w)",
        HELD,
    ),
    "layout-list": (
        (
            "s = open_comm({'border_top': ['url(@URL@/border.png)'], 'grid_template_areas': ['url(@URL@/grid.png)']},"
            " model='LayoutModel', view='LayoutView', module='@jupyter-widgets/base')\n"
            "show_model(open_comm({'value': 'x', 'layout': 'IPY_MODEL_' + s}, model='LabelModel', view='LabelView'))"
        ),
        HELD,
    ),
    "description-list": (
        "show_model(open_comm({'value': 'x', 'description': [SCRIPTED], 'description_allow_html': [True]}, model='TextModel', view='TextView'))",
        HELD,
    ),
    "tags": ("display(widgets.TagsInput(value=[SCRIPTED, 'b'], tag_style='danger'))", HELD),
    "colours": (
        "show_model(open_comm({'value': ['url(@URL@/colour.png)'], 'tag_style': ''}, model='ColorsInputModel', view='ColorsInputView'))",
        HELD,
    ),
    "combobox": ("display(widgets.Combobox(options=[SCRIPTED], description='x', value=SCRIPTED))", HELD),
    "upload": ("display(widgets.FileUpload(description=SCRIPTED, accept=SCRIPTED, icon=SCRIPTED))", HELD),
    "button-icon": (
        "display(widgets.Button(description=SCRIPTED, icon='x\" onmouseover=\"@JS@', tooltip=SCRIPTED))",
        HELD,
    ),
    "text-values": (
        "display(widgets.Textarea(SCRIPTED), widgets.Password(value=SCRIPTED), widgets.Text(SCRIPTED, placeholder=SCRIPTED))",
        HELD,
    ),
    "selection-slider": ("display(widgets.SelectionSlider(options=[SCRIPTED, 'b'], description='x'))", HELD),
    "play": ("display(widgets.Play(description=SCRIPTED), widgets.DatePicker(description=SCRIPTED))", HELD),
    "readout-format": (
        (
            "show_model(open_comm({'value': 1, 'readout_format': SCRIPTED, 'readout': True, 'min': 0, 'max': 9, 'step': 1,"
            " 'orientation': 'horizontal'}, model='IntSliderModel', view='IntSliderView'))"
        ),
        HELD,
    ),
    "controller": (
        "show_model(open_comm({'name': SCRIPTED, 'mapping': SCRIPTED, 'index': 0}, model='ControllerModel', view='ControllerView'))",
        HELD,
    ),
    "media-format": (
        (
            "display(widgets.Image(value=b'x', format='png\" onerror=\"@JS@'), widgets.Video(value=b'x', format='mp4\"><img src=x "
            "onerror=\"@JS@\">'), widgets.Audio(value=b'x', format='\" onerror=\"@JS@'))"
        ),
        HELD,
    ),
    "media-format-updated": (
        "w = widgets.Image(value=b'@URL@/later.png', format='png'); display(w); w.format = 'url'",
        FETCH,
    ),
    "media-format-list": (
        ("c = open_comm({'value': None, 'format': ['url']}, model='ImageModel', view='ImageView')\nshow_model(c)"),
        HELD,
    ),
    "error-model": (
        (
            "show_model(open_comm({'msg': SCRIPTED, 'error': {'stack': SCRIPTED, 'message': SCRIPTED}},"
            " model='ErrorWidgetModel', view='ErrorWidgetView', module='@jupyter-widgets/base'))"
        ),
        HELD,
    ),
    "unknown-class": (
        (
            "show_model(open_comm({'value': SCRIPTED}, model='NoSuchModel', view='NoSuchView'))\n"
            "show_model(open_comm({'value': SCRIPTED}, model='HTMLModel', view='constructor'))"
        ),
        HELD,
    ),
    "custom-message": (
        (
            "c = open_comm({'value': 'x'}); show_model(c)\n"
            "for content in ({'do': 'focus'}, {'html': SCRIPTED}, SCRIPTED):\n"
            "    forge('comm_msg', {'comm_id': c, 'data': {'method': 'custom', 'content': content}})"
        ),
        HELD,
    ),
    "dom-classes": (
        "w = widgets.Label('x'); w.add_class('jp-mod-hasPendingInput'); w.add_class(SCRIPTED); display(w)",
        HELD,
    ),
    "output-nested": (
        (
            "inner = widgets.Output(); outer = widgets.Output(); display(outer)\n"
            "with outer:\n    display(inner)\n"
            "inner.outputs = ({'output_type': 'execute_result', 'execution_count': 1, 'data': {'text/html': SCRIPTED,"
            " 'text/markdown': SCRIPTED, 'text/plain': 'x'}, 'metadata': {}},)"
        ),
        SCRIPT,
    ),
    "output-error": (
        (
            "o = widgets.Output(); display(o)\n"
            "o.outputs = ({'output_type': 'error', 'ename': SCRIPTED, 'evalue': SCRIPTED, 'traceback': [SCRIPTED]},"
            " {'output_type': 'stream', 'name': 'stdout', 'text': SCRIPTED})"
        ),
        HELD,
    ),
    "output-update-type": (
        (
            "o = widgets.Output(); display(o)\n"
            "o.outputs = ({'output_type': 'update_display_data', 'data': {'text/html': SCRIPTED, 'text/plain': 'x'},"
            " 'metadata': {}, 'transient': {}},)"
        ),
        SCRIPT,
    ),
    "output-other-model": (
        (
            "show_model(open_comm({'outputs': [{'output_type': 'display_data', 'data': {'text/html': [SCRIPTED]}, 'metadata': {}}],"
            " 'msg_id': '', '_model_module_version': '1.0.0', '_view_module_version': '1.0.0'}, model='OutputModel', view='OutputView', module='@jupyter-widgets/output'))"
        ),
        SCRIPT,
    ),
    "link-into-html": (
        (
            "a = widgets.Text(SCRIPTED); b = widgets.HTML('x'); display(a, b)\n"
            "widgets.jslink((a, 'value'), (b, 'value'))"
        ),
        SCRIPT,
    ),
    "link-before-target": (
        (
            "a = widgets.Text(SCRIPTED); c = uuid.uuid4().hex\n"
            "l = open_comm({'source': ['IPY_MODEL_' + a.model_id, 'value'], 'target': ['IPY_MODEL_' + c, 'value']},"
            " model='LinkModel', view='LinkModel')\n"
            "b = widgets.HTML('x'); display(a, b)\n"
            "forge('comm_msg', {'comm_id': l, 'data': {'method': 'update', 'state': {'target': ['IPY_MODEL_' + b.model_id, 'value']},"
            " 'buffer_paths': []}})"
        ),
        HELD,
    ),
    "view-of-model-changed": (
        (
            "c = open_comm({'value': [SCRIPTED]}, model='LabelModel', view='LabelView')\n"
            "forge('display_data', {'data': {'text/plain': 'w', 'application/vnd.jupyter.widget-view+json':"
            " {'version_major': 2, 'version_minor': 0, 'model_id': c, 'view_name': 'HTMLView'}}, 'metadata': {}, 'transient': {}})"
        ),
        HELD,
    ),
}
