// Discord's markdown as elements. Everything a person or the bot wrote ends in text nodes.
import { el } from "./dom.js";
import { timestamp } from "./time.js";

const WORDS = { bold: "strong", italic: "em", under: "u", strike: "s" };

// Each rule: what it may begin with, and the whole of it from there.
const RULES = [
  ["escape", /\\([^\p{L}\p{N}\s])/uy],
  ["code", /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/y],
  ["time", /<t:(-?\d{1,13})(?::([tTdDfFsSR]))?>/y],
  ["user", /<@!?(\d+)>/y],
  ["role", /<@&(\d+)>/y],
  ["channel", /<#(\d+)>/y],
  ["command", /<\/([-\w ]+):\d+>/y],
  ["emoji", /<a?:(\w+):\d+>/y],
  ["bareLink", /<(https?:\/\/[^\s<>]+)>/y],
  ["maskedLink", /\[((?:\\.|[^\][\\])+)\]\(<?(https?:\/\/[^\s)>]+)>?\)/y],
  ["link", /(https?:\/\/[^\s<]*[^\s<.,:;"')\]])/y],
  ["bold", /\*\*([\s\S]+?)\*\*(?!\*)/y],
  ["under", /__([\s\S]+?)__(?!_)/y],
  ["italic", /\*(?=\S)([\s\S]*?\S)\*(?!\*)/y],
  ["italic", /_(?=\S)([\s\S]*?\S)_(?![\p{L}\p{N}_])/uy],
  ["strike", /~~([\s\S]+?)~~(?!~)/y],
  ["spoiler", /\|\|([\s\S]+?)\|\|/y],
  ["everyone", /@(everyone|here)\b/y],
];
const BEGINS = /[\\`<[h*_~|@]/;

/** One run of text as nodes. `names` knows users, roles and channels by id. */
export function inline(text, names) {
  const nodes = [];
  let plain = "";
  const flush = () => { if (plain) nodes.push(document.createTextNode(plain)); plain = ""; };
  for (let at = 0; at < text.length;) {
    const found = BEGINS.test(text[at]) ? match(text, at) : null;
    if (!found) { plain += text[at++]; continue; }
    if (found.kind === "escape") plain += found.groups[1];
    else { flush(); nodes.push(MAKE[found.kind](found.groups, names)); }
    at += found.groups[0].length;
  }
  flush();
  return nodes;
}

function match(text, at) {
  for (const [kind, rule] of RULES) {
    rule.lastIndex = at;
    const groups = rule.exec(text);
    if (groups) return { kind, groups };
  }
  return null;
}

const styled = (kind) => ([, inner], names) => el(WORDS[kind], {}, inline(inner, names));
const MAKE = {
  bold: styled("bold"), italic: styled("italic"), under: styled("under"), strike: styled("strike"),
  code: ([, , inner]) => el("code", { text: inner }),
  time: ([, seconds, style]) => el("time", {
    class: "time", "data-seconds": seconds, "data-style": style ?? "f",
    title: timestamp(Number(seconds), "F"), text: timestamp(Number(seconds), style ?? "f"),
  }),
  user: ([, id], names) => mention(`@${names.user(id)}`, id === names.me),
  role: ([, id], names) => mention(`@${names.role(id)}`),
  channel: ([, id], names) => el("a", { class: "mention", href: `#${id}`, "data-jump": id, text: `#${names.channel(id)}` }),
  command: ([, name]) => el("button", { type: "button", class: "mention", "data-command": name, text: `/${name}` }),
  emoji: ([, name]) => document.createTextNode(`:${name}:`),
  everyone: ([, word]) => document.createTextNode(`@${word}`),
  spoiler: ([, inner], names) => el("button", { type: "button", class: "spoiler", "data-shown": "no", "aria-label": "Spoiler, show", "aria-expanded": "false" },
    el("span", {}, inline(inner, names))),
  maskedLink: ([, label, url], names) => link(url, inline(label, names), names),
  bareLink: ([, url], names) => link(url, [url], names),
  link: ([, url], names) => link(url, [url], names),
};

const mention = (text, isMe = false) => el("span", { class: isMe ? "mention self" : "mention", text });

const MESSAGE_LINK = /^https:\/\/(?:\w+\.)?discord\.com\/channels\/[@\w]+\/(\d+)(?:\/(\d+))?$/;

function link(url, label, names) {
  const own = MESSAGE_LINK.exec(url);
  if (!own) return el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, label);
  const [, channel, message] = own;
  const isBare = label.length === 1 && label[0] === url;
  const text = isBare ? [`#${names.channel(channel)}${message ? " › message" : ""}`] : label;
  return el("a", { class: "mention", href: `#${channel}`, "data-jump": channel, "data-message": message }, text);
}

const HEADING = /^(#{1,3})\s+(.+)$/;
const ITEM = /^(\s*)(?:[-*]|(\d+)\.)\s+(.+)$/;

/** A whole text with its blocks: headings, lists, quotes, small print, code. */
export function markdown(text, names) {
  const nodes = [];
  const parts = text.split(/```(?:[\w+-]*\n)?([\s\S]*?)```/);
  parts.forEach((part, place) => {
    if (place % 2) nodes.push(el("pre", {}, el("code", { text: part.replace(/\n$/, "") })));
    else nodes.push(...blocks(part.replace(/^\n|\n$/g, ""), names));
  });
  return nodes;
}

function blocks(text, names) {
  if (!text) return [];
  const nodes = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const [kind, node, taken] = block(lines, at, names);
    const last = nodes.at(-1);
    if (kind === "line" && last?.line) last.node.append(el("br"), ...node);
    else nodes.push(kind === "line" ? { line: true, node: el("p", {}, node) } : { node });
    at += taken;
  }
  return nodes.map((one) => one.node);
}

function block(lines, at, names) {
  const line = lines[at];
  const heading = HEADING.exec(line);
  if (heading) return ["block", el("div", { class: `h h${heading[1].length}`, role: "heading", "aria-level": heading[1].length + 2 }, inline(heading[2], names)), 1];
  if (line.startsWith("-# ")) return ["block", el("p", { class: "small" }, inline(line.slice(3), names)), 1];
  if (line.startsWith(">>> ")) {
    const rest = [line.slice(4), ...lines.slice(at + 1)].join("\n");
    return ["block", el("blockquote", {}, blocks(rest, names)), lines.length - at];
  }
  const quoted = while_(lines, at, (l) => l.startsWith("> ") || l === ">");
  if (quoted.length) return ["block", el("blockquote", {}, blocks(quoted.map((l) => l.slice(2)).join("\n"), names)), quoted.length];
  const items = while_(lines, at, (l) => ITEM.test(l));
  if (items.length) {
    const tag = ITEM.exec(items[0])[2] ? "ol" : "ul";
    return ["block", el(tag, {}, items.map((l) => el("li", {}, inline(ITEM.exec(l)[3], names)))), items.length];
  }
  return ["line", inline(line, names), 1];
}

function while_(lines, at, holds) {
  let end = at;
  while (end < lines.length && holds(lines[end])) end += 1;
  return lines.slice(at, end);
}
