// The run's figures as small charts, with held-out values on the same axes. A click chooses a step.

const WIDTH = 280, HEIGHT = 92, EDGE = 4, SMOOTHING = 5;

function curves(choose) {
  const names = distinct(data.curves.flatMap((arm) => Object.keys(arm.series)
    .concat(arm.held_out.flatMap(Object.keys)))).filter((name) => name !== "step");
  if (!names.length) return null;
  const first = FIRST_CURVES.filter((name) => names.includes(name)),
    rest = names.filter((name) => !first.includes(name));
  const grid = (some) => h("div.curves", {}, some.map((name) => curve(name, choose)));
  const others = h("details",
    { ontoggle: () => { if (others.children.length === 1) others.append(grid(rest)); } },
    h("summary", {}, `${rest.length} more curves`));
  const arms = data.curves.length > 1 && data.curves.map(({ arm }, i) => {
    const line = svg("path", { class: `thick arm${i % 6}`, d: "M0 5L24 5" });
    return h("span.nobreak", {}, svg("svg", { viewBox: "0 0 24 10", class: "key" }, line, marker(12, 5, i)), `${arm} `);
  });
  const held = data.curves.some((arm) => arm.held_out.length);
  return h("section", {}, h("h2", {}, "The run in figures"),
    h("p.quiet.legend", {},
      arms || h("span.nobreak", {}, h("span.key.line"), `training, mean of ${SMOOTHING} steps `),
      held && h("span.nobreak", {}, arms ? "marks: " : h("span.key.square"), "held-out problems, rollback off "),
      "Click a step to list its episodes."),
    grid(first.length ? first : rest), first.length > 0 && rest.length > 0 && others);
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A held-out value: a square or a diamond, empty or full, by the number of its run. */
const marker = (x, y, arm) => svg("path", {
  class: `held marker${arm % 4}`,
  d: arm % 4 < 2 ? `M${x - 3} ${y - 3}h6v6h-6z` : `M${x - 4} ${y}l4 -4 4 4 -4 4z`,
});

/** The points of a metric in every run: [step, value] pairs of training and of held-out problems. */
function pointsOf(name) {
  const pairs = (steps, values) => steps.map((step, i) => [step, values[i]])
    .filter(([, value]) => typeof value === "number");
  return data.curves.map((arm) => ({
    training: pairs(arm.steps, arm.series[name] ?? []),
    held: pairs(arm.held_out.map((row) => row.step), arm.held_out.map((row) => row[name])),
  }));
}

const smoothed = (points) => points.map(([step], i) => {
  const part = points.slice(Math.max(0, i - SMOOTHING + 1), i + 1);
  return [step, part.reduce((sum, [, value]) => sum + value, 0) / part.length];
});

function curve(name, choose) {
  const arms = pointsOf(name), label = data.labels[name] ?? name.replaceAll("_", " ");
  const all = arms.flatMap((arm) => arm.training.concat(arm.held));
  if (!all.length) return null;
  const steps = all.map(([step]) => step), values = all.map(([, value]) => value);
  const from = Math.min(...steps), to = Math.max(...steps), low = Math.min(0, ...values),
    high = Math.max(...values, low + 1e-9);
  const x = (step) => EDGE + ((WIDTH - 2 * EDGE) * (step - from)) / Math.max(1, to - from);
  const y = (value) => HEIGHT - EDGE - ((HEIGHT - 2 * EDGE) * (value - low)) / (high - low);
  const at = ([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
  const line = (points, kind) => svg("path", { class: kind, d: points.length ? `M${points.map(at).join("L")}` : "" });
  const summary = arms.length === 1 ? summaryOf(arms[0]) : "";
  const cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  const picture = svg("svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label}: ${summary}` },
    ...arms.flatMap((arm, i) => [
      ...(arms.length > 1 ? [] : [line(arm.training, "thin")]),
      line(smoothed(arm.training), `thick arm${i % 6}`), line(arm.held, "held"),
      ...arm.held.map(([s, v]) => marker(x(s), y(v), i))]), cursor);
  const told = h("output.num", {}, summary);
  const pointed = (event) => {
    const box = picture.getBoundingClientRect(),
      step = from + ((event.clientX - box.left) / box.width) * (to - from);
    return steps.reduce((a, b) => (Math.abs(b - step) < Math.abs(a - step) ? b : a));
  };
    const moveTo = (at) => Object.entries({ x1: at, x2: at, visibility: "visible" })
      .forEach(([key, value]) => cursor.setAttribute(key, value));
  picture.addEventListener("pointermove", (event) => {
    told.textContent = valuesAt(arms, pointed(event));
    moveTo(x(pointed(event)));
  });
  picture.addEventListener("pointerleave", () => {
    told.textContent = summary;
    cursor.setAttribute("visibility", "hidden");
  });
  picture.addEventListener("click", (event) => choose(nearestLogged(pointed(event))));
  return h("figure", {}, h("figcaption", {}, h("span", {}, label), told), picture,
    h("div.axis.quiet", {}, [`step ${from}`, `${short(low)} to ${short(high)}`, to].map((text) => h("span", {}, text))));
}

const short = (value) =>
  minus(Math.abs(value) >= 100 || Number.isInteger(value) ? value.toFixed(0) : String(Number(value.toPrecision(3))));

function summaryOf({ training, held }) {
  const points = training.length ? smoothed(training) : held;
  return points.length ? `${short(points[0][1])} → ${short(points.at(-1)[1])}` : "";
}

function valuesAt(arms, step) {
  const at = (points) => points.find(([s]) => s === step)?.[1];
  const told = arms.flatMap((arm) => [known(at(arm.training)) && short(at(arm.training)),
    known(at(arm.held)) && `held-out ${short(at(arm.held))}`]);
  return `step ${step}: ${told.filter(Boolean).join(", ")}`;
}
