// The run's page (curves, filters, the list of episodes) and a group's page.

const OUTCOMES = {
  recovered: "the correction works",
  retry: "the correction fails too, one more try",
  exhausted: "the correction fails too, no tries left",
  gave_up: "the model answered without a call",
  cut_off: "the budget ran out",
};
const SHORT = {
  recovered: "repaired", retry: "tried again", exhausted: "not repaired", gave_up: "gave up", cut_off: "cut off",
};
const SORTS = {
  taught: ["taught most first", (e) => pull(e),
    "An episode teaches more, the larger its advantage and the more of its tokens stayed."],
  gap: ["worst gap first", (e) => e.gap ?? -1,
    "A gap above rounding means that the sampler and the trainer disagree."],
  grafted: ["worst gap of grafted tokens first", (e) => e.grafted_gap ?? -1,
    "Grafted tokens were sampled with the error in view, so a gap is expected."],
  spread: ["largest spread of rewards first", (e) => groupOf(e).spread ?? -1,
    "The more the rewards of a problem’s tries differ, the more there is to compare."],
  discarded: ["most tokens thrown away first", (e) => e.discarded ?? -1, ""],
};
const FIRST_CURVES = ["reward", "accuracy", "failed_calls", "first_call_failed", "triggered", "entropy"];
const PAGE_ROWS = 100;
const groupOf = (e) => data.groups[e.group];

/** The filters: a name in the address, a label, the choices, and whether an episode fits one. */
const FILTERS = [
  ["step", "Step", () => distinct(data.groups.map((g) => g.step)),
    (e, value) => String(groupOf(e).step) === value],
  ["arm", "Run", () => distinct(data.groups.map((g) => g.arm)), (e, value) => groupOf(e).arm === value],
  ["family", "Task family", () => distinct(data.groups.map((g) => g.family)),
    (e, value) => groupOf(e).family === value],
  ["answer", "Answer", () => ["right", "wrong"], (e, value) => e.correct === (value === "right")],
  ["rollback", "Rollback", () => ["any", "none", ...distinct(data.episodes.flatMap((e) => e.outcomes))],
    (e, value) => e.outcomes.includes(value) || value === (e.outcomes.length ? "any" : "none")],
  ["error", "Error", () => distinct(data.episodes.flatMap((e) => e.errors)),
    (e, value) => e.errors.includes(value)],
  ["teaches", "Group teaches", () => (data.groups.some((g) => known(g.has_signal)) ? ["yes", "no"] : []),
    (e, value) => groupOf(e).has_signal === (value === "yes")],
];

const distinct = (values) => [...new Set(values)].filter((v) => known(v) && v !== "")
  .sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
/** How hard an episode pulls on the policy: its advantage, times its tokens that stayed. */
const pull = (e) => Math.abs(e.advantage ?? 0) * (e.tokens - e.discarded);
const link = (hash, ...text) => h("a", { href: hash }, text);
const verdict = (e) => h(e.correct ? "span.good" : "span.bad", {}, e.correct ? "✓ right" : "✗ wrong");
const smallNumber = (value) => (known(value) && value < 0.00005 ? "< 0.0001" : number(value, 4));
const thrownAway = (e) => e.discarded > 0 && h("small.quiet", {}, `${e.discarded} of them thrown away`);

/** The episodes that the filters of an address let through, in their order. */
function chosen(query) {
  const words = (query.get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FILTERS.filter(([name]) => query.get(name))
    .map(([name, , , fits]) => (e) => fits(e, query.get(name)));
  const fits = (e) => wanted.every((one) => one(e)) && words.every((word) => e.searched.includes(word));
  const found = data.episodes.filter(fits);
  const key = SORTS[query.get("sort")]?.[1];
  return key ? found.sort((a, b) => key(b) - key(a)) : found;
}

/** The page of a run: curves, filters, and a row for each episode. */
function runPage(query) {
  const list = h("div", { id: "list" });
  const refresh = (name, value) => {
    if (value) query.set(name, value);
    else query.delete(name);
    history.replaceState(null, "", address("#/", query));
    list.replaceChildren(...episodeRows(query));
  };
  const chooseStep = (step) => {
    refresh("step", String(step));
    main.querySelector("select[name=step]").value = step;
    list.scrollIntoView({ behavior: "smooth", block: "start" });
  };
  list.append(...episodeRows(query));
  return [
    h("h1", {}, data.title),
    h("p.lead", {}, "The model tries every problem several times, and may run Python. Where a call failed and the model corrected itself, ",
      "the correction took the failed call’s place: a ", h("span.tag.splice", {}, "↺ rollback"), ". Each row below is one try."),
    h("p.quiet", {}, known(data.gamma) && `Similarity threshold γ ${data.gamma}. `,
      data.rule && `Credit rule of this run: ${data.rule} (${RULES[data.rule] ?? "of this project"}).`),
    curves(chooseStep),
    h("h2", {}, "Episodes"),
    filterBar(query, refresh),
    list,
  ];
}

function filterBar(query, refresh) {
  const option = (name) => ([value, text]) =>
    h("option", { value, selected: String(value) === (query.get(name) ?? "") }, text);
  const select = (name, label, none, options) => options.length > 0 && h("label", {}, h("span.quiet", {}, label),
    h("select", { name, onchange: (event) => refresh(name, event.target.value) }, [["", none], ...options].map(option(name))));
  const search = h("input",
    { type: "search", id: "search", placeholder: "words of a problem, an error …", value: query.get("q"),
    oninput: (event) => refresh("q", event.target.value) });
  return h("form.filters", { onsubmit: (event) => event.preventDefault() },
    h("label.wide", {}, h("span.quiet", {}, "Search ", h("kbd", {}, "/")), search),
    FILTERS.map(([name, label, options]) => select(name, label, "all",
      options().map((value) => [value, SHORT[value] ?? value]))),
    select("sort", "Order", "as played", Object.entries(SORTS).map(([name, [text]]) => [name, text])));
}

function episodeRows(query) {
  const found = (state.list = chosen(query));
  const showAll = () => h("button.plain",
    { onclick: () => { history.replaceState(null, "", "#/"); route(); } }, "Show all");
  const head = h("p.quiet", { role: "status" },
    `${count(found.length, "episode")} of ${data.episodes.length.toLocaleString("en")} `,
    [...query.keys()].length > 0 && showAll(), ` ${SORTS[query.get("sort")]?.[2] ?? ""}`);
  const heads = {
    Step: "",
    Problem: "",
    Answer: "",
    Advantage: "Reward compared with the other tries at the problem: above 0 is reinforced, below 0 discouraged",
    "Failed calls": "Calls that failed, and what became of each rollback",
    Tokens: "Tokens that the model sampled",
    "Worst gap": "Largest difference between a token’s log-probability when it was sampled and in training" };
  const rowAt = (e) => episodeRow(e, found[found.indexOf(e) - 1]?.group === e.group);
  const body = h("tbody", {}, found.slice(0, PAGE_ROWS).map(rowAt));
  const more = h("button.more", { onclick: () => {
    add(body, found.slice(body.rows.length, body.rows.length + 5 * PAGE_ROWS).map(rowAt));
    if (body.rows.length >= found.length) more.remove();
  } }, "Show more rows");
  const cells = Object.entries(heads).map(([text, title]) => h("th", { scope: "col", title: title || null }, text));
  const table = h("table.rows", {}, h("thead", {}, h("tr", {}, cells)), body);
  if (!found.length) return [h("p", {}, "No episode fits. ", showAll())];
  return found.length > PAGE_ROWS ? [head, table, more] : [head, table];
}

/** A row; `again` says that the row above it is of the same problem. */
function episodeRow(e, again) {
  const g = groupOf(e);
  const open = h("a.stop", { href: `#/episode/${e.id}` }, again ? "the same problem" : firstLine(g.prompt));
  const follow = (event) => {
    if (!event.target.closest("a") && !String(getSelection())) location.hash = open.hash;
  };
  return h(again ? "tr.again" : "tr", { onclick: follow },
    h("td.num", {}, g.step ?? "–"),
    h("td.problem", {}, open, h("small.quiet", {}, g.arm && `${g.arm} · `, `${g.family} · `,
      link(`#/group/${e.group}`, `try ${e.member + 1} of ${g.rewards.length}`))),
    h("td", {}, verdict(e)),
    h("td", {}, advantageBar(e.advantage)),
    h("td", {}, failedCalls(e)),
    h("td.num", {}, e.tokens, thrownAway(e)),
    h("td.num", {}, known(e.gap) ? smallNumber(e.gap) : h("small.quiet", {}, "not computed"),
      known(e.grafted_gap) && h("small.quiet", {}, `grafted ${number(e.grafted_gap)}`)));
}

/** How many calls failed, with which errors, and what became of the rollbacks. */
function failedCalls(e) {
  const ended = e.outcomes.filter((outcome) => outcome !== "retry");
  return [e.failures > 0 ? h("span.nobreak", {}, `${e.failures} of ${e.calls} `)
    : h("span.quiet", {}, e.calls ? `none of ${e.calls}` : "no call"),
    ended.map((outcome) =>
      h(`span.tag.${outcome === "recovered" ? "splice" : "fail"}`, {}, "↺ ", SHORT[outcome] ?? outcome)),
    e.errors.length > 0 && h("small.quiet", {}, e.errors.join(", "))];
}

/** A bar to the right of the middle for what is reinforced, to the left for what is discouraged. */
function advantageBar(value) {
  if (!known(value)) return h("small.quiet", {}, "not computed");
  const bar = h("span.bar", { "--size": Math.min(1, Math.abs(value) / state.largest).toFixed(3) });
  return h(`span.advantage${value > 0 ? ".up" : value < 0 ? ".down" : ""}`, {}, h("span.track", {}, bar),
    h("span.num", {}, signed(value)));
}

/** The page of a group: all tries at one problem side by side. */
function groupPage(id, details) {
  const g = data.groups[id];
  const members = g.episodes.map((number) => data.episodes[number]);
  const most = members.reduce((a, b) => (pull(b) > pull(a) ? b : a));
  const branch = g.advantages?.[g.rule]?.branches;
  const lesson = !known(g.has_signal) ? "" : g.has_signal
    ? "Every try is compared with the others: what ended better than the mean is made likelier, what ended worse is made less likely. "
    : "All tries earned the same, so there is nothing to compare: this group teaches nothing. ";
  return [
    h("h1", {}, `One problem, ${count(g.rewards.length, "try", "tries")}`),
    folded("blockquote", details[0].prompt.at(-1)?.content ?? g.prompt),
    h("p.facts", {}, fact("right answer", g.answer ?? "unknown"), fact("family", g.family),
      known(g.step) && fact("step", g.step), fact("spread of rewards", number(g.spread))),
    h("p.lead", {}, lesson,
      branch ? `${count(g.branches, "call")} that rollbacks took away take part as failures (advantage ${signed(branch)}).` : ""),
    h("div.members", {}, members.map((e, i) => memberCard(e, details[i], g.has_signal && e === most))),
    members.length < g.rewards.length
      && h("p.quiet", {}, `${g.rewards.length - members.length} more tries were played and are not kept.`),
  ];
}

function memberCard(e, detail, most) {
  const facts = [["reward", number(e.reward)], ["advantage", advantageBar(e.advantage)], ["turns", e.turns],
    ["failed calls", failedCalls(e)], ["tokens", [e.tokens, " ", thrownAway(e)]], ["worst gap", smallNumber(e.gap)]];
  return h("article.member", {},
    h("h3", {}, h("a.stop", { href: `#/episode/${e.id}` }, `Try ${e.member + 1}`), verdict(e),
      most && h("span.tag", { title: "Its advantage times its tokens is the largest" }, "★ taught most")),
    h("ol.events", {}, detail.raw_turns.map((turn, i) => h("li", {}, eventOf(turn, detail.raw_turns[i + 1])))),
    h("dl", {}, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

/** One line for a turn of a try. */
function eventOf(turn, next) {
  if (turn.ok === false) return [h("span.bad", {}, `✗ ${turn.error || "error"}`),
    next?.retry > turn.retry && next.call && h("span.graftmark", {}, " ↺ replaced by")];
  if (turn.ok) return [h("span.good", {}, "✓ "), "printed ",
    h("code", {}, firstLine(turn.observation ?? "", 24) || "nothing")];
  return ["■ said ", h("span", {}, firstLine(turn.text, 60))];
}

/** The nearest step of which episodes are kept. */
function nearestLogged(step) {
  const logged = distinct(data.groups.map((g) => g.step));
  return logged.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a), logged[0] ?? step);
}
