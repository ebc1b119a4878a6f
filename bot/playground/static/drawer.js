// The operator's drawer: what can go wrong by click, the REST log with bodies, the bot's log.
import { el } from "./dom.js";
import { get, getText } from "./live.js";
import { size } from "./media.js";
import { now } from "./time.js";

const LINES = 250;

/** The drawer in `place`. `act` lets mishaps happen; `toast` tells what came of it. */
export function drawer(place, opener, { act, toast }) {
  const panels = { mishaps: el("div", { class: "panel" }), calls: el("div", { class: "panel" }), log: el("div", { class: "panel" }) };
  const titles = { mishaps: "Mishaps", calls: "REST log", log: "Bot" };
  const tabs = Object.keys(panels).map((name) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": `panel-${name}`, text: titles[name], onclick: () => choose(name), onkeydown: onTabKey }));
  const clock = el("span", { class: "clock" });
  for (const [name, panel] of Object.entries(panels)) for (const [key, value] of Object.entries({ role: "tabpanel", id: `panel-${name}`, "aria-labelledby": `tab-${name}`, tabindex: "0" })) panel.setAttribute(key, value);
  place.replaceChildren(
    el("header", { class: "drawer-head" }, el("h2", { text: "Operator" }), clock, el("button", { type: "button", class: "icon", "aria-label": "Close the drawer", onclick: () => toggle(false), text: "×" })),
    el("div", { class: "tabs", role: "tablist", "aria-label": "Operator" }, tabs), ...Object.values(panels));

  const list = el("ul", { class: "calls" });
  const onlyBad = el("input", { type: "checkbox", id: "only-bad", onchange: () => list.classList.toggle("only-bad", onlyBad.checked) });
  panels.calls.append(el("label", { class: "tick", for: "only-bad" }, onlyBad, el("span", { text: "Only what went wrong" })), list);
  const log = el("pre", { class: "log", tabindex: "0" });
  const waiting = el("p", { class: "waiting", role: "status" });
  const botState = el("p", { class: "hint" });
  panels.log.append(botState);

  function choose(name) {
    tabs.forEach((tab) => { const on = tab.id === `tab-${name}`; tab.setAttribute("aria-selected", String(on)); tab.tabIndex = on ? 0 : -1; });
    for (const [other, panel] of Object.entries(panels)) panel.hidden = other !== name;
    if (name === "log") readLog();
  }
  function onTabKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  }
  async function readLog() {
    log.textContent = await getText("log").catch(() => "");
    log.scrollTop = log.scrollHeight;
  }
  function toggle(open = place.hidden) {
    place.hidden = !open;
    document.body.classList.toggle("with-drawer", open);
    opener.setAttribute("aria-expanded", String(open));
    (open ? tabs.find((tab) => tab.tabIndex === 0) : opener).focus();
  }
  async function run(path) {
    try { toast((await act(path)).told); } catch (error) { toast(error.message, true); }
  }
  place.addEventListener("keydown", (event) => { if (event.key === "Escape") toggle(false); });
  setInterval(() => {
    if (place.hidden) return;
    clock.textContent = `Discord's clock ${new Date(now()).toLocaleTimeString("en-GB")}`;
    if (!panels.log.hidden && !log.matches(":hover")) readLog();
  }, 1000);
  opener.addEventListener("click", () => toggle());
  choose("mishaps");

  return {
    setUp({ mishaps, has_keeper: hasKeeper, calls }) {
      const groups = Map.groupBy ? Map.groupBy(mishaps, (m) => m.group) : grouped(mishaps);
      panels.mishaps.replaceChildren(
        el("p", { class: "hint", text: "Click while a job runs, and watch how the bot copes." }), waiting,
        ...[...groups].map(([group, list]) => el("section", {}, el("h3", { text: group }), el("div", { class: "mishaps" }, list.map((m) =>
          el("button", { type: "button", class: "mishap", "data-mishap": m.name, onclick: () => run(`mishap/${m.name}`) }, el("b", { text: m.label }), el("small", { text: m.about })))))));
      panels.log.replaceChildren(botState,
        hasKeeper ? el("div", { class: "row" }, el("button", { type: "button", class: "button secondary", text: "Restart", onclick: () => run("bot/restart") }), el("button", { type: "button", class: "button danger", text: "Kill", onclick: () => run("bot/kill") })) : "", log);
      list.replaceChildren();
      for (const call of calls) this.add(call);
    },
    add(call) {
      list.prepend(callLine(call));
      while (list.children.length > LINES) list.lastChild.remove();
    },
    setWaiting(faults) { waiting.textContent = faults.length ? `Waiting for a request: ${faults.join(", ")}` : ""; },
    setBot(state) { botState.textContent = state || "The bot is connected."; },
  };
}

function grouped(mishaps) {
  const groups = new Map();
  for (const m of mishaps) groups.set(m.group, [...(groups.get(m.group) ?? []), m]);
  return groups;
}

function callLine(call) {
  const isBad = call.status === 0 || call.status >= 400;
  const body = el("div", { class: "call-body" });
  const details = el("details", { ontoggle: () => { if (details.open && !body.childNodes.length) fill(body, call.number); } },
    el("summary", {},
      el("span", { class: `method ${call.method.toLowerCase()}`, text: call.method }),
      el("span", { class: "path", title: call.path, text: call.path.replace(/\d{15,}/g, (id) => `…${id.slice(-4)}`).replace(/\/[\w-]{40,}/g, "/…") }),
      call.fault ? el("span", { class: "fault", text: call.fault }) : null,
      el("span", { class: isBad ? "status bad" : "status", text: call.status || "broken" })),
    body);
  return el("li", { class: isBad || call.fault ? "bad-call" : "" }, details);
}

async function fill(body, number) {
  const call = await get(`calls/${number}`);
  const shown = (title, value) => [el("h3", { text: title }), el("pre", { tabindex: "0", text: typeof value === "string" ? value : JSON.stringify(value, null, 2) })];
  body.append(el("p", { class: "hint", text: `${new Date(call.at).toLocaleTimeString("en-GB")} · ${(call.duration_s * 1000).toFixed(1)} ms · ${call.route}` }),
    ...(Object.keys(call.query).length ? shown("Query", call.query) : []),
    ...(call.body ? shown("Body", call.body) : []),
    ...(call.files.length ? shown("Files", call.files.map(([name, bytes]) => `${name}, ${size(bytes)}`).join("\n")) : []),
    ...shown("Answer", call.answer ?? "(empty)"));
}
