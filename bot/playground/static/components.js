// Message components, both generations, as elements. Presses are noticed by whoever holds the list.
import { el, newId } from "./dom.js";
import { markdown } from "./markdown.js";
import { fileCard, isSpoiler, local, picture, video } from "./media.js";

const BUTTON_STYLES = { 1: "primary", 2: "secondary", 3: "success", 4: "danger", 5: "link", 6: "primary" };

/** Every component of a message, in order. */
export const components = (list, names) => (list ?? []).map((part) => component(part, names));

function component(part, names) {
  const make = MAKE[part.type];
  return make ? make(part, names) : el("p", { class: "small", text: `(component of type ${part.type})` });
}

const MAKE = {
  1: (row, names) => el("div", { class: "row" }, components(row.components, names)),
  2: button,
  3: (part) => select(part, part.options.map((o) => ({ value: o.value, label: o.label, about: o.description, chosen: o.default }))),
  5: (part, names) => select(part, names.users().map((u) => ({ value: u.id, label: u.username }))),
  6: (part, names) => select(part, names.roles()),
  7: (part, names) => select(part, [...names.users().map((u) => ({ value: u.id, label: u.username })), ...names.roles()]),
  8: (part, names) => select(part, names.channels().map((c) => ({ value: c.id, label: `#${c.name}` }))),
  9: (part, names) => el("div", { class: "section" }, el("div", { class: "section-text" }, components(part.components, names)), component(part.accessory, names)),
  10: (part, names) => el("div", { class: "text" }, markdown(part.content ?? "", names)),
  11: (part) => picture(part.media, part.description, part.spoiler, "thumbnail"),
  12: (part) => el("div", { class: `gallery n${Math.min(part.items.length, 4)}` }, part.items.map(galleryItem)),
  13: (part) => file(part),
  14: (part) => el("div", { class: `separator ${part.spacing === 2 ? "wide" : ""} ${part.divider === false ? "" : "line"}`, role: part.divider === false ? null : "separator" }),
  17: container,
};

function container(part, names) {
  const colour = part.accent_color;
  const box = el("div", { class: "container", "data-shown": part.spoiler ? "no" : null }, components(part.components, names));
  if (colour !== null && colour !== undefined) box.style.setProperty("--accent-line", `#${colour.toString(16).padStart(6, "0")}`);
  if (part.spoiler) box.classList.add("veil");
  return box;
}

function galleryItem(item) {
  const kind = item.media.content_type ?? "";
  const name = decodeURIComponent((local(item.media.url) ?? item.media.url).split("?")[0].split("/").at(-1));
  const hidden = item.spoiler || isSpoiler(name);
  if (kind.startsWith("video/")) return video(item.media, item.description || name, 0, hidden);
  return picture(item.media, item.description || name, hidden);
}

function file(part) {
  const path = local(part.file.url) ?? "";
  return fileCard(part.name ?? decodeURIComponent(path.split("?")[0].split("/").at(-1)), part.size, part.file.url);
}

function button(part) {
  const sign = part.emoji?.name ? el("span", { class: "emoji", "aria-hidden": "true", text: part.emoji.name }) : null;
  const label = part.label ? el("span", { text: part.label }) : null;
  if (part.style === 5) return el("a", { class: "button link", href: part.url, target: "_blank", rel: "noopener noreferrer" }, sign, label);
  return el("button", {
    type: "button", class: `button ${BUTTON_STYLES[part.style] ?? "secondary"}`, disabled: part.disabled,
    "data-custom-id": part.custom_id, "data-key": part.custom_id, "aria-label": part.label ? null : part.emoji?.name,
  }, sign, label);
}

function select(part, options) {
  const label = part.placeholder || "Make a selection";
  if ((part.max_values ?? 1) > 1) return many(part, options, label);
  return el("select", { class: "select", "data-custom-id": part.custom_id, "data-key": part.custom_id, "aria-label": label, disabled: part.disabled },
    el("option", { value: "", text: label }),
    options.map((o) => el("option", { value: o.value, selected: o.chosen, text: o.about ? `${o.label} – ${o.about}` : o.label })));
}

function many(part, options, label) {
  const id = newId("many");
  return el("details", { class: "many", "data-key": part.custom_id },
    el("summary", { text: label }),
    el("fieldset", { "data-many": part.custom_id, disabled: part.disabled }, el("legend", { class: "hidden", text: label }),
      options.map((o, n) => el("label", { for: `${id}-${n}` }, el("input", { type: "checkbox", id: `${id}-${n}`, value: o.value, checked: o.chosen }), el("span", { text: o.label }))),
      el("button", { type: "button", class: "button primary", "data-send-many": part.custom_id, text: "Choose" })));
}
