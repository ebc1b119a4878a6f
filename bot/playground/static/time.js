// Times as Discord shows them, on the playground's clock, which can run ahead of this computer's.

let aheadMs = 0;

export const setNow = (nowMs) => { if (nowMs) aheadMs = nowMs - Date.now(); };
export const now = () => Date.now() + aheadMs;

const STYLES = {
  t: { hour: "2-digit", minute: "2-digit" },
  T: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  d: { dateStyle: "short" },
  D: { dateStyle: "long" },
  f: { dateStyle: "long", timeStyle: "short" },
  F: { dateStyle: "full", timeStyle: "short" },
};
const UNITS = [["year", 31_536_000], ["month", 2_592_000], ["day", 86_400], ["hour", 3600], ["minute", 60], ["second", 1]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** Seconds since 1970 in one of Discord's styles; R counts. */
export function timestamp(seconds, style) {
  if (style !== "R") return new Date(seconds * 1000).toLocaleString("en-GB", STYLES[style] ?? STYLES.f);
  const away = seconds - now() / 1000;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(away) >= size) ?? UNITS.at(-1);
  return relative.format(Math.trunc(away / size), unit);
}

/** "12:03", with the day when it is not today's. */
export function short(iso) {
  const when = new Date(iso);
  const time = when.toLocaleTimeString("en-GB", STYLES.t);
  const isToday = when.toDateString() === new Date(now()).toDateString();
  return isToday ? time : `${when.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${time}`;
}

/** Let every counting timestamp on the page count. */
export function startCounting() {
  setInterval(() => {
    for (const node of document.querySelectorAll("time[data-style=R]")) {
      const text = timestamp(Number(node.dataset.seconds), "R");
      if (node.textContent !== text) node.textContent = text;
    }
  }, 1000);
}
