"""The script that runs in an output's frame before the output does, and takes away what no policy of a browser covers.

WebRTC and `<link rel="preconnect">` reach other hosts past any content security policy. WebRTC's constructor is taken
away, but each further frame would have one again; so neither frames nor links can be made in here. There are two ways
to make an element: by its name, and from text. The functions that take a name are replaced, and since the frame has no
other realm that it could reach, the browser's own cannot be had back. All that takes text asks trusted types, whose
policy renames such elements; the few functions that do not ask are removed.

Where a browser has no trusted types, a policy that is added here keeps the output's scripts from running.

The output's scripts can replace every method of strings, arrays and expressions. So what runs after them uses only
operators, indices, and functions that were kept before.
"""

from __future__ import annotations

NO_TRUSTED_TYPES = "This browser has no trusted types: the scripts of this output were not run."
FORBIDDEN = ("iframe", "frame", "fencedframe", "portal", "object", "embed", "link")
"""Elements that hold another document, or that connect to another host."""

_SCRIPT = r"""(function () {
  "use strict";
  var apply = Reflect.apply, text = String.prototype;
  var find = text.indexOf, last = text.lastIndexOf, cut = text.slice, lower = text.toLowerCase;

  function gone(holder, name) { Object.defineProperty(holder, name, { value: undefined }); }

  function isForbidden(name) {
    name = apply(lower, name, []);
    return @NAMES@;
  }
  function endsName(one) {
    return one === " " || one === "\t" || one === "\n" || one === "\f" || one === "\r" || one === "/" || one === ">"
      || one === "<";
  }
  // `isPart`: what is written next goes on where this ends, be it in the middle of a tag's name.
  function harmless(source, isPart) {
    var made = "", done = 0, at = -1, start, end;
    while ((at = apply(find, source, ["<", at + 1])) >= 0) {
      for (start = end = at + 1; end < source.length && !endsName(source[end]); end++) {
        if (source[end] === ":") { start = end + 1; }
      }
      if (apply(lower, apply(cut, source, [at, at + 8]), []) === "<!entity") { return ""; }
      if (isPart && end === source.length) {
        made += apply(cut, source, [done, at]) + "&lt;";
        done = at + 1;
      } else if (isForbidden(apply(cut, source, [start, end]))) {
        made += apply(cut, source, [done, at + 1]) + "x-";
        done = at + 1;
      }
    }
    return made + apply(cut, source, [done]);
  }
  function isIn(part, sink) { return apply(find, sink, [part]) >= 0; }

  function createHTML(source, type, sink) {
    return isIn("srcdoc", sink) ? "" : harmless(source, isIn("Document write", sink));
  }
  function createScript(source, type, sink) { return isIn("Location", sink) ? null : source; }
  function createScriptURL(source) { return source; }

  function renamed(name) {
    name = `${name}`;
    return isForbidden(apply(cut, name, [apply(last, name, [":"]) + 1])) ? "x-element" : name;
  }
  function replace(holder, name, make) { holder[name] = make(holder[name]); }

  replace(Document.prototype, "createElement", function (own) {
    return function createElement(name, options) { return apply(own, this, [renamed(name), options]); };
  });
  replace(Document.prototype, "createElementNS", function (own) {
    return function createElementNS(space, name, options) { return apply(own, this, [space, renamed(name), options]); };
  });
  replace(DOMImplementation.prototype, "createDocument", function (own) {
    return function createDocument(space, name, type) {
      return apply(own, this, [space, name === null ? null : renamed(name), type]);
    };
  });
  // Without options: an element that extends a link is one.
  replace(CustomElementRegistry.prototype, "define", function (own) {
    return function define(name, constructor) { return apply(own, this, [name, constructor]); };
  });

  ["RTCPeerConnection", "webkitRTCPeerConnection", "mozRTCPeerConnection", "RTCIceTransport", "XSLTProcessor"].forEach(
    function (name) { gone(window, name); }
  );
  // Of the functions that take HTML those remain that are known to ask trusted types.
  var asking = ["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe", "parseHTMLUnsafe", "getHTML"];
  [Document, Document.prototype, DocumentFragment.prototype, ShadowRoot.prototype, Element.prototype, Node.prototype,
    CharacterData.prototype, Range.prototype, HTMLElement.prototype, HTMLTemplateElement.prototype].forEach(
    function (holder) {
      Object.getOwnPropertyNames(holder).forEach(function (name) {
        if (/HTML/.test(name) && asking.indexOf(name) < 0) { gone(holder, name); }
      });
    }
  );

  if (window.trustedTypes) {
    trustedTypes.createPolicy("default", {
      createHTML: createHTML, createScript: createScript, createScriptURL: createScriptURL
    });
    // Whoever has the policy can say that a text is for something else than it is.
    gone(window, "trustedTypes");
    return;
  }
  var rule = document.createElement("meta");
  rule.httpEquiv = "Content-Security-Policy";
  rule.content = "script-src 'none'";
  document.head.append(rule);
  document.addEventListener("DOMContentLoaded", function () { document.body.prepend("@NOTE@"); });
})();"""
_NAMES = " || ".join(f'name === "{name}"' for name in FORBIDDEN)

SCRIPT = _SCRIPT.replace("@NAMES@", _NAMES).replace("@NOTE@", NO_TRUSTED_TYPES)
