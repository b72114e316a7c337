// The token layer: every token of a lane, coloured by one of its numbers under a credit rule.

const LAYERS = {
  text: { label: "Text", says: "The plain text. The other views show every token and its numbers." },
  origin: { label: "Origin", says: "Who wrote each token:" },
  loss: { label: "In the loss", says: "Which tokens are trained:" },
  advantage: { label: "Advantage", says: "A bar above a token makes it likelier, a bar below less likely; the taller, the more.",
    scaled: true },
  logprob: { label: "Log-prob", says: "The taller the bar, the less the model expected its own token.",
    scaled: true, unit: "nats" },
  gap: { label: "Gap", says: "The taller the bar, the more log-probability in training differs from that in sampling.",
    scaled: true, unit: "nats" },
  entropy: { label: "Entropy", says: "The taller the bar, the less decided the model was.",
    scaled: true, unit: "nats" },
};
const ORIGINS = {
  p: "the problem",
  e: "the environment (the tool’s answer)",
  s: "the model, sampled here",
  g: "the model’s correction, grafted here",
};
const LANES = {
  "removed call": "The failed call, where it was really sampled",
  lookahead: "The correction, where it was really sampled: after the error",
  extra: "Another sequence",
};

/** An episode's lanes with their tokens' texts, the places of their turns, and the credit of each rule. */
function lanesOf(tokens) {
  if (!tokens) return null;
  const unroll = (runs) => runs.flatMap(([length, value]) => Array(length).fill(value));
  const lanes = tokens.lanes.map((lane) => ({ ...lane, ...placesOf(lane), credit: {},
    text: lane.ids.map((id) => data.texts[id] ?? `[${id}]`) }));
  for (const [rule, samples] of Object.entries(tokens.rules))
    for (const { lane, credit } of samples) lanes[lane].credit[rule] = unroll(credit);
  return lanes;
}

/** Where the prompt and the turns of a lane lie; a turn is what the model said, then the tool's answer. */
function placesOf({ turn, origin }) {
  let at = 0, prompt = [0, 0];
  const turns = [];
  for (const [length, number] of turn) {
    const end = at + length;
    let said = end;
    while (said > at && origin[said - 1] === "e") said--;
    if (number < 0) prompt = [at, end];
    else turns.push({ said: [at, said], answered: [said, end] });
    at = end;
  }
  if (!turns.length) turns.push({ said: [0, origin.length], answered: [origin.length, origin.length] });
  return { prompt, turns };
}

/** Let a block be rebuilt when the page changes between text and tokens, or always. */
function drawnBy(page, block, build, always = false) {
  let drawn = null;
  page.painters.push(() => {
    const kind = page.layer === "text" ? "text" : "tokens";
    if (kind === drawn && !always) return;
    drawn = kind;
    block.replaceChildren();
    add(block, build());
  });
}

/** The tokens [from, to) of a lane; a long run is unfolded by a button. */
function tokenRun(page, number, [from, to], most = 3000) {
  const box = h("pre.tokens", {}), lane = page.lanes[number];
  const end = Math.min(to, Math.max(from + most, wants(page, number, from, to) ? page.wanted.t + 1 : 0));
  for (let t = from; t < end; t++) {
    const token = h(`span.t.o-${lane.origin[t]}`, { tabindex: -1, "data-lane": number, "data-t": t });
    addText(token, lane.text[t].slice(0, FOLD.characters).replaceAll("\n", "⏎\n") || "∅");
    page.tokens.push(token);
    box.append(token);
  }
  const more = () => { button.replaceWith(tokenRun(page, number, [end, to], 10 * most)); repaint(); };
  const button = h("button.more", { onclick: more }, `show more: ${count(to - end, "token")} left`);
  if (end < to) box.append(button);
  return box;
}

/** Whether the address names a token of [from, to) in a lane. */
const wants = ({ wanted }, number, from, to) => wanted?.number === number && wanted.t >= from && wanted.t < to;

/** Lanes beside the purified one, where the chosen rule trains them. */
function extraLanes(page) {
  const blocks = page.lanes.map((lane, number) => number > 0 && extraLane(page, lane, number)).filter(Boolean);
  const box = h("section.lane.extras", {}, h("h2", {}, "Also trained under this rule"), blocks);
  page.painters.push(() => { box.hidden = blocks.every((block) => block.hidden); });
  return box;
}

function extraLane(page, lane, number) {
  const { said } = lane.turns.at(-1), body = h("div", {}), chip = h("span.chip");
  const block = h("article.turn.stop", { tabindex: -1 },
    h("h3", {}, h("span", {}, LANES[lane.kind] ?? lane.kind), chip), body);
  const context = () => {
    const fold = h("details", {}, h("summary", {}, `${count(said[0], "token")} of context before it`));
    const draw = () => fold.children.length === 1 && fold.append(tokenRun(page, number, [0, said[0]]));
    fold.addEventListener("toggle", () => draw() ?? repaint());
    fold.open = wants(page, number, 0, said[0]);
    if (fold.open) draw();
    return fold;
  };
  drawnBy(page, body, () => (page.layer === "text" ? folded("pre.code", lane.text.slice(...said).join(""))
    : [said[0] > 0 && context(), tokenRun(page, number, said)]));
  page.painters.push(() => {
    block.hidden = !lane.credit[page.rule];
    chip.replaceChildren(pushOf(page, lane, said));
  });
  return block;
}

/** The number that a layer shows for a token: null if it was not computed, undefined if there is none. */
function valueOf(page, lane, t, layer) {
  if (!"sg".includes(lane.origin[t])) return undefined;
  const [then, now] = [lane.sampled[t], lane.recomputed?.[t]];
  if (layer === "advantage") return page.rule ? lane.credit[page.rule]?.[t] ?? undefined : null;
  if (layer === "logprob") return then ?? null;
  if (layer === "entropy") return lane.entropy?.[t] ?? null;
  return known(then) && known(now) ? now - then : null;
}

/** Draw what depends on the layer and the rule, and colour every token. */
function repaint() {
  const page = state.page, { scaled } = LAYERS[page.layer];
  page.tokens = page.tokens.filter((token) => token.isConnected);
  page.scale = scaled ? scaleOf(page) : 1;
  for (const paint of page.painters) paint();
  for (const token of page.tokens) paintToken(page, token, scaled);
  for (const button of main.querySelectorAll("[data-layer], [data-rule]")) {
    const { layer, rule } = button.dataset;
    button.setAttribute("aria-pressed", String(layer === page.layer || rule === page.rule));
  }
  if (!state.token && page.tokens.length) page.tokens[0].tabIndex = 0;
  if (state.token) inspect(state.token);
}

function paintToken(page, token, scaled) {
  const lane = page.lanes[token.dataset.lane], t = Number(token.dataset.t);
  const value = scaled ? valueOf(page, lane, t, page.layer) : undefined;
  const down = page.layer === "advantage" && value < 0;
  token.classList.toggle("origin", page.layer === "origin");
  token.classList.toggle("trained", page.layer === "loss" && known(lane.credit[page.rule]?.[t]));
  token.classList.toggle("none", value === null);
  token.classList.toggle("up", Boolean(value) && !down);
  token.classList.toggle("down", down);
  token.classList.toggle("plain", page.layer !== "advantage");
  token.style.setProperty("--size", value ? Math.min(1, Math.abs(value) / page.scale).toFixed(3) : "0");
}

/** The size of the tallest bar of a layer. */
function scaleOf(page) {
  let most = 0;
  for (const lane of page.lanes)
    for (let t = 0; t < lane.text.length; t++)
      most = Math.max(most, Math.abs(valueOf(page, lane, t, page.layer) ?? 0));
  return most;
}

function legendOf(page) {
  const { says, unit } = LAYERS[page.layer], tallest = `${number(page.scale, 3)} ${unit ?? ""}`;
  const key = (name, text) => h("span.nobreak", {}, h(`span.t.${name}`, { "--size": "1" }, "token"), ` ${text} `);
  const keys = {
    text: [],
    origin: [key("origin.o-s", "the model, here"), key("origin.o-g", "grafted: the model, in its correction"),
      key("origin.o-e", "problem or tool")],
    loss: [key("trained", "trained"), key("o-e", "only read")],
    advantage: [page.scale > 0 && [key("up", `+${number(page.scale)}`), key("down", `−${number(page.scale)}`)],
      key("o-s", "not in the loss"), key("none", "not computed")],
  };
  const bars = [page.scale > 0 && key("up.plain", tallest), key("none", "not computed")];
  return [`${says} `, keys[page.layer] ?? bars];
}

/** Why a token is in the loss, or not. */
function whyTrained(page, lane, t) {
  const origin = lane.origin[t], a = lane.credit[page.rule]?.[t];
  if (origin === "p" || origin === "e") return "No: only what the model writes is trained.";
  if (!page.rule) return "Not computed: the episode was not trained.";
  if (a === 0) return "Yes, but nothing pushes it: its advantage is 0.";
  if (known(a)) return a > 0 ? "Yes: it is made likelier." : "Yes: it is made less likely.";
  if (lane.kind !== "purified") return "No: here it is context for what follows.";
  return origin === "g" ? `No: it is grafted, and “${page.rule}” leaves grafted tokens out here.`
    : "No: this turn is left out of the loss.";
}

/** Show a token's numbers. */
function inspect(token) {
  const page = state.page, lane = page.lanes[token.dataset.lane], t = Number(token.dataset.t);
  const model = "sg".includes(lane.origin[t]), value = (layer) => valueOf(page, lane, t, layer);
  const percent = (logprob) => (known(logprob) ? ` (${(100 * Math.exp(logprob)).toFixed(1)}%)` : "");
  const chance = (logprob) => number(logprob, 4) + percent(logprob);
  const text = h("code", {}, lane.text[t].slice(0, 200).replaceAll("\n", "⏎") || "∅");
  const rows = [["token", [text, h("small.quiet", {}, `, number ${t} of ${lane.text.length}`)]],
    ["written by", ORIGINS[lane.origin[t]]], ["trained?", whyTrained(page, lane, t)]];
  if (model)
    rows.push(
      ["advantage", value("advantage") === undefined ? "none" : signed(value("advantage"), 3)],
      ["log-prob, sampled", chance(lane.sampled[t])],
      ["log-prob, training", chance(lane.recomputed?.[t])],
      ["gap", signed(value("gap"), 4)],
      ["entropy", number(value("entropy"), 3)]);
  inspector.replaceChildren(h("dl", {},
    rows.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)))));
  inspector.hidden = false;
}

/** Make a token the one from which the arrows move, and put it into the address. */
function selectToken(token) {
  state.token?.classList.remove("selected");
  state.token = token;
  inspector.hidden = !token;
  if (token) {
    token.classList.add("selected");
    token.focus({ preventScroll: true });
    token.scrollIntoView({ block: "nearest" });
    inspect(token);
  }
  keepAddress();
}

/** Select a token by its name in the address: "45", or "2.45" for one of lane 2. */
function openToken(name) {
  const [t, number = "0"] = name.split(".").reverse();
  state.page.wanted = { number: Number(number), t: Number(t) };
  setLayer(state.page.layer === "text" ? "origin" : state.page.layer);
  const token = state.page.tokens.find((one) => one.dataset.t === t && one.dataset.lane === number);
  if (token) selectToken(token);
  token?.scrollIntoView({ block: "center" });
}

function moveToken(by) {
  const folded = by > 0 && state.token.nextElementSibling;
  if (folded && folded.matches("button")) folded.click();
  const tokens = [...main.querySelectorAll("[data-t]")];
  let at = tokens.indexOf(state.token) + by;
  while (tokens[at] && !tokens[at].offsetParent) at += by;
  if (tokens[at]) selectToken(tokens[at]);
}

function setLayer(layer) {
  const { page } = state;
  if (!page.lanes) return;
  page.layer = layer;
  page.query.set("layer", layer);
  if (layer === "text") selectToken(null);
  repaint();
  keepAddress();
}

function setCredit(rule) {
  state.page.rule = rule;
  state.page.query.set("credit", rule);
  repaint();
  keepAddress();
}
