// Elements and their renewal. Text is always text: nothing here or elsewhere parses HTML.

/** An element. `props`: attributes; `class`; functions under `onclick` and the like; `text`. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "style") Object.assign(node.style, value);
    else if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** A small drawn sign; `path` is for a 20×20 box. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(SVG, "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

// What a person has changed in an element stays when the message is drawn again.
const KEPT = new Set(["data-shown", "open", "data-pending"]);

/** Make `old` look like `fresh` with as few changes as can be: focus and playback survive. */
export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.nodeName === "VIDEO") return; // the same file; renewing it would stop it
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !KEPT.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (name === "style") old.style.cssText = fresh.style.cssText; // the page's policy forbids the attribute
    else if (old.getAttribute(name) !== value && !(KEPT.has(name) && old.hasAttribute(name))) old.setAttribute(name, value);
  }
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  const byKey = new Map([...old.childNodes].filter(keyOf).map((node) => [keyOf(node), node]));
  wanted.forEach((next, place) => {
    const kept = byKey.get(keyOf(next));
    const here = old.childNodes[place];
    if (kept && kept !== here) old.insertBefore(kept, here ?? null);
    const current = old.childNodes[place];
    if (current === undefined) old.append(next);
    else morph(current, next);
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") ?? "" : "";
}

let numbers = 0;

/** An id that no other element has. */
export const newId = (word) => `${word}-${++numbers}`;
