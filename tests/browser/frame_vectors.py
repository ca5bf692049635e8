"""Scripts in a frame that try to get out of it: see `attack_vectors` for the words in them. Data only."""

from __future__ import annotations

from .further_vectors import FETCH, HELD

_PRECONNECT = "l.rel='preconnect';l.href='http://127.0.0.1:@PORT@';document.head.append(l)"
_LINK = r"\x3clink rel=preconnect href=http://127.0.0.1:@PORT@/\x3e"
_RTC = (
    r"'\x3cscript\x3ec=new RTCPeerConnection({iceServers:[{urls:`turn:127.0.0.1:@PORT@?transport=tcp`,username:`1`,"
    r"credential:`1`}]});c.createDataChannel(`1`);c.setLocalDescription()\x3c/script\x3e'"
)

IN_FRAMES: dict[str, tuple[str, frozenset[str]]] = {
    # Links, by every way in which an element can be made.
    "link-upper-case": (f"var l=document.createElement('LiNK');{_PRECONNECT}", FETCH),
    "link-prefixed": (f"var l=document.createElementNS('http://www.w3.org/1999/xhtml','p:link');{_PRECONNECT}", FETCH),
    "link-name-changes": (
        f"var n=0,l=document.createElement({{toString:function(){{return n++?'div':'link'}}}});{_PRECONNECT}",
        FETCH,
    ),
    "link-of-other-document": (
        f"var l=document.implementation.createHTMLDocument('').createElement('link');{_PRECONNECT}",
        FETCH,
    ),
    "link-is-document": (
        f"var l=document.implementation.createDocument('http://www.w3.org/1999/xhtml','link').documentElement;{_PRECONNECT}",
        FETCH,
    ),
    "link-inserted": (f"document.head.insertAdjacentHTML('beforeend','{_LINK}')", FETCH),
    "link-written": (f"var d=document.createElement('div');document.body.append(d);d.innerHTML='{_LINK}'", FETCH),
    "link-fragment": (f"document.head.append(document.createRange().createContextualFragment('{_LINK}'))", FETCH),
    "link-parsed": (
        f"document.head.append(new DOMParser().parseFromString('{_LINK}','text/html').querySelector('link'))",
        FETCH,
    ),
    "link-xml": (
        (
            r"document.head.append(new DOMParser().parseFromString('\x3cp:link xmlns:p=`http://www.w3.org/1999/xhtml` "
            r"rel=`preconnect` href=`http://127.0.0.1:@PORT@/`/\x3e'.replaceAll('`',String.fromCharCode(34)),"
            r"'text/xml').documentElement)"
        ),
        FETCH,
    ),
    "link-template": (
        (
            f"var t=document.createElement('template');t.innerHTML='{_LINK}';"
            "document.head.append(t.content.cloneNode(true))"
        ),
        FETCH,
    ),
    "link-set-html": (
        f"var d=document.createElement('div');document.body.append(d);d.setHTML('{_LINK}',{{sanitizer:{{elements:[{{name:'link',attributes:['rel','href']}}]}}}})",
        FETCH,
    ),
    "link-parse-html": (
        f"document.head.append(Document.parseHTMLUnsafe('{_LINK}').querySelector('link'))",
        FETCH,
    ),
    "link-edited": (
        (
            "var e=document.createElement('div');e.contentEditable=true;document.body.append(e);e.focus();"
            f"getSelection().selectAllChildren(e);document.execCommand('insertHTML',false,'{_LINK}')"
        ),
        HELD,
    ),
    "link-extended": (
        (
            "customElements.define('x-l-@NAME@',class extends HTMLLinkElement{},{extends:'link'});"
            f"var l=document.createElement('link',{{is:'x-l-@NAME@'}});{_PRECONNECT}"
        ),
        FETCH,
    ),
    "link-constructed": (
        (
            "class L extends HTMLLinkElement{};customElements.define('y-l-@NAME@',L,{extends:'link'});"
            f"var l=new L();{_PRECONNECT}"
        ),
        FETCH,
    ),
    "link-dns": (
        "var l=document.createElement('link');l.rel='dns-prefetch preconnect';l.href='//127.0.0.1:@PORT@';document.head.append(l)",
        FETCH,
    ),
    # What the output's scripts may do to the functions that guard the frame.
    "policy-makes-srcdoc": (
        f"var f=document.createElement('iframe');f.srcdoc=trustedTypes.defaultPolicy.createHTML({_RTC});document.body.append(f)",
        HELD,
    ),
    "methods-replaced": (
        (
            "var r=String.prototype.replace,i=String.prototype.indexOf,t=RegExp.prototype.test,x=RegExp.prototype.exec;"
            "String.prototype.replace=function(){return this};String.prototype.indexOf=function(){return -1};"
            "RegExp.prototype.test=function(){return false};RegExp.prototype.exec=function(){return null};"
            f"try{{var f=document.createElement('iframe');f.srcdoc={_RTC};document.body.append(f);"
            f"document.body.insertAdjacentHTML('beforeend','{_LINK}')}}finally{{"
            "String.prototype.replace=r;String.prototype.indexOf=i;RegExp.prototype.test=t;RegExp.prototype.exec=x}"
        ),
        FETCH,
    ),
    "attribute-moved": (
        (
            f"var d=document.createElement('div');d.setAttribute('srcdoc',{_RTC});"
            "var a=d.removeAttributeNode(d.getAttributeNode('srcdoc'));"
            "var f=document.createElement('iframe');f.setAttributeNode(a);document.body.append(f)"
        ),
        FETCH,
    ),
    "attribute-set-later": (
        (
            "var f=document.createElement('iframe');var a=document.createAttribute('srcdoc');f.setAttributeNode(a);"
            f"a.nodeValue={_RTC};document.body.append(f)"
        ),
        FETCH,
    ),
    "frame-connects": (
        (
            "var f=document.createElement('iframe');f.src='http://127.0.0.1:@PORT@/';document.body.append(f);"
            "setTimeout(function(){f.remove()},500)"
        ),
        FETCH,
    ),
    "object-connects": (
        (
            "var o=document.createElement('object');o.data='http://127.0.0.1:@PORT@/';document.body.append(o);"
            "setTimeout(function(){o.remove()},500)"
        ),
        FETCH,
    ),
    "worklet": ("CSS.paintWorklet.addModule('@URL@/paint.js')", FETCH),
    "audio-worklet": ("new AudioContext().audioWorklet.addModule('@URL@/audio.js')", FETCH),
    "svg-link": (
        (
            "var a=document.createElementNS('http://www.w3.org/2000/svg','image');a.setAttribute('href','@URL@/i.svg');"
            "var s=document.createElementNS('http://www.w3.org/2000/svg','svg');s.append(a);document.body.append(s)"
        ),
        FETCH,
    ),
    "fetch-later": ("fetchLater('@URL@/later',{activateAfter:0})", FETCH),
    "adopted-style": (
        (
            "var s=new CSSStyleSheet();s.replaceSync('p{background:url(@URL@/c)}');document.adoptedStyleSheets.push(s);"
            "document.body.append(document.createElement('p'))"
        ),
        FETCH,
    ),
    "video-track": (
        (
            "var v=document.createElement('video'),t=document.createElement('track');t.default=true;t.src='@URL@/t.vtt';"
            "v.append(t);v.src='data:video/mp4,x';document.body.append(v);t.track.mode='showing'"
        ),
        FETCH,
    ),
}
"""Scripts in HTML."""

CONNECTING: dict[str, str] = {
    "location": "location='http://127.0.0.1:@PORT@/'",
    "location-secure": "location='https://127.0.0.1:@PORT@/'",
    "link": "var a=document.createElement('a');a.href='http://127.0.0.1:@PORT@/';document.body.append(a);a.click()",
    "download": (
        "var a=document.createElement('a');a.href='http://127.0.0.1:@PORT@/';a.download='x';document.body.append(a);a.click()"
    ),
    "refresh": (
        "var m=document.createElement('meta');m.httpEquiv='refresh';m.content='0;url=http://127.0.0.1:@PORT@/';"
        "document.head.append(m)"
    ),
}
"""Scripts that try to leave their frame. None does; but Chromium connects to where a frame would go, and only then asks
the policies whether it may."""

AWAY: dict[str, str] = {
    "link-written-in-parts": (
        r"var d=document;d.write('\x3cli');d.write('nk rel=preconnect href=http://127.0.0.1:@PORT@/\x3e')"
    ),
    "policy-makes-parts": (
        r"var p=trustedTypes.defaultPolicy;document.write(p.createHTML('\x3cifr'));"
        rf"document.write('ame srcdoc=`'.replace('`',String.fromCharCode(34))+{_RTC}+String.fromCharCode(34)+'\x3e')"
    ),
}
"""Scripts that write the document anew."""
