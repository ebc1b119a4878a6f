// A message as a list item: who, in answer to what, text, embeds, files, components.
import { el, icon } from "./dom.js";
import { components } from "./components.js";
import { inline, markdown } from "./markdown.js";
import { attachment, picture } from "./media.js";
import { short } from "./time.js";

const EPHEMERAL = 1 << 6, LOADING = 1 << 7;
const DOTS = "M4.500 8.500a1.500 1.500 0 1 1 0 3 1.500 1.500 0 0 1 0-3Zm5.500 0a1.500 1.500 0 1 1 0 3 1.500 1.500 0 0 1 0-3Zm5.500 0a1.500 1.500 0 1 1 0 3 1.500 1.500 0 0 1 0-3Z";
const SAME_BREATH_MS = 7 * 60_000;

/** A round letter in the user's own colour. */
export function avatar(user) {
  if (user?.bot) return el("img", { class: "avatar", src: "/page/static/icon.svg", alt: "", width: 40, height: 40 });
  const hue = [...(user?.username ?? "?")].reduce((sum, c) => sum + c.codePointAt(0) * 37, 0) % 360;
  return el("span", { class: "avatar", "aria-hidden": "true", style: { background: `hsl(${hue} 45% 45%)` }, text: (user?.username ?? "?")[0].toUpperCase() });
}

/** The message as it stands. `before` is the one above it, if any. */
export function render(message, before, names) {
  const isEphemeral = Boolean(message.flags & EPHEMERAL);
  const mentionsMe = message.pings.includes(names.me);
  const command = message.interaction?.name;
  const isNew = !joins(message, before) || command || message.referenced_message !== undefined;
  const item = el("li", {
    class: ["message", isNew ? "first" : "", isEphemeral ? "ephemeral" : "", mentionsMe ? "pings-me" : ""].filter(Boolean).join(" "),
    "data-id": message.id, id: `m${message.id}`,
  },
  command ? answersCommand(message.interaction) : null,
  message.referenced_message !== undefined ? answers(message.referenced_message, names) : null,
  isNew ? el("div", { class: "who-picture" }, avatar(message.author)) : el("span", { class: "when-small", text: short(message.timestamp).slice(-5) }),
  el("div", { class: "body" },
    isNew ? head(message) : null,
    content(message, names),
    message.embeds.map((embed) => renderEmbed(embed, names)),
    message.attachments.length ? el("div", { class: "attachments" }, message.attachments.map(attachment)) : null,
    (message.message_snapshots ?? []).map((one) => forwarded(one.message, names)),
    message.components.length ? el("div", { class: "components" }, components(message.components, names)) : null,
    el("p", { class: "failed", hidden: true, role: "alert", text: "This interaction failed" }),
    isEphemeral ? el("p", { class: "only-you" }, "Only you can see this · ", el("button", { type: "button", class: "plain", "data-dismiss": message.id, text: "Dismiss message" })) : null),
  el("div", { class: "tools" }, el("button", { type: "button", class: "icon", "data-menu": message.id, "aria-haspopup": "menu", "aria-label": `More about the message of ${message.author.username}` }, icon(DOTS))));
  return item;
}

function joins(message, before) {
  if (!before || before.author.id !== message.author.id) return false;
  if ((before.flags ^ message.flags) & EPHEMERAL) return false;
  return new Date(message.timestamp) - new Date(before.timestamp) < SAME_BREATH_MS;
}

function head(message) {
  return el("p", { class: "who" },
    el("strong", { text: message.author.username }),
    message.author.bot ? el("span", { class: "badge", text: "App" }) : null,
    el("time", { class: "when", datetime: message.timestamp, text: short(message.timestamp) }));
}

function answersCommand(interaction) {
  return el("p", { class: "answers" }, el("strong", { text: interaction.user.username }), " used ", el("span", { class: "mention", text: `/${interaction.name}` }));
}

function answers(target, names) {
  if (target === null) return el("p", { class: "answers" }, el("em", { text: "Original message was deleted" }));
  const says = target.content || target.embeds[0]?.title || (target.attachments.length ? "a file" : "a message");
  return el("p", { class: "answers" }, el("a", { href: `#m${target.id}`, "data-jump": target.channel_id, "data-message": target.id },
    el("strong", { text: target.author.username }), " ", el("span", { class: "says" }, inline(says.split("\n")[0], names))));
}

function content(message, names) {
  if (message.flags & LOADING) return el("p", { class: "thinking" }, `${message.author.username} is thinking`, el("span", { class: "dots", "aria-hidden": "true" }));
  if (!message.content && !message.edited_timestamp) return null;
  const edited = message.edited_timestamp && message.content ? el("span", { class: "edited", text: "(edited)", title: short(message.edited_timestamp) }) : null;
  if (!message.content) return null;
  const blocks = markdown(message.content, names);
  if (edited) blocks.at(-1)?.append(edited);
  return el("div", { class: "text" }, blocks);
}

function forwarded(copy, names) {
  return el("article", { class: "embed" },
    el("p", { class: "embed-footer", text: "Forwarded" }),
    content(copy, names),
    copy.embeds.map((embed) => renderEmbed(embed, names)),
    copy.attachments.length ? el("div", { class: "attachments" }, copy.attachments.map(attachment)) : null);
}

function renderEmbed(embed, names) {
  const box = el("article", { class: "embed" },
    embed.thumbnail ? picture(embed.thumbnail, "", false, "thumbnail") : null,
    embed.author ? el("p", { class: "embed-author", text: embed.author.name }) : null,
    embed.title ? el("p", { class: "embed-title" }, inline(embed.title, names)) : null,
    embed.description ? el("div", { class: "text" }, markdown(embed.description, names)) : null,
    embed.fields?.length ? el("dl", { class: "fields" }, embed.fields.map((field) => el("div", { class: field.inline ? "inline" : "" },
      el("dt", {}, inline(field.name, names)), el("dd", {}, markdown(field.value, names))))) : null,
    embed.image ? picture(embed.image, "Preview") : null,
    embed.footer || embed.timestamp ? el("p", { class: "embed-footer", text: [embed.footer?.text, embed.timestamp ? short(embed.timestamp) : ""].filter(Boolean).join(" · ") }) : null);
  if (embed.color !== null && embed.color !== undefined) box.style.setProperty("--accent-line", `#${embed.color.toString(16).padStart(6, "0")}`);
  return box;
}

/** A command on its way: asked, or never answered. */
export function renderAsked(asked, user) {
  return el("li", { class: asked.failed ? "message first asked lost" : "message first asked", "data-asked": asked.id },
    el("p", { class: "answers" }, el("strong", { text: user.username }), " used ", el("span", { class: "mention", text: `/${asked.command}` })),
    el("div", { class: "who-picture" }, avatar({ bot: true })),
    el("div", { class: "body" },
      asked.failed
        ? el("p", { class: "lost-word", role: "alert" }, asked.failed, " · ", el("button", { type: "button", class: "plain", "data-forget": asked.id, text: "Dismiss" }))
        : el("p", { class: "thinking" }, "Sending the command", el("span", { class: "dots", "aria-hidden": "true" }))));
}
