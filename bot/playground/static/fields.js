// Fields of forms: command options and what modals ask for. Each is {node, value(), files()}.
import { el, icon, newId } from "./dom.js";
import { size } from "./media.js";

const PICTURE = "M3 4h14v12H3zm1.600 1.600v7l3.200-3.300 2.800 2.900 2-1.900 2.800 2.900V5.600zM12.800 7a1.200 1.200 0 1 1 0 2.400 1.200 1.200 0 0 1 0-2.400Z";
const LONG = 120, LONGEST_SPAN = 14;

/** A labelled field around `input`. */
function labelled(input, { label, about, required }) {
  const id = input.id || (input.id = newId("field"));
  const hint = about ? el("p", { class: "hint", id: `${id}-about`, text: about }) : null;
  if (hint) input.setAttribute("aria-describedby", hint.id);
  return el("div", { class: "field" }, el("label", { for: id }, label, required ? el("span", { class: "must", "aria-hidden": "true", text: " *" }) : null), input, hint);
}

export function textField({ label, about, required, min, max, value, placeholder, isShort }) {
  const single = isShort || (max && max <= LONG);
  const input = el(single ? "input" : "textarea", {
    required, minlength: min || null, maxlength: max || null, placeholder, rows: single ? null : 1,
    type: single ? "text" : null, autocomplete: "off", class: single ? "" : "grows",
  });
  input.value = value ?? "";
  if (!single && !isShort) {
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !event.defaultPrevented) { event.preventDefault(); input.form?.requestSubmit(); }
    });
  }
  return { node: labelled(input, { label, about, required }), input, value: () => input.value };
}

export function numberField({ label, about, required, min, max, value, isWhole }) {
  const isSaid = about?.includes(String(min)) && about.includes(String(max));
  const span = min !== undefined && max !== undefined ? `${min} – ${max}` : "";
  const input = el("input", { type: "number", required, min, max, step: isWhole ? 1 : "any", placeholder: span, inputmode: isWhole ? "numeric" : "decimal" });
  input.value = value ?? "";
  return { node: labelled(input, { label, about: [about, !isSaid && span.length <= LONGEST_SPAN ? span : ""].filter(Boolean).join(" · "), required }), input, value: () => (input.value === "" ? "" : Number(input.value)) };
}

/** One of several; `many` allows more than one. */
export function choiceField({ label, about, required, choices, value, many, placeholder }) {
  if (many) return manyField({ label, about, choices, type: "checkbox" });
  const input = el("select", { required }, required && value !== undefined ? null : el("option", { value: "", text: placeholder ?? "Choose" }),
    choices.map((c) => el("option", { value: c.value, text: c.label, selected: c.chosen })));
  if (value !== undefined) input.value = value;
  return { node: labelled(input, { label, about, required }), input, value: () => input.value };
}

export function manyField({ label, about, choices, type, required }) {
  const name = newId("group");
  const node = el("fieldset", { class: "field group" }, el("legend", { text: label }), about ? el("p", { class: "hint", text: about }) : null,
    choices.map((c) => el("label", { class: "tick" }, el("input", { type, name, value: c.value, checked: c.chosen, required: required && type === "radio" }), el("span", {}, c.label, c.about ? el("small", { text: c.about }) : null))));
  const ticked = () => [...node.querySelectorAll("input:checked")].map((input) => input.value);
  return { node, input: node.querySelector("input"), value: () => (type === "radio" ? ticked()[0] ?? null : ticked()) };
}

export function tickField({ label, about, value }) {
  const input = el("input", { type: "checkbox", checked: value });
  return { node: el("div", { class: "field" }, el("label", { class: "tick" }, input, el("span", { text: label })), about ? el("p", { class: "hint", text: about }) : null), input, value: () => input.checked };
}

/** Files by click, drag and paste; `examples` are one click away. */
export function fileField({ label, about, required, max = 1, examples = [] }) {
  let chosen = [];
  const id = newId("file");
  const input = el("input", { type: "file", id, class: "hidden", multiple: max > 1, "aria-label": label || "Files", "aria-describedby": `${id}-about`, onchange: () => { add([...input.files]); input.value = ""; } });
  const list = el("ul", { class: "chosen" });
  const invite = el("label", { class: "invite", for: id }, icon(PICTURE), el("span", {}, el("b", { text: max > 1 ? "Choose pictures" : "Choose a picture" }), ", drop it here, or paste it"));
  const offered = examples.length ? el("p", { class: "examples" }, el("span", { text: "or take" }), examples.map((example) => el("button", { type: "button", class: "example", onclick: () => take(example) }, el("img", { src: example.url, alt: "", width: 30, height: 30 }), example.name.replace(/\.\w+$/, "")))) : null;
  const missing = el("p", { class: "missing", role: "alert", hidden: true, text: "A file is needed here." });
  const node = el("div", { class: "field file-field", role: "group", "aria-label": label },
    el("span", { class: "label" }, label, required ? el("span", { class: "must", "aria-hidden": "true", text: " *" }) : null),
    el("div", { class: "zone" }, input, invite, offered, list), missing, about ? el("p", { class: "hint", id: `${id}-about`, text: about }) : null);
  const field = { node, input, files: () => chosen, add, examples, take, value: () => undefined, isMissing: () => { missing.hidden = !required || chosen.length > 0; return !missing.hidden; } };

  function add(files) {
    chosen = (max > 1 ? [...chosen, ...files] : files.slice(0, 1)).slice(0, max);
    missing.hidden = true;
    draw();
    field.onchange?.();
  }
  function draw() {
    list.replaceChildren(...chosen.map((file) => fileChip(file, () => { chosen = chosen.filter((f) => f !== file); draw(); input.focus(); })));
    node.classList.toggle("full", chosen.length >= max);
  }
  async function take(example) {
    const blob = await (await fetch(example.url)).blob();
    add([new File([blob], example.name, { type: blob.type })]);
    field.onexample?.(example);
  }
  return field;
}

/** A chosen file, with its picture, and a way to take it back. */
export function fileChip(file, onremove) {
  const isPicture = file.type.startsWith("image/");
  const url = isPicture ? URL.createObjectURL(file) : "";
  const image = isPicture ? el("img", { src: url, alt: "", onload: () => URL.revokeObjectURL(url) }) : icon(PICTURE);
  return el("li", { class: "chip" }, image, el("span", { class: "chip-name", text: file.name }), el("small", { text: size(file.size) }),
    el("button", { type: "button", class: "icon", "aria-label": `Remove ${file.name}`, onclick: onremove, text: "×" }));
}
