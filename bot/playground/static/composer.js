// Where a person writes: the message box, the list of commands behind "/", and a command's form.
import { el, icon, newId } from "./dom.js";
import { choiceField, fileChip, fileField, numberField, textField } from "./fields.js";

const [SUB, GROUP, STRING, INTEGER, BOOLEAN, USER, CHANNEL, ROLE, MENTIONABLE, NUMBER, FILE] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const PLUS = "M9.100 3h1.800v6.100H17v1.800h-6.100V17H9.100v-6.100H3V9.100h6.100z", GO = "M3 3.500 17.500 10 3 16.500 3 11.500 11 10 3 8.500z", TYPED_MS = 200, FEW = 7, NARROW = 760;

/** The composer in `place`. `act` does: say, slash, autocomplete. */
export function composer(place, act, names) {
  let commands = [], examples = [], files = [], form = null, channel = null;

  const picker = el("div", { class: "picker", role: "listbox", id: "picker", "aria-label": "Commands", hidden: true });
  const formPlace = el("div", { class: "form-place" });
  const chips = el("ul", { class: "chosen" });
  const upload = el("input", { type: "file", class: "hidden", id: "say-file", multiple: true, "aria-label": "Attach files", onchange: () => { attach([...upload.files]); upload.value = ""; } });
  const box = el("textarea", {
    id: "composer", rows: 1, class: "grows", role: "combobox", "aria-expanded": "false", "aria-controls": "picker",
    "aria-autocomplete": "list", "aria-label": "Message, or / for commands", oninput: offer, onkeydown: onKey,
  });
  const send = el("button", { type: "button", class: "icon send", "aria-label": "Send the message", onclick: submit }, icon(GO));
  const slash = el("button", { type: "button", class: "icon slash", "aria-label": "Commands", title: "Commands", onclick: () => { box.value = "/"; box.focus(); offer(); }, text: "/" });
  const bar = el("div", { class: "bar" }, el("label", { class: "icon", for: "say-file", title: "Attach files" }, icon(PLUS)), upload, box, slash, send);
  const trouble = el("p", { class: "trouble", role: "alert" });
  place.replaceChildren(picker, formPlace, chips, trouble, bar);

  function shown() { return [...picker.querySelectorAll("[role=option]")]; }
  function active() { return picker.querySelector("[aria-selected=true]"); }

  function offer() {
    trouble.textContent = "";
    const typed = /^\/([\w -]*)$/.exec(box.value);
    const found = typed ? flat(commands).filter((c) => c.path.startsWith(typed[1].trim().toLowerCase()) || c.path.includes(` ${typed[1].trim()}`)) : [];
    picker.replaceChildren(...found.map((c, n) => el("div", {
      role: "option", id: `pick-${n}`, "aria-selected": n === 0 ? "true" : "false", "data-path": c.path, onpointerdown: (event) => { event.preventDefault(); open(c); },
    }, el("b", { text: `/${c.path}` }), el("span", { class: "pick-options", text: c.options.filter((o) => o.required).map((o) => o.name).join("  ") }), el("span", { class: "pick-about", text: c.description }))));
    if (typed && !found.length) picker.append(el("div", { class: "none", text: commands.length ? "No command of that name is offered here." : "The bot has no commands here yet." }));
    picker.hidden = !typed;
    picker.found = found;
    box.setAttribute("aria-expanded", String(Boolean(typed)));
    mark(shown()[0]);
  }

  function mark(option) {
    for (const other of shown()) other.setAttribute("aria-selected", String(other === option));
    if (option) { box.setAttribute("aria-activedescendant", option.id); option.scrollIntoView({ block: "nearest" }); }
    else box.removeAttribute("aria-activedescendant");
  }

  function onKey(event) {
    if (event.isComposing) return;
    if (!picker.hidden && shown().length) {
      const all = shown(), at = all.indexOf(active());
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (step) { event.preventDefault(); mark(all[(at + step + all.length) % all.length]); return; }
      if (event.key === "Enter" || event.key === "Tab") { event.preventDefault(); open(picker.found[Math.max(at, 0)]); return; }
    }
    if (event.key === "Escape" && !picker.hidden) { picker.hidden = true; box.setAttribute("aria-expanded", "false"); }
    else if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); submit(); }
  }

  async function submit() {
    const text = box.value.trim();
    if (!text && !files.length) return;
    try {
      await act.say(text, files);
      box.value = "";
      files = [];
      drawChips();
      trouble.textContent = "";
    } catch (error) { trouble.textContent = error.message; }
  }

  function attach(more) {
    const slot = form?.fileFields().find((field) => field.files().length === 0) ?? form?.fileFields()[0];
    if (slot) slot.add(more);
    else { files = [...files, ...more]; drawChips(); }
  }

  function drawChips() {
    chips.replaceChildren(...files.map((file) => fileChip(file, () => { files = files.filter((f) => f !== file); drawChips(); })));
  }

  /** Open a command's form; `preset` fills its first file and text. */
  function open(command, preset = null) {
    picker.hidden = true;
    box.value = "";
    box.setAttribute("aria-expanded", "false");
    form = commandForm(command, { act, names, examples, close });
    formPlace.replaceChildren(form.node);
    place.classList.add("with-form");
    if (preset) form.preset(preset);
    form.focus();
  }

  function close() {
    form = null;
    formPlace.replaceChildren();
    place.classList.remove("with-form");
    box.focus();
  }

  return {
    attach,
    setCommands(list) { commands = list; if (!picker.hidden) offer(); },
    setExamples(list) { examples = list; },
    setChannel(next) {
      if (channel && channel.id !== next?.id && form) close();
      channel = next;
      const isOpen = Boolean(next?.may_post);
      const title = next ? (next.type === 1 ? next.name : `#${next.name}`) : "";
      box.placeholder = !isOpen ? "You can not write here" : innerWidth < NARROW ? "Message, or /command" : `Message ${title}, or / for commands`;
      for (const part of [box, send, slash, upload]) part.disabled = !isOpen;
    },
    openNamed(path, preset) { const found = flat(commands).find((c) => c.path === path); if (found) open(found, preset); return Boolean(found); },
    /** The first command that asks for a picture; what a newcomer wants. */
    pictureCommand() { return flat(commands).find((c) => c.options.some((o) => o.type === FILE && o.required)); },
  };
}

/** Slash commands and their subcommands, each with its whole path. */
function flat(commands) {
  const all = [];
  const add = (command, path) => {
    const inner = (command.options ?? []).filter((o) => o.type === SUB || o.type === GROUP);
    if (!inner.length) all.push({ path, description: command.description, options: command.options ?? [] });
    for (const option of inner) add(option, `${path} ${option.name}`);
  };
  for (const command of commands) if (command.type === 1) add(command, command.name);
  return all.sort((a, b) => a.path.localeCompare(b.path));
}

function commandForm(command, { act, names, examples, close }) {
  const fields = new Map();
  let showsAll = false;
  const rows = el("div", { class: "fields-grid" });
  const more = el("div", { class: "more", role: "group", "aria-label": "Further options" });
  const trouble = el("p", { class: "trouble", role: "alert" });
  const sendButton = el("button", { type: "submit", class: "button primary", text: "Send" });
  const node = el("form", { class: "command", "aria-label": `/${command.path}`, novalidate: true, onsubmit, onkeydown: (event) => { if (event.key === "Escape" && !event.defaultPrevented) close(); } },
    el("header", {}, el("b", { text: `/${command.path}` }), el("span", { text: command.description }), el("button", { type: "button", class: "icon", "aria-label": "Close the form", onclick: close, text: "×" })),
    rows, el("footer", {}, more, trouble, sendButton));
  for (const option of command.options) if (option.required) add(option);
  drawMore();

  function add(option, focus = false) {
    const field = optionField(option, { names, examples, suggest: (typed) => act.autocomplete(command.path, option.name, { ...values(), [option.name]: typed }) });
    if (!option.required) field.node.append(el("button", { type: "button", class: "icon remove", "aria-label": `Remove ${option.name}`, text: "×", onclick: () => { fields.delete(option.name); field.node.remove(); drawMore(); } }));
    fields.set(option.name, { option, field });
    field.onexample = (example) => suggestText(example.prompt);
    rows.append(field.node);
    drawMore();
    if (focus) field.input.focus();
  }
  function drawMore() {
    const left = command.options.filter((o) => !fields.has(o.name));
    const shown = showsAll || left.length <= FEW + 1 ? left : left.slice(0, FEW);
    const rest = el("button", { type: "button", class: "add rest", text: `${left.length - shown.length} more …`, onclick: () => { showsAll = true; drawMore(); more.querySelectorAll("button")[FEW]?.focus(); } });
    more.replaceChildren(...shown.map((o) => el("button", { type: "button", class: "add", title: o.description, text: `+ ${o.name}`, onclick: () => add(o, true) })), ...(shown.length < left.length ? [rest] : []));
  }
  function values() {
    return Object.fromEntries([...fields].filter(([, { field }]) => field.value() !== undefined && field.value() !== "").map(([name, { field }]) => [name, field.value()]));
  }
  function suggestText(text) {
    const first = [...fields.values()].find(({ option }) => option.type === STRING && option.required && !option.choices);
    if (first && !first.field.input.value) { first.field.input.value = text; first.field.input.select(); first.field.input.focus(); }
  }
  function fileFields() { return [...fields.values()].filter(({ field }) => field.files).map(({ field }) => field); }
  async function onsubmit(event) {
    event.preventDefault();
    trouble.textContent = "";
    const missing = fileFields().filter((field) => field.isMissing());
    if (missing.length) { missing[0].input.focus(); return; }
    if (!node.reportValidity()) return;
    sendButton.disabled = true;
    try {
      const files = Object.fromEntries([...fields].filter(([, { field }]) => field.files?.().length).map(([name, { field }]) => [name, field.files()]));
      await act.slash(command.path, values(), files);
      close();
    } catch (error) { trouble.textContent = error.message; sendButton.disabled = false; }
  }
  return {
    node, fileFields,
    focus() { (fields.values().next().value?.field.input ?? sendButton).focus(); },
    async preset({ example, file }) {
      const slot = fileFields()[0];
      if (example) await slot?.take(example);
      if (file) slot?.add([file]);
    },
  };
}

function optionField(option, { names, examples, suggest }) {
  const common = { label: option.name, about: option.description, required: option.required };
  const of = (list, label) => choiceField({ ...common, choices: list.map((one) => ({ value: one.id, label: label(one) })) });
  switch (option.type) {
    case FILE: return fileField({ ...common, examples });
    case BOOLEAN: { const field = choiceField({ ...common, required: true, value: "true", choices: [{ value: "true", label: "True" }, { value: "false", label: "False" }] }); return { ...field, value: () => field.value() === "true" }; }
    case USER: return of(names.users(), (u) => u.username);
    case MENTIONABLE: return of(names.users(), (u) => u.username);
    case ROLE: return choiceField({ ...common, choices: names.roles() });
    case CHANNEL: return of(names.channels(), (c) => `#${c.name}`);
    default:
  }
  if (option.choices?.length) return choiceField({ ...common, choices: option.choices.map((c) => ({ value: c.value, label: c.name })) });
  if (option.type !== STRING && !option.autocomplete) return numberField({ ...common, min: option.min_value, max: option.max_value, isWhole: option.type === INTEGER });
  const field = option.type === STRING
    ? textField({ ...common, min: option.min_length, max: option.max_length })
    : numberField({ ...common, min: option.min_value, max: option.max_value, isWhole: option.type === INTEGER });
  return option.autocomplete ? withSuggestions(field, suggest) : field;
}

/** The bot's own choices under a field, while it is typed. */
function withSuggestions(field, suggest) {
  const list = el("div", { class: "suggestions", role: "listbox", id: newId("suggest"), hidden: true });
  const { input } = field;
  const values = new Map();
  let timer = 0, turn = 0;
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");
  field.node.append(list);

  const hide = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); input.removeAttribute("aria-activedescendant"); };
  const choose = (choice) => { values.set(choice.name, choice.value); input.value = choice.name; hide(); };
  async function ask() {
    const own = ++turn;
    let choices = [];
    try { choices = (await suggest(input.value)).choices; } catch { return hide(); }
    if (own !== turn || document.activeElement !== input) return;
    list.replaceChildren(...choices.map((choice, n) => el("div", { role: "option", id: `${list.id}-${n}`, "aria-selected": "false", text: choice.name, onpointerdown: (event) => { event.preventDefault(); choose(choice); } })));
    list.choices = choices;
    list.hidden = !choices.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
  }
  const askSoon = () => { clearTimeout(timer); timer = setTimeout(ask, TYPED_MS); };
  input.addEventListener("input", askSoon);
  input.addEventListener("focus", askSoon);
  input.addEventListener("blur", hide);
  input.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    const all = [...list.children], at = all.findIndex((o) => o.getAttribute("aria-selected") === "true");
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const next = at < 0 && step < 0 ? all.length - 1 : (at + step + all.length) % all.length;
      all.forEach((o, n) => o.setAttribute("aria-selected", String(n === next)));
      input.setAttribute("aria-activedescendant", all[next].id);
    } else if (event.key === "Enter" && at >= 0) { event.preventDefault(); choose(list.choices[at]); }
    else if (event.key === "Escape") { event.preventDefault(); hide(); }
  }, true);
  return { ...field, value: () => values.get(input.value) ?? field.value() };
}
