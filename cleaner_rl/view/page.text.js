// Text of a run is not trusted: it becomes text nodes only, and what cannot be seen is made visible.

const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const FOLD = { characters: 4000, lines: 60, step: 100000 };

/** An element such as h("p.quiet", {title: "..."}, "text", child); null and false are left out. */
function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) element.style.setProperty(key, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key,
      value === true ? "" : value);
  }
  add(element, children);
  return element;
}

function add(parent, child) {
  if (Array.isArray(child)) for (const one of child) add(parent, one);
  else if (child instanceof Node) parent.append(child);
  else if (child !== null && child !== undefined && child !== false) addText(parent, String(child));
}

/** Append text; controls, bidi marks, NUL and lone surrogates become boxes with their number. */
function addText(parent, text) {
  let done = 0;
  for (const match of text.matchAll(UNSEEN)) {
    if (match.index > done) parent.append(text.slice(done, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const box = document.createElement("span");
    box.className = "unseen";
    box.title = "a character that cannot be seen, shown by its number";
    box.textContent = "U+" + code;
    parent.append(box);
    done = match.index + match[0].length;
  }
  if (done < text.length) parent.append(done ? text.slice(done) : text);
}

/** The length of the part of a text that is shown before "show more". */
function foldAt(text) {
  let end = -1;
  for (let line = 0; line < FOLD.lines; line++) {
    end = text.indexOf("\n", end + 1);
    if (end < 0 || end > FOLD.characters) return whole(text, FOLD.characters);
  }
  return end;
}

/** The nearest end that does not cut a character in two. */
function whole(text, end) {
  return end < text.length && /[\ud800-\udbff]/.test(text[end - 1]) ? end - 1 : end;
}

/** Text in an element; the rest of a long one is unfolded by a button, part by part. */
function folded(tag, text, attributes = {}) {
  const element = h(tag, attributes);
  const show = (from, to) => {
    addText(element, text.slice(from, to));
    const left = text.length - to;
    if (left <= 0) return;
    const more = () => { button.remove(); show(to, whole(text, to + FOLD.step)); };
    const button = h("button.more", { onclick: more }, `show more: ${count(left, "character")} left`);
    element.append(button);
  };
  show(0, Math.min(text.length, foldAt(text)));
  return element;
}

/** The first line of a text that is not empty, at most `length` characters of it. */
function firstLine(text, length = 140) {
  const line = text.slice(0, 2000).split("\n").find((l) => l.trim()) ?? "";
  return line.length > length ? line.slice(0, whole(line, length)) + " …" : line;
}

const count = (n, noun, plural = noun + "s") => `${n.toLocaleString("en")} ${n === 1 ? noun : plural}`;
const known = (value) => value !== null && value !== undefined;
const minus = (text) => text.replace("-", "−");
/** A number for people; "not computed" where there is none. */
const number = (value, digits = 2) => (known(value) ? minus(value.toFixed(digits)) : "not computed");
const signed = (value,
  digits = 2) => (known(value) ? (value > 0 ? "+" : "") + number(value, digits) : "not computed");
const fact = (name, ...value) => h("span.fact", {}, h("span.quiet", {}, name, " "), value);

/** The lines of two texts as [mark, line] pairs for each side; mark is "-", "+" or " ". */
function diffLines(before, after) {
  const a = before.split("\n"), b = after.split("\n");
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head
    && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const [inA, inB] = commonLines(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  const side = (lines, common, mark) =>
    lines.map((line, i) => [i < head || i >= lines.length - tail || common.has(i - head) ? " " : mark, line]);
  return [side(a, inA, "-"), side(b, inB, "+")];
}

/** The places of a longest common subsequence in both lists; none for lists that are too long. */
function commonLines(a, b) {
  const inA = new Set(), inB = new Set();
  if (a.length * b.length > 250000) return [inA, inB];
  const best = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) { inA.add(i++); inB.add(j++); }
    else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  }
  return [inA, inB];
}

/** One side of a diff; within a changed line, what differs from its partner is marked. */
function diffSide(lines, others) {
  const partners = others.filter(([mark]) => mark !== " ").map(([, line]) => line);
  let changed = 0;
  const rows = lines.slice(0, FOLD.lines * 5).map(([mark, line]) => {
    const partner = mark === " " ? line : partners[changed++] ?? "";
    const name = { "-": "del", "+": "ins", " ": "span" }[mark];
    return h(`${name}.line`, {}, h("span.mark", { "aria-hidden": true }, minus(mark)),
      markChange(line, partner));
  });
  const left = lines.length - rows.length;
  return h("pre.code", {}, rows,
    left > 0 && h("span.quiet", {}, `${count(left, "more line")}: see the raw lane`));
}

function markChange(line, partner) {
  if (line === partner || !partner || line.length > FOLD.characters) return folded("span", line);
  let head = 0, tail = 0;
  const most = Math.min(line.length, partner.length);
  while (head < most && line[head] === partner[head]) head++;
  while (tail < most - head && line[line.length - 1 - tail] === partner[partner.length - 1 - tail]) tail++;
  head = whole(line, head);
  const end = Math.max(head, whole(line, line.length - tail));
  if (end - head > 0.6 * line.trim().length) return line; // another line, not a change of this one
  return [line.slice(0, head), end > head && h("b.change", {}, line.slice(head, end)), line.slice(end)];
}
