// The page: what is known, which channel is open, and who tells whom.
import { composer } from "./composer.js";
import { openMenu, openModal } from "./dialogs.js";
import { el, icon, morph } from "./dom.js";
import { drawer } from "./drawer.js";
import { get, listen, send } from "./live.js";
import { openLarge, watch } from "./media.js";
import { avatar, render, renderAsked } from "./message.js";
import { setNow, startCounting } from "./time.js";

const DM = 1, THREAD = 11, FORUM = 15, MESSAGE_MENU = 3, TYPING_MS = 8000;
const HASH = "M7.500 3 6.900 6.500H3.500v1.700h3.100l-.6 3.600H2.800v1.700h2.900L5.100 17h1.700l.6-3.500H11l-.6 3.500h1.700l.6-3.500h3.500v-1.700H13l.6-3.600h3.200V6.500h-2.900l.6-3.500h-1.700l-.6 3.500H8.600L9.200 3zm.8 5.200h3.600l-.6 3.600H7.700z";
const $ = (id) => document.getElementById(id);
const users = new Map(), channels = new Map(), messages = new Map(), asked = new Map(), dismissed = new Set(), unread = new Map();
const state = { me: sessionStorage.getItem("me"), bot: "", open: location.hash.slice(1), commands: [], examples: [], hasWelcome: true };
let stop = () => {}, modal = null;

const names = {
  get me() { return state.me; },
  user: (id) => users.get(id)?.username ?? "unknown-user",
  role: (id) => state.place?.roles.find((role) => role.id === id)?.name ?? "unknown-role",
  channel: (id) => channels.get(id)?.name ?? "unknown",
  users: () => [...users.values()],
  roles: () => (state.place?.roles ?? []).map((role) => ({ value: role.id, label: role.name })),
  channels: () => [...channels.values()].filter((c) => c.type !== DM),
};

const act = {
  say: (text, files) => send("do/say", state.me, { channel_id: state.open, text }, { file: files }),
  slash: (command, options, files) => send("do/slash", state.me, { channel_id: state.open, command, options }, files),
  autocomplete: (command, focused, options) => send("do/autocomplete", state.me, { channel_id: state.open, command, focused, options }),
  press: (message, customId, values = []) => send("do/press", state.me, { message_id: message, custom_id: customId, values }),
};
const write = composer($("composer-place"), act, names);
const operator = drawer($("drawer"), $("open-drawer"), { act: (path) => send(path, state.me, { channel_id: state.open }), toast });

// -- what the server tells ------------------------------------------------------------------

const TELLERS = {
  everything(news) {
    Object.assign(state, { me: news.me, bot: news.bot, examples: news.examples });
    sessionStorage.setItem("me", news.me);
    messages.clear();
    asked.clear();
    for (const message of news.messages) messages.set(message.id, message);
    $("note").textContent = news.note;
    $("note").hidden = !news.note;
    write.setExamples(news.examples);
    operator.setUp(news);
    TELLERS.place(news);
    showChannel(channels.has(state.open) ? state.open : firstChannel());
  },
  place({ place }) {
    setNow(place.now_ms);
    state.guild = place.guild.id;
    state.place = place;
    users.clear();
    for (const user of place.users) users.set(user.id, user);
    channels.clear();
    for (const channel of place.channels) channels.set(channel.id, channel);
    operator.setWaiting(place.faults);
    drawPlace();
    drawWelcome();
    if (state.open && !channels.has(state.open)) showChannel(firstChannel());
  },
  message({ message }) {
    const isNew = !messages.has(message.id);
    messages.set(message.id, message);
    if (message.interaction) forget(message.interaction.id);
    if (message.channel_id === state.open) { drawMessage(message, isNew); drawAnswersTo(message); }
    else if (isNew && message.author.id !== state.me) {
      unread.set(message.channel_id, message.pings.includes(state.me) || unread.get(message.channel_id) === "me" ? "me" : "some");
      drawChannels();
    }
    if (isNew && message.pings.includes(state.me) && message.channel_id !== state.open) say(`${message.author.username} mentions you in #${names.channel(message.channel_id)}`);
    state.typing = 0;
    drawTyping();
  },
  gone({ id }) {
    messages.delete(id);
    for (const answer of inOpen()) {
      if (answer.referenced_message?.id !== id) continue;
      answer.referenced_message = null;
      drawMessage(answer, false);
    }
    document.querySelector(`[data-id="${id}"]`)?.remove();
    drawWelcome();
  },
  asked(news) {
    if (news.is_command) { asked.set(news.id, news); if (news.channel_id === state.open) drawAsked(news); }
    else asked.set(news.id, news);
  },
  answered({ id }) { pressDone(asked.get(id)); forget(id); },
  failed({ id, text }) {
    const one = asked.get(id);
    if (!one) return;
    if (!one.is_command) { pressDone(one, true); asked.delete(id); say("This interaction failed"); return; }
    one.failed = text;
    document.querySelector(`[data-asked="${id}"]`)?.replaceWith(renderAsked(one, users.get(state.me)));
  },
  modal({ id, modal: shown }) {
    modal?.close();
    modal = openModal(shown, { names, examples: state.examples, submit: (values, files) => send("do/modal", state.me, { channel_id: state.open, interaction_id: id, values }, files) });
  },
  typing({ channel_id: id }) { if (id === state.open) { state.typing = Date.now() + TYPING_MS; drawTyping(); setTimeout(drawTyping, TYPING_MS + 50); } },
  commands: () => loadCommands(),
  call: (news) => operator.add(news),
  bot(news) { state.botState = news.state; operator.setBot(news.state); drawPlace(); },
};

function forget(id) {
  asked.delete(id);
  document.querySelector(`[data-asked="${id}"]`)?.remove();
}

function pressDone(one, hasFailed = false) {
  const item = one?.message_id && document.querySelector(`[data-id="${one.message_id}"]`);
  if (!item) return;
  for (const pending of item.querySelectorAll("[data-pending]")) delete pending.dataset.pending;
  item.querySelector(".failed").hidden = !hasFailed;
}

async function loadCommands() {
  const [me, open] = [state.me, state.open];
  if (!open) return;
  const commands = await get(`commands?as=${me}&channel=${open}`).catch(() => []);
  if (me !== state.me || open !== state.open) return;
  state.commands = commands;
  write.setCommands(commands);
  drawWelcome();
}

// -- drawing --------------------------------------------------------------------------------

function drawPlace() {
  const { place } = state;
  if (!place) return;
  $("guild").textContent = place.guild.name;
  const word = state.isLost ? "reconnecting …" : state.botState || (place.online ? "FramePack is online" : "FramePack is offline");
  if ($("bot-state").textContent !== word) $("bot-state").textContent = word;
  $("bot-state").classList.toggle("online", place.online && !state.isLost && !state.botState);
  const people = [...users.values()].filter((user) => !user.bot);
  const me = $("me");
  me.replaceChildren(...people.map((user) => el("option", { value: user.id, selected: user.id === state.me, text: `${user.username} (${user.role})` })));
  $("my-avatar").replaceChildren(avatar(users.get(state.me)));
  drawChannels();
  drawHead();
}

function drawChannels() {
  const all = [...channels.values()];
  const under = (parent) => all.filter((c) => c.parent_id === parent.id);
  const list = (items) => el("ul", {}, items.map((c) => el("li", {}, channelButton(c), under(c).length ? list(under(c)) : null)));
  const tops = all.filter((c) => !c.parent_id && c.type !== DM);
  const fresh = el("nav", {}, el("h2", { text: "Channels" }), list(tops), el("h2", { text: "Direct messages" }), list(all.filter((c) => c.type === DM)));
  $("channels").setAttribute("aria-label", "Channels");
  if ($("channels").firstChild) morph($("channels").firstChild, el("div", {}, ...fresh.childNodes));
  else $("channels").append(el("div", {}, ...fresh.childNodes));
}

function channelButton(channel) {
  const news = unread.get(channel.id);
  const sign = channel.type === DM ? avatar({ bot: true }) : icon(HASH);
  return el("button", {
    type: "button", class: `channel ${channel.type === THREAD ? "thread" : ""} ${news ? "unread" : ""}`, "data-channel": channel.id,
    disabled: channel.type === FORUM, "aria-current": channel.id === state.open ? "page" : null,
  }, channel.type === THREAD ? el("span", { class: "hook", "aria-hidden": "true" }) : sign, el("span", { class: "channel-name", text: channel.name }),
  channel.nsfw && channel.type !== THREAD ? el("span", { class: "tag", text: "18+" }) : null, channel.thread_metadata?.archived ? el("span", { class: "tag", text: "archived" }) : null,
  news === "me" ? el("span", { class: "count", text: "@", title: "You were mentioned" }) : null);
}

function drawHead() {
  const channel = channels.get(state.open);
  $("title").textContent = channel ? (channel.type === DM ? channel.name : `#${channel.name}`) : "No channel";
  document.title = channel ? `${channel.name} · FramePack playground` : "FramePack playground";
  const parts = channel ? [channel.bot_may_post ? "" : "the bot may not post here", channel.nsfw ? "age-restricted" : "", `files up to ${channel.upload_limit >> 20} MiB`] : [];
  $("about").textContent = parts.filter(Boolean).join(" · ");
  write.setChannel(channel ?? null);
}

const inOpen = () => [...messages.values()].filter((m) => m.channel_id === state.open && !dismissed.has(m.id)).sort((a, b) => (BigInt(a.id) < BigInt(b.id) ? -1 : 1));

function showChannel(id) {
  state.open = id ?? "";
  unread.delete(id);
  if (location.hash.slice(1) !== id && id) history.replaceState(null, "", `#${id}`);
  closeSide();
  const list = inOpen();
  $("messages").replaceChildren(...list.map((m, n) => render(m, list[n - 1], names)), ...[...asked.values()].filter((a) => a.is_command && a.channel_id === id).map((a) => renderAsked(a, users.get(state.me))));
  watch($("messages"));
  drawPlace();
  drawWelcome();
  toEnd();
  loadCommands();
}

function drawMessage(message, isNew) {
  const keepsEnd = isAtEnd();
  const list = inOpen();
  const at = list.findIndex((m) => m.id === message.id);
  if (at < 0) return;
  const fresh = render(message, list[at - 1], names);
  const old = document.querySelector(`[data-id="${message.id}"]`);
  if (old) morph(old, fresh);
  else $("messages").insertBefore(fresh, list[at + 1] ? document.querySelector(`[data-id="${list[at + 1].id}"]`) : $("messages").querySelector("[data-asked]"));
  watch(document.querySelector(`[data-id="${message.id}"]`));
  drawWelcome();
  if (keepsEnd || (isNew && message.author.id === state.me)) toEnd();
}

/** The line above a reply shows its message as it is now. */
function drawAnswersTo(message) {
  for (const answer of inOpen()) {
    if (answer.referenced_message?.id !== message.id) continue;
    answer.referenced_message = message;
    drawMessage(answer, false);
  }
}

function drawAsked(one) {
  $("messages").append(renderAsked(one, users.get(state.me)));
  toEnd();
}

function drawTyping() {
  const isTyping = state.typing > Date.now();
  $("composer-place").classList.toggle("typing", isTyping);
}

/** An empty channel invites: two pictures, one click away from moving. */
function drawWelcome() {
  const channel = channels.get(state.open);
  const command = state.place?.online ? write.pictureCommand() : null;
  const isEmpty = channel && channel.may_post && !inOpen().length && !asked.size;
  if (!isEmpty) { $("welcome").replaceChildren(); return; }
  const cards = command ? state.examples.map((example) => el("button", { type: "button", class: "card", "data-example": example.name }, el("img", { src: example.url, alt: "" }), el("span", { text: example.prompt }))) : [];
  const fresh = el("section", { class: "welcome" },
    el("h2", { text: "Make a picture move" }),
    el("p", {}, command ? "Take one of these, or your own: type " : "The bot is starting; its commands appear in a moment.", command ? el("button", { type: "button", class: "mention", "data-command": command.path, text: `/${command.path}` }) : null, command ? ", or drop a picture anywhere." : null),
    el("div", { class: "cards" }, cards));
  if ($("welcome").firstChild) morph($("welcome").firstChild, fresh);
  else $("welcome").append(fresh);
}

const isAtEnd = () => $("scroll").scrollHeight - $("scroll").scrollTop - $("scroll").clientHeight < 120;
function toEnd() {
  const scroll = $("scroll");
  scroll.scrollTop = $("messages").children.length ? scroll.scrollHeight : 0;
}
// Pictures that load, and a composer that grows, must not push the end out of sight.
let wasAtEnd = true;
$("scroll").addEventListener("scroll", () => { wasAtEnd = isAtEnd(); });
new ResizeObserver(() => { if (wasAtEnd) toEnd(); }).observe($("messages"));
new ResizeObserver(() => { if (wasAtEnd) toEnd(); }).observe($("scroll"));

const firstChannel = () => [...channels.values()].find((c) => c.type === 0)?.id ?? [...channels.keys()][0] ?? "";

function toast(text, isBad = false) {
  const node = el("p", { class: isBad ? "toast bad" : "toast", text });
  $("toasts").append(node);
  setTimeout(() => node.remove(), 6000);
}
const say = (text) => toast(text);

// -- what a person does ---------------------------------------------------------------------

function tryTo(work) { work.catch((error) => toast(error.message, true)); }

function press(button, values) {
  const item = button.closest("[data-id]");
  button.dataset.pending = "yes";
  item.querySelector(".failed").hidden = true;
  const customId = button.dataset.customId ?? button.dataset.sendMany;
  tryTo(act.press(item.dataset.id, customId, values).catch((error) => { delete button.dataset.pending; throw error; }));
}

$("messages").addEventListener("click", (event) => {
  const on = (selector) => event.target.closest(selector);
  const veil = on("[data-shown=no]");
  if (veil) { veil.dataset.shown = "yes"; veil.setAttribute("aria-expanded", "true"); event.preventDefault(); return; }
  const large = on("[data-large]");
  if (large) return openLarge(large.dataset.large, large.querySelector("img").alt);
  const button = on("button[data-custom-id]");
  if (button && !button.disabled && !button.dataset.pending) return press(button, []);
  const many = on("[data-send-many]");
  if (many) return press(many, [...many.closest("fieldset").querySelectorAll("input:checked")].map((input) => input.value));
  const menu = on("[data-menu]");
  if (menu) return messageMenu(menu);
  const dismiss = on("[data-dismiss]");
  if (dismiss) { dismissed.add(dismiss.dataset.dismiss); dismiss.closest("[data-id]").remove(); return drawWelcome(); }
  const lost = on("[data-forget]");
  if (lost) { forget(lost.dataset.forget); drawWelcome(); }
});
$("messages").addEventListener("change", (event) => {
  const select = event.target.closest("select[data-custom-id]");
  if (select?.value) press(select, [select.value]);
});
document.addEventListener("click", (event) => {
  const jump = event.target.closest("[data-jump]");
  if (jump) { event.preventDefault(); jumpTo(jump.dataset.jump, jump.dataset.message); }
  const command = event.target.closest("[data-command]");
  if (command) write.openNamed(command.dataset.command);
  const example = event.target.closest("[data-example]");
  if (example) write.openNamed(write.pictureCommand().path, { example: state.examples.find((e) => e.name === example.dataset.example) });
  const channel = event.target.closest("[data-channel]");
  if (channel) showChannel(channel.dataset.channel);
});

function jumpTo(channel, message) {
  if (channel !== state.open && channels.has(channel)) showChannel(channel);
  const node = message && document.querySelector(`[data-id="${message}"]`);
  if (!node) return;
  node.scrollIntoView({ block: "center", behavior: "smooth" });
  node.classList.add("found");
  setTimeout(() => node.classList.remove("found"), 2000);
}

function messageMenu(anchor) {
  const message = messages.get(anchor.dataset.menu);
  const channel = channels.get(message.channel_id);
  const apps = message.flags & 64 ? [] : state.commands.filter((c) => c.type === MESSAGE_MENU);
  const entries = apps.map((c) => ({ label: c.name, run: () => tryTo(send("do/menu", state.me, { message_id: message.id, command: c.name })) }));
  if (message.author.id === state.me || channel?.may_delete) entries.push({ label: "Delete message", isDanger: true, run: () => tryTo(send("do/delete", state.me, { message_id: message.id })) });
  if (entries.length) openMenu(anchor, entries, "Message");
  else toast("The bot offers nothing for this message.");
}

function attach(list) {
  if (!list.length) return;
  if (modal?.open && modal.attach) return modal.attach(list);
  const command = write.pictureCommand();
  const isInvited = command && $("welcome").firstChild && !document.querySelector("form.command") && list[0].type.startsWith("image/");
  if (isInvited) write.openNamed(command.path, { file: list[0] });
  else write.attach(list);
}
addEventListener("paste", (event) => { const list = [...event.clipboardData.files]; if (list.length) { event.preventDefault(); attach(list); } });
let dragDepth = 0;
const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
addEventListener("dragenter", (event) => { if (hasFiles(event)) { dragDepth += 1; $("drop").hidden = false; } });
addEventListener("dragleave", () => { dragDepth = Math.max(0, dragDepth - 1); if (!dragDepth) $("drop").hidden = true; });
addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => { if (!hasFiles(event)) return; event.preventDefault(); dragDepth = 0; $("drop").hidden = true; attach([...event.dataTransfer.files]); });
addEventListener("hashchange", () => { const id = location.hash.slice(1); if (channels.has(id) && id !== state.open) showChannel(id); });

$("me").addEventListener("change", () => { sessionStorage.setItem("me", $("me").value); state.me = $("me").value; unread.clear(); connect(); });

const openSide = () => { document.body.classList.add("with-side"); $("open-side").setAttribute("aria-expanded", "true"); $("channels").querySelector("[aria-current]")?.focus(); };
const closeSide = () => { document.body.classList.remove("with-side"); $("open-side").setAttribute("aria-expanded", "false"); };
$("open-side").addEventListener("click", (event) => { event.stopPropagation(); document.body.classList.contains("with-side") ? closeSide() : openSide(); });
$("main").addEventListener("click", closeSide);
$("side").addEventListener("keydown", (event) => { if (event.key === "Escape") closeSide(); });

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme ?? "");
}
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
});
setTheme(localStorage.getItem("theme") || null);

function connect() {
  stop();
  stop = listen(state.me, (news) => TELLERS[news.kind]?.(news), (isLost) => { if (state.isLost !== isLost) { state.isLost = isLost; drawPlace(); } });
}
startCounting();
connect();
