// The page's data, its addresses and its keys.

const [main, inspector, help] = ["main", "inspector", "help"].map((id) => document.getElementById(id));
const data = JSON.parse(document.getElementById("data").textContent);
const state = { page: null, token: null, list: data.episodes, largest: 1e-9 };
const chunks = new Map();

/** What the lists need of every episode, computed once. */
function prepare() {
  document.title = data.title;
  data.episodes.forEach((e, id) => {
    const g = groupOf(e);
    Object.assign(e, { id,
      searched: `${g.prompt} ${g.family} ${g.answer} ${g.arm} ${e.errors.join(" ")}`.toLowerCase() });
    state.largest = Math.max(state.largest, Math.abs(e.advantage ?? 0));
  });
}

const address = (path, query) => (String(query) ? `${path}?${query}` : path);

/** Put the choices of an episode's page into its address. */
function keepAddress() {
  const { e, query } = state.page, token = state.token?.dataset;
  const place = token ? `/token/${token.lane === "0" ? "" : `${token.lane}.`}${token.t}` : "";
  history.replaceState(null, "", address(`#/episode/${e.id}${place}`, query));
}

/** Show what the address names. */
async function route() {
  const asked = location.hash, [path, search] = asked.slice(1).split("?"),
    [, kind, id, , token] = path.split("/");
  const episode = kind === "episode" && data.episodes[id], group = kind === "group" && data.groups[id];
  try {
    const details = await Promise.all((episode ? [episode] : group
      ? group.episodes.map((number) => data.episodes[number]) : []).map(detailOf));
    if (location.hash !== asked) return;
    state.page = state.token = null;
    inspector.hidden = true;
    if (episode) showEpisode(episode, details[0], new URLSearchParams(search), token);
    else if (group) show(groupPage(id, details), [[`Group ${id}`]]);
    else show(kind ? missing(`There is no page ${path}.`) : runPage(new URLSearchParams(search)));
  } catch (error) {
    show(missing(`This cannot be shown: ${error.message}.`));
    throw error;
  }
}

function showEpisode(e, detail, query, token) {
  const at = state.list.indexOf(e), [before, after] = at < 0 ? [] : [state.list[at - 1], state.list[at + 1]];
  show(episodePage(e, detail, query), [[`Group ${e.group}`, `#/group/${e.group}`], [`Episode ${e.id}`],
    before && ["← previous", `#/episode/${before.id}`], after && ["next →", `#/episode/${after.id}`]]);
  if (token) openToken(token);
  else repaint();
}

function show(content, crumbs = []) {
  const shown = crumbs.filter(Boolean)
    .map(([text, href]) => h("span.crumb", {}, href ? link(href, text) : text));
  document.getElementById("crumbs").replaceChildren(link("#/", data.title), ...shown);
  main.replaceChildren();
  add(main, content);
  window.scrollTo(0, 0);
}

const missing = (text) => [h("h1", {}, "Not here"), h("p", {}, text, " ", link("#/", "Show all episodes"))];

/** The details of an episode: unpacked from the page, or fetched from the server that sent it. */
async function detailOf(e) {
  if (!chunks.has(e.chunk)) chunks.set(e.chunk,
    data.chunks ? unpacked(data.chunks[e.chunk]) : fetch(`chunks/${e.chunk}`).then((answer) => answer.json()));
  return (await chunks.get(e.chunk))[e.at];
}

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

/** Move to the next or previous thing at which j and k stop. */
function moveStop(by) {
  const stops = [...main.querySelectorAll(".stop")].filter((one) => one.offsetParent);
  const at = stops.findLastIndex((one) => one.contains(document.activeElement));
  const next = stops[at < 0 ? 0 : at + by];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: next.offsetHeight < innerHeight / 2 ? "center" : "start" });
}

/** Go to the next or previous episode of the list, or group. */
function moveAcross(by) {
  const [, kind, id] = location.hash.slice(1).split(/[/?]/);
  const next = kind === "episode" ? state.list[state.list.indexOf(data.episodes[id]) + by]?.id
    : Number(id) + by;
  if ((kind === "episode" && known(next))
    || (kind === "group" && data.groups[next])) location.hash = `#/${kind}/${next}`;
}

function goUp() {
  if (state.token) selectToken(null);
  else location.hash = state.page ? `#/group/${state.page.e.group}` : "#/";
}

function search() {
  const focus = () => document.getElementById("search")?.focus();
  if (document.getElementById("search")) return focus();
  location.hash = "#/";
  setTimeout(focus, 50);
}

const after = (names, now) => names[(names.indexOf(now) + 1) % names.length];
const KEYS = {
  j: () => moveStop(1),
  k: () => moveStop(-1),
  ArrowRight: () => (state.token ? moveToken(1) : moveAcross(1)),
  ArrowLeft: () => (state.token ? moveToken(-1) : moveAcross(-1)),
  u: goUp,
  "/": search,
  c: () => state.page?.rule && setCredit(after(state.page.rules, state.page.rule)),
  l: () => state.page && setLayer(after(Object.keys(LAYERS), state.page.layer)),
  r: () => state.page && toggleRaw(),
  "?": () => help.showModal(),
};

function onKey(event) {
  const typing = event.target.closest("input, select");
  if (typing && event.key === "Escape") typing.blur();
  if (typing || help.open || event.ctrlKey || event.metaKey || event.altKey || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

const pointedAt = (event) => event.target.closest?.("[data-t]");
prepare();
for (const kind of ["pointerover", "focusin"]) main.addEventListener(kind,
  (event) => pointedAt(event) && inspect(pointedAt(event)));
main.addEventListener("pointerleave", () => (state.token ? inspect(state.token) : (inspector.hidden = true)));
main.addEventListener("click", (event) => pointedAt(event) && selectToken(pointedAt(event)));
document.getElementById("keys").addEventListener("click", () => help.showModal());
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.body).colorScheme === "dark"
    || (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark"
    : "light")) === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", route);
route();
