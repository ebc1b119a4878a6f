// What opens above the page: the bot's modals, and the menu of a message.
import { el } from "./dom.js";
import { choiceField, fileField, manyField, textField, tickField } from "./fields.js";
import { markdown } from "./markdown.js";

/** Show a modal; `submit(values, files)` sends it. Returns the dialog. */
export function openModal(modal, { names, examples, submit }) {
  const fields = new Map();
  const trouble = el("p", { class: "trouble", role: "alert" });
  const sendButton = el("button", { type: "submit", class: "button primary", text: "Submit" });
  const form = el("form", { novalidate: true, onsubmit },
    el("header", {}, el("h2", { id: "modal-title", text: modal.title }), el("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close(), text: "×" })),
    el("div", { class: "modal-fields" }, modal.components.map((part) => partOf(part))),
    el("footer", {}, trouble, el("button", { type: "button", class: "button secondary", text: "Cancel", onclick: () => dialog.close() }), sendButton));
  const dialog = el("dialog", { class: "modal", "aria-labelledby": "modal-title", onclose: () => dialog.remove() }, form);

  function partOf(part) {
    if (part.type === 10) return el("div", { class: "text" }, markdown(part.content ?? "", names));
    if (part.type === 1) return part.components.map((inner) => added(inner, inner.label));
    return added(part.component, part.label, part.description);
  }
  function added(part, label, about) {
    const field = modalField(part, { label: label ?? "", about, required: part.required ?? part.type !== 23, names, examples });
    fields.set(part.custom_id, field);
    return field.node;
  }
  async function onsubmit(event) {
    event.preventDefault();
    trouble.textContent = "";
    const missing = [...fields.values()].filter((field) => field.files && field.isMissing());
    if (missing.length) { missing[0].input.focus(); return; }
    if (!form.reportValidity()) return;
    sendButton.disabled = true;
    const values = {}, files = {};
    for (const [id, field] of fields) {
      if (field.files) { if (field.files().length) files[id] = field.files(); }
      else if (field.value() !== undefined && field.value() !== null) values[id] = field.value();
    }
    try { await submit(values, files); dialog.close(); }
    catch (error) { trouble.textContent = error.message; sendButton.disabled = false; }
  }
  dialog.attach = (list) => [...fields.values()].find((field) => field.files)?.add(list);
  document.body.append(dialog);
  dialog.showModal();
  fields.values().next().value?.input?.focus();
  return dialog;
}

function modalField(part, { label, about, required, names, examples }) {
  const common = { label, about, required };
  const options = (part.options ?? []).map((o) => ({ value: o.value, label: o.label, about: o.description, chosen: o.default }));
  const listed = (field) => ({ ...field, value: () => { const v = field.value(); return Array.isArray(v) ? v : v ? [v] : []; } });
  const many = (part.max_values ?? 1) > 1;
  const chooser = (choices) => listed(choiceField({ ...common, choices, many, placeholder: part.placeholder }));
  switch (part.type) {
    case 3: return chooser(options);
    case 5: return chooser(names.users().map((u) => ({ value: u.id, label: u.username })));
    case 6: return chooser(names.roles());
    case 7: return chooser([...names.users().map((u) => ({ value: u.id, label: u.username })), ...names.roles()]);
    case 8: return chooser(names.channels().map((c) => ({ value: c.id, label: `#${c.name}` })));
    case 19: return fileField({ ...common, max: part.max_values ?? 1, examples });
    case 21: return manyField({ ...common, choices: options, type: "radio" });
    case 22: return manyField({ ...common, choices: options, type: "checkbox" });
    case 23: return tickField({ ...common, value: part.default });
    default: return textField({ ...common, min: part.min_length, max: part.max_length, value: part.value, placeholder: part.placeholder, isShort: part.style === 1 });
  }
}

/** A menu under `anchor`; entries are {label, run, isDanger}. */
export function openMenu(anchor, entries, label) {
  const menu = el("div", { class: "menu", role: "menu", "aria-label": label, tabindex: "-1" },
    entries.map((entry) => el("button", { type: "button", role: "menuitem", class: entry.isDanger ? "danger" : "", tabindex: "-1", text: entry.label, onclick: () => { close(); entry.run(); } })));
  const items = [...menu.children];
  const close = () => { menu.remove(); document.removeEventListener("pointerdown", outside, true); anchor.setAttribute("aria-expanded", "false"); anchor.focus(); };
  const outside = (event) => { if (!menu.contains(event.target)) close(); };
  menu.addEventListener("keydown", (event) => {
    const at = items.indexOf(document.activeElement);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); items[(at + step + items.length) % items.length].focus(); }
    if (event.key === "Escape" || event.key === "Tab") { event.preventDefault(); close(); }
  });
  const box = anchor.getBoundingClientRect();
  Object.assign(menu.style, { right: `${Math.max(8, innerWidth - box.right)}px`, ...(box.bottom + 220 > innerHeight ? { bottom: `${innerHeight - box.top + 4}px` } : { top: `${box.bottom + 4}px` }) });
  document.body.append(menu);
  document.addEventListener("pointerdown", outside, true);
  anchor.setAttribute("aria-expanded", "true");
  items[0]?.focus();
}
