// The two ways to the server: a socket that tells, and forms that ask.

/** Keep a socket open for this user; `tell` gets each piece of news, `lost` whether it is away. */
export function listen(user, tell, lost) {
  let socket = null, isOver = false;
  function open() {
    socket = new WebSocket(`ws://${location.host}/page/live?as=${encodeURIComponent(user ?? "")}`);
    socket.onmessage = (event) => { lost(false); for (const news of JSON.parse(event.data)) tell(news); };
    socket.onclose = () => { if (!isOver) { lost(true); setTimeout(open, 1000); } };
  }
  open();
  return () => { isOver = true; socket.close(); };
}

/** Send a form; what the server says, or an Error with its sentence. */
export async function send(path, user, fields, files = {}) {
  const form = new FormData();
  form.append("fields", JSON.stringify(fields));
  for (const [name, list] of Object.entries(files)) for (const file of list) form.append(`file:${name}`, file, file.name);
  const answer = await fetch(`/page/${path}?as=${user}`, { method: "POST", body: form }).catch(() => null);
  if (!answer) throw new Error("The playground does not answer; is it still running?");
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error ?? `The playground answered ${answer.status}.`);
  return said;
}

export const get = async (path) => (await fetch(`/page/${path}`)).json();
export const getText = async (path) => (await fetch(`/page/${path}`)).text();
