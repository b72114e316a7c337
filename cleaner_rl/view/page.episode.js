// An episode's page: the history that is trained, each rollback as a card, and the raw lane.

const RULES = {
  purified: "the cleaned history takes the advantage, its grafted tokens too",
  positive: "grafted tokens are only ever praised",
  contrastive: "where an episode did badly, the calls that really failed take the blame, not their replacements",
  branched: "every call that a rollback took away is trained as a failure",
};
const DECISIONS = {
  shallow: "The calls are alike, so only the call was replaced; the reasoning before it stays.",
  deep: "The whole turn was replaced, its reasoning included.",
};

/** The page of an episode; `detail` is what its chunk holds, `query` the choices in the address. */
function episodePage(e, detail, query) {
  const lanes = lanesOf(detail.tokens);
  const rules = Object.keys(detail.tokens?.rules ?? {});
  const page = (state.page = { e, g: groupOf(e), detail, query, lanes, rules, painters: [], tokens: [] });
  page.rule = [query.get("credit"), page.g.rule].find((rule) => rules.includes(rule)) ?? rules[0];
  page.layer = lanes && query.get("layer") in LAYERS ? query.get("layer") : "text";
  const both = h("div.lanes", {}, purifiedLane(page), rawLane(detail));
  both.classList.toggle("both", query.has("raw"));
  return [
    h("h1", {}, firstLine(page.g.prompt)),
    factsOf(page),
    h("p.lead", {}, story(e)),
    controls(page),
    both,
    lanes && extraLanes(page),
  ];
}

function factsOf(page) {
  const { e, g, detail } = page;
  const advantage = h("span.fact", {});
  page.painters.push(() => advantage.replaceChildren(h("span.quiet", {}, "advantage "),
    advantageBar(advantageOf(page))));
  return h("p.facts", {}, verdict(e),
    fact("answered", known(detail.answer) ? firstLine(detail.answer, 60) : "nothing that can be graded"),
    fact("right answer", firstLine(g.answer ?? "unknown", 60)), fact("reward", number(e.reward)), advantage);
}

/** The advantage of the page's episode under the chosen rule. */
const advantageOf = ({ e, g, rule }) =>
  rule && rule !== g.rule ? g.advantages?.[rule]?.members[e.member] : e.advantage;

/** What happened, in a few sentences. */
function story(e) {
  const repaired = e.outcomes.filter((outcome) => outcome === "recovered").length;
  const others = e.outcomes.filter((outcome) => outcome !== "recovered" && outcome !== "retry");
  const failed = e.failures ? `${e.failures} failed (${e.errors.join(", ")})` : "none failed";
  const calls = e.calls ? `The model made ${count(e.calls, "call")}; ${failed}. ` : "The model made no call. ";
  return [calls,
    repaired > 0 && `${repaired === 1 ? "Once" : `${repaired} times`}, its own correction was put in the failed call’s place, as if the failure had never happened. `,
    others.map((outcome) => `One rollback did not help: ${OUTCOMES[outcome] ?? outcome}. `),
    e.truncated && "The episode ran out of budget."];
}

function controls(page) {
  const choice = (kind, name, text, act) =>
    h("button", { [`data-${kind}`]: name, onclick: () => act(name) }, text);
  const layers = Object.entries(LAYERS).map(([name, { label }]) => choice("layer", name, label, setLayer));
  const rules = page.rules.map((rule) => choice("rule", rule,
    [rule, rule === page.g.rule && h("small", {}, " (this run)")], setCredit));
  const legend = h("p.legend.quiet", {}), credit = h("p.legend.quiet", {});
  drawnBy(page, legend, () => legendOf(page), true);
  drawnBy(page, credit, () => creditSummary(page), true);
  return h("div.controls", {},
    page.lanes && h("div", {}, h("h2", {}, "Show"),
      h("div.choices", { role: "group", "aria-label": "What the tokens are coloured by" }, layers), legend),
    page.lanes && h("div", {}, h("h2", {}, "Who gets the credit"),
      h("div.choices", { role: "group", "aria-label": "Credit rule" }, rules), credit),
    !page.lanes && h("p.quiet", {}, "Tokens and credit: not computed. This file has no training record."),
    h("button.plain", { id: "raw", "aria-pressed": String(page.query.has("raw")), onclick: toggleRaw },
      "Raw lane: what was really sampled, beside it"));
}

/** The rule in words, and how many tokens it makes likelier and less likely. */
function creditSummary(page) {
  const { rule, g, lanes } = page;
  if (!rule) return "This episode was not trained.";
  const counts = { up: 0, down: 0, flat: 0 };
  const credits = lanes.flatMap((lane) => lane.credit[rule] ?? []).filter((a) => a !== null);
  for (const a of credits) counts[a > 0 ? "up" : a < 0 ? "down" : "flat"]++;
  return [h("b", {}, `${rule}: ${RULES[rule] ?? ""}. `),
    Object.entries(COUNTED)
      .map(([way, says]) => counts[way] > 0 && [push(way, `${count(counts[way], "token")} ${says}`), ". "]),
    g.has_signal === false
      && "All tries of the group earned the same, so there is nothing to learn under the rule of the run."];
}

const COUNTED = { up: "made likelier", down: "made less likely", flat: "in the loss, not pushed" };
const push = (way, text) => h(`span.push.${way}`, {}, { up: "▲ ", down: "▼ ", flat: "○ " }[way], text);

/** The history on which the model is trained; a rollback's card encloses the turn that stays. */
function purifiedLane(page) {
  const { detail, e } = page;
  const lane = h("section.lane", { "aria-label": "The history that is trained" }, promptBlock(page));
  detail.turns.forEach((turn, position) => {
    const records = detail.rollbacks.filter((record) => record.position === position);
    const spliced = records.filter((record) => record.spliced);
    const block = turnBlock(page, turn, position, spliced.at(-1));
    for (const record of spliced) add(lane, rollbackCard(page, record, record === spliced.at(-1) && block));
    if (!spliced.length) lane.append(block);
    add(lane, records.filter((record) => !record.spliced).map((record) => rollbackCard(page, record, null)));
  });
  lane.append(h("p.quiet", {},
    e.truncated ? "Here the episode ran out of budget." : "Here the episode ended."));
  return lane;
}

function promptBlock(page) {
  const body = h("div", {});
  const { prompt } = page.detail;
  const text = () => prompt.map(({ role, content }) =>
    [prompt.length > 1 && h("p.quiet.role", {}, role), folded("div.prose", content)]);
  drawnBy(page, body, () => (page.layer === "text" ? text() : tokenRun(page, 0, page.lanes[0].prompt)));
  return h("article.turn.stop", { tabindex: -1 }, h("h3", {}, "The problem"), body);
}

/** A turn that stayed, and the tool's answer; `record` is the rollback that put it there. */
function turnBlock(page, turn, position, record) {
  const part = page.lanes?.[0].turns[position];
  const said = h("div", {}), answered = h("div", {}), chip = h("span.chip");
  const text = () => page.layer === "text" || !part;
  const unseen = part && part.answered[0] === part.answered[1]; // the answer to the last turn is not in the lane
  drawnBy(page, said, () => (text() ? spoken(turn, record?.decision) : tokenRun(page, 0, part.said)));
  drawnBy(page, answered, () =>
    text() || unseen ? toolAnswer(turn) : [toolTitle(turn), tokenRun(page, 0, part.answered)]);
  if (part) page.painters.push(() => chip.replaceChildren(pushOf(page, page.lanes[0], part.said)));
  const stays = record?.outcome === "recovered" ? ", as if the failure had never happened" : ", with its error";
  const title = record ? [h("span.step", {}, "3"), "This is what stays", stays]
    : turn.call ? "The model calls Python" : "The model answers";
  return h("article.turn.stop", { tabindex: -1 },
    h("h3", {}, h("span", {}, title, turn.masked && " (left out of the loss)"), chip), said,
    known(turn.observation) && answered);
}

/** A turn as text; what a splice brought into it is marked. */
function spoken(turn, decision) {
  const mark = h("p.graftmark", {}, "G grafted from the correction: ", decision === "deep" ? "the whole turn" : "the call");
  const reasoning = turn.reasoning.trim();
  const after = turn.call ? turn.text.slice(turn.text.indexOf(turn.call) + turn.call.length).trim() : "";
  return [
    decision === "deep" && mark,
    reasoning && folded("div.prose", reasoning),
    decision === "shallow" && mark,
    turn.call && folded(`pre.code${decision ? ".grafted" : ""}`, callOf(turn)),
    after && folded("div.prose", after),
  ];
}

const callOf = (turn) => turn.code ?? turn.call ?? turn.text;
const toolTitle = (turn) => h("p.role", {},
  turn.ok === false ? h("span.bad", {}, `✗ Failed: ${turn.error || "error"}`)
  : turn.ok ? h("span.good", {}, "✓ Python printed") : h("span.quiet", {}, "The environment said"));
const toolAnswer = (turn) => known(turn.observation)
  && [toolTitle(turn), folded(`pre.output${turn.ok === false ? ".failed" : ""}`, turn.observation)];

/** A rollback: the failed call, the correction, and the turn that stays (null if that is not here). */
function rollbackCard(page, record, stays) {
  const { failed, answer, spliced } = record;
  const [before, after] = spliced ? diffLines(callOf(failed), callOf(answer)) : [[], []];
  const summary = h("summary", {},
    h("span.tag.splice", {}, "↺ Rollback", record.retry > 1 && `, try ${record.retry}`),
    h("span", {}, failed.error || "A call failed", " → ",
      h(record.outcome === "recovered" ? "b.good" : "b.bad", {}, OUTCOMES[record.outcome] ?? record.outcome)));
  const left = h("div.side.failed", {},
    sideTitle("1", `This call failed${spliced ? " and was taken out" : ""}`, creditChip(page, record, "failed")),
    failed.reasoning.trim() && folded("div.prose.quiet", failed.reasoning.trim()),
    spliced ? diffSide(before, after) : folded("pre.code", callOf(failed)),
    toolAnswer(failed));
  const right = h("div.side.answer", {},
    sideTitle("2", `Shown the error, the model ${spliced ? "wrote this instead" : "said"}`, creditChip(page, record, "answer")),
    answer.reasoning.trim() && folded("div.prose.quiet", answer.reasoning.trim()),
    spliced ? diffSide(after, before) : answer.call && folded("pre.code", callOf(answer)));
  const strip = h("p.facts.strip", {}, factsOfRollback(record, page.g.gamma));
  const onward = record.outcome === "retry"
    && h("p.strip", {}, "The correction took its place, ran, and failed too. The next card shows what followed.");
  return h("div.card.stop", { tabindex: -1 },
    h("details", { open: true }, summary, h("div.sides", {}, left, right), strip, onward), stays);
}

const sideTitle = (step, text, chip) => h("h4", {}, h("span", {}, h("span.step", {}, step), text), chip);

function factsOfRollback(record, gamma) {
  const { similarity, decision, discarded } = record;
  return [known(similarity) && meter(similarity, gamma),
    decision ? h("span.fact", {}, h("b", {}, decision), h("span.quiet", {}, ` · ${DECISIONS[decision]}`))
    : h("span.fact", {}, "Nothing was replaced."),
    discarded > 0 && h("span.fact", { title: "What the splice replaced, and what of the answer it did not use." },
      h("b", {}, count(discarded, "token")), h("span.quiet", {}, " thrown away"))];
}

/** A bar with the similarity of the two calls, and a tick at the threshold. */
function meter(similarity, gamma) {
  const than = known(gamma) ? (similarity >= gamma ? `, at least γ ${gamma}` : `, below γ ${gamma}`) : "";
  const title = "From 0 to 1. From the threshold γ on, only the call is replaced; below it, the whole turn.";
  const bar = { "aria-hidden": "true", "--size": similarity, "--gamma": gamma ?? 0 };
  return h("span.fact", { title }, h("span.quiet", {}, "similarity "),
    h("span.meter", bar, known(gamma) && h("i")), ` ${number(similarity)}${than}`);
}

/** What the chosen rule does with the failed call of a rollback, or with its answer, where it was sampled. */
function creditChip(page, record, side) {
  const chip = h("span.chip");
  if (!page.lanes) return chip;
  const records = page.detail.rollbacks;
  const before = records.findIndex(({ position, retry }) =>
    position === record.position && retry === record.retry - 1);
  const [kind, rollback] = side === "failed" && before >= 0 ? ["lookahead", before]
    : [side === "failed" ? "removed call" : "lookahead", records.indexOf(record)];
  const lane = page.lanes.find((one) => one.kind === kind && one.rollback === rollback);
  const paint = () => chip.replaceChildren(pushOf(page, lane, lane.turns.at(-1).said));
  if (lane && record.spliced) page.painters.push(paint);
  return chip;
}

/** How the tokens [from, to) of a lane are pushed under the chosen rule, in a few words. */
function pushOf(page, lane, [from, to]) {
  const trained = (lane.credit[page.rule] ?? []).slice(from, to).filter((a) => a !== null);
  if (!trained.length) return push("flat", page.rule ? "not trained" : "not computed");
  const low = trained.reduce((a, b) => Math.min(a, b)), high = trained.reduce((a, b) => Math.max(a, b)),
    tokens = count(to - from, "token"),
    share = trained.length < to - from ? `${trained.length} of these ${tokens}` : tokens;
  if (low !== high) return push(high > 0 ? "up" : "down", `${signed(low)} to ${signed(high)} on ${share}`);
  const way = high > 0 ? "up" : high < 0 ? "down" : "flat";
  return push(way, way === "flat" ? COUNTED.flat : `${COUNTED[way]} (${signed(high)} on ${share})`);
}

/** Everything that the model sampled, in order, with what a splice took away. */
function rawLane({ raw_turns }) {
  const turns = raw_turns.map((turn, i) => {
    const next = raw_turns[i + 1], taken = turn.ok === false && next?.retry > turn.retry && next.call;
    return h(`article.turn${taken ? ".taken" : ""}`, {},
      h("h3", {}, h("span", {}, `Sampled ${i + 1}`, turn.retry > 0 && h("small.quiet", {}, " shown the error")),
        taken && h("small.bad", {}, "✗ taken out")),
      spoken(turn), toolAnswer(turn));
  });
  return h("section.lane.raw", { "aria-label": "As sampled" },
    h("h2", {}, "Raw lane: as the model sampled it"), turns);
}

function toggleRaw() {
  const { query } = state.page;
  if (query.has("raw")) query.delete("raw");
  else query.set("raw", "1");
  main.querySelector(".lanes").classList.toggle("both", query.has("raw"));
  document.getElementById("raw").setAttribute("aria-pressed", String(query.has("raw")));
  keepAddress();
}
