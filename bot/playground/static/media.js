// Pictures, videos and files of a message, and the large view of a picture.
import { el, icon } from "./dom.js";

const PLAY_ALONE = !matchMedia("(prefers-reduced-motion: reduce)").matches;
const FILE = "M5 2h7l4 4v12H5zm6.500 1.500V7H15z";
const LEAST_WIDTH = 320, MOST_WIDTH = 520, MOST_HEIGHT = 440;
const SPOILER = "SPOILER_";

/** Only what this server serves is loaded; a link to elsewhere is none of our pictures. */
export function local(url) {
  const parsed = new URL(url, location.href);
  const isOurs = ["127.0.0.1", "localhost"].includes(parsed.hostname) && parsed.port === location.port;
  return isOurs ? parsed.pathname : null; // without the signature, which dies on Discord's clock
}

export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 * 1024 ? `${(bytes / 1024).toFixed(0)} KB` : `${(bytes / 1024 / 1024).toFixed(1)} MB`;
}

export const isSpoiler = (name) => name.startsWith(SPOILER);

/** One attachment: a picture, a video, or a card with its name. */
export function attachment(file) {
  const kind = file.content_type ?? "";
  const hidden = isSpoiler(file.filename);
  const media = { url: file.url, width: file.width, height: file.height, content_type: kind };
  if (kind.startsWith("image/") && file.width) return picture(media, file.description ?? file.filename, hidden);
  if (kind.startsWith("video/")) return video(media, file.filename, file.size, hidden);
  return fileCard(file.filename, file.size, file.url);
}

/** A picture that opens large. */
export function picture(media, alt, hidden = false, className = "picture") {
  const url = local(media.url);
  if (!url) return el("a", { href: media.url, target: "_blank", rel: "noopener noreferrer", text: alt || media.url });
  const image = el("img", { src: url, alt: alt || "picture", width: media.width, height: media.height, decoding: "async" });
  return el("button", {
    type: "button", class: hidden ? `${className} veil` : className, "data-large": url,
    "data-shown": hidden ? "no" : null, "aria-label": `${alt || "Picture"}: ${hidden ? "spoiler, show" : "show large"}`,
  }, image, hidden ? el("span", { class: "veil-word", text: "Spoiler" }) : null);
}

/** A looping video; it plays alone, muted, while it is in view, unless motion is unwanted. */
export function video(media, name, bytes, hidden = false) {
  const url = local(media.url);
  const player = el("video", {
    src: url, controls: true, loop: true, muted: true, playsinline: true, preload: "auto",
    "data-key": url, "aria-label": `Video ${name}`, "data-alone": PLAY_ALONE && !hidden ? "yes" : "no",
  });
  player.muted = true;
  if (media.width) {
    const width = Math.round(Math.min(Math.max(media.width, LEAST_WIDTH), MOST_WIDTH, (media.width / media.height) * MOST_HEIGHT));
    Object.assign(player.style, { width: `${width}px`, aspectRatio: `${media.width} / ${media.height}` });
  }
  const caption = el("figcaption", {}, el("span", { text: name }), bytes ? el("span", { text: size(bytes) }) : null,
    el("a", { href: url, download: name, class: "save", text: "Save" }));
  const box = el("div", { class: hidden ? "player veil" : "player", "data-shown": hidden ? "no" : null, "data-key": `box ${url}` }, player,
    hidden ? el("button", { type: "button", class: "veil-word", "data-unveil": "", text: "Spoiler" }) : null);
  return el("figure", { class: "video", "data-key": `figure ${url}` }, box, caption);
}

export function fileCard(name, bytes, url) {
  const href = local(url);
  return el("a", { class: "file", href, download: name }, icon(FILE),
    el("span", { class: "file-name", text: name }), el("span", { class: "file-size", text: bytes ? size(bytes) : "" }));
}

const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && target.dataset.alone === "yes") target.play().catch(() => {});
    else if (!isIntersecting && !target.paused) { target.dataset.alone = "away"; target.pause(); }
    if (isIntersecting && target.dataset.alone === "away") { target.dataset.alone = "yes"; target.play().catch(() => {}); }
  }
}, { threshold: 0.4 });

/** Let the videos in `node` begin when they come into view. */
export function watch(node) {
  for (const player of node.querySelectorAll("video")) {
    inView.observe(player);
    if (player.dataset.known) continue;
    player.dataset.known = "yes";
    player.addEventListener("pause", () => { if (player.dataset.alone === "yes") player.dataset.alone = "no"; });
  }
}

/** Show a picture as large as the window allows. */
export function openLarge(url, alt) {
  const dialog = el("dialog", { class: "large", "aria-label": alt, onclick: () => dialog.close(), onclose: () => dialog.remove() },
    el("img", { src: url, alt }),
    el("p", {}, el("a", { href: url, target: "_blank", rel: "noopener", text: "Open the file" }), el("button", { type: "button", class: "plain", text: "Close" })));
  document.body.append(dialog);
  dialog.showModal();
}
