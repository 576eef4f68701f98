// One episode in detail, beside the one that it is compared with.
function drawDetail() {
  const detail = $("detail");
  detail.scrollTop = 0;
  if (chosen < 0) {
    detail.replaceChildren(make("p", {}, "No episode is chosen."));
    return;
  }
  const e = chosen, other = partner(e), at = shown.indexOf(e);
  const back = make("button", { type: "button", class: "back" }, "Back to the list");
  back.addEventListener("click", leave);
  const previous = make("button", { type: "button", "aria-label": "previous episode" }, "‹");
  const next = make("button", { type: "button", "aria-label": "next episode" }, "›");
  previous.disabled = at <= 0;
  next.disabled = at < 0 || at === shown.length - 1;
  previous.addEventListener("click", () => move(-1));
  next.addEventListener("click", () => move(1));
  const link = make("a", { href: `#${encodeURIComponent(address(e))}` }, "Link to this episode");
  const bar = make("div", { class: "bar" }, back, make("h2", {}, title(e)), previous, next, link);
  const sides = make("div", { class: other === null ? "sides" : "sides two" }, side(e));
  if (other !== null) {
    sides.append(
      other < 0
        ? make("section", { class: "side" }, make("h2", {}, "Compared"), make("p", {}, "It is not there."))
        : side(other),
    );
  }
  detail.replaceChildren(bar, ...asked(e), sides);
}

function title(e) {
  const item = cell(e, "item");
  return source(e).training ? item.replace(/(.*)[.](.*)/, "RL step $1, number $2") : item;
}

function asked(e) {
  const parts = [heading("Question"), block(text(e, "question") ?? "")], image = cell(e, "image");
  if (image >= 0)
    parts.push(make("img", { class: "picture", src: data.images[image], alt: "what the question is about" }));
  if (image === -2) parts.push(make("p", {}, "Its image cannot be read."));
  if (text(e, "answer") !== null) parts.push(heading("Gold answer"), block(text(e, "answer")));
  return parts;
}

function side(e) {
  const made = make("section", { class: "side", "aria-label": sourceName(source(e)) });
  made.append(make("h2", {}, sourceName(source(e))));
  const pair = text(e, "other") !== null;
  if (text(e, "response") !== null)
    made.append(heading(pair ? "Response 1" : "Response", badge(cell(e, "truth"))), block(text(e, "response")));
  if (pair) made.append(heading("Response 2"), block(text(e, "other")));
  if (text(e, "critique") !== null) made.append(heading("Critique", ...verdict(e)), critique(e));
  if (text(e, "refinement") !== null) {
    const body = differences
      ? compared(text(e, "response") ?? "", text(e, "refinement"))
      : block(text(e, "refinement"));
    const toggle = make("button", { type: "button", "aria-pressed": String(differences) }, "Differences");
    toggle.addEventListener("click", toggleDifferences);
    made.append(heading("Refinement", badge(cell(e, "refined")), toggle), body);
  }
  const numbers = make("dl", { class: "numbers" });
  for (const name of Object.keys(source(e).numbers)) {
    const value = number(e, name);
    if (value !== null)
      numbers.append(make("div", {}, make("dt", {}, spelt(name)), make("dd", {}, String(value))));
  }
  if (numbers.children.length) made.append(heading("Numbers"), numbers);
  return made;
}

const spelt = (name) => (name === "rl_step" ? "RL step" : name);
const heading = (name, ...more) => make("h3", {}, name, ...more);
const block = (content) => make("pre", { class: "text" }, content);

function badge(truth) {
  if (truth === null) return "";
  if (typeof truth === "number") return make("span", { class: "badge" }, `rating ${truth}`);
  return make("span", { class: `badge ${truth ? "good" : "bad"}` }, truth ? "✓ right" : "✗ wrong");
}

function verdict(e) {
  const says = text(e, "verdict"), right = cell(e, "right"), expected = text(e, "expected");
  if (says === null) return [];
  const sign = right < 0 ? "" : right ? "✓ " : "✗ ";
  const kind = says === "unparsed" ? "unknown" : right < 0 ? "" : right ? "good" : "bad";
  const parts = [make("span", { class: `badge ${kind}` }, says === "unparsed" ? "unparsed" : `${sign}says ${says}`)];
  if (expected !== null && right !== 1) parts.push(make("span", {}, `expected: ${expected}`));
  return parts;
}

/** What holds of a step: true, false, or null where that is not known. */
function stepTruth(error, step) {
  if (error === null || (error >= 0 && step > error)) return null;
  return step !== error;
}

function critique(e) {
  const whole = text(e, "critique"), found = data.marks[cell(e, "critique")] ?? [];
  const body = make("div", { class: "text" }), error = cell(e, "error"), right = cell(e, "right");
  if (found.length === 0 || found[0] > 0) body.append(whole.slice(0, found.length ? found[0] : undefined));
  for (let i = 0; i < found.length; i += 2) {
    const kind = found[i + 1], step = i / 2;
    const content = whole.slice(found[i], found[i + 2]).replace(/\n$/, "");
    let judged = kind, holds, says;
    if (kind === "verdict") {
      judged = ["correct", "wrong"].includes(text(e, "verdict")) ? text(e, "verdict") : "unjudged";
      holds = right < 0 ? null : right === 1;
      says = `Verdict: ${text(e, "verdict")}${holds === null ? "" : holds ? ", which is true" : ", which is false"}`;
    } else {
      const truth = stepTruth(error, step);
      holds = truth === null || kind === "unjudged" ? null : truth === (kind === "correct");
      says = kind === "unjudged" ? `Step ${step + 1}: no judgment` : `Step ${step + 1}: judged ${kind}`;
      if (truth !== null) says += `, ${holds === false ? "but" : "and"} is ${truth ? "right" : "the first wrong one"}`;
      else if (error !== null) says += "; after the first wrong step";
    }
    const mark = holds === null ? "" : holds ? " holds" : " fails";
    body.append(make("div", { class: `part ${judged}${mark}` }, make("span", { class: "says" }, says), content));
  }
  return body;
}

function toggleDifferences() {
  differences = !differences;
  drawDetail();
}

/** The second text, with what is new in it and what is gone from the first. */
function compared(before, after) {
  const word = /[\p{L}\p{N}_]+[ \t]*|[^\s\p{L}\p{N}_][ \t]*|\s/gu; // blanks belong to the word before them
  let [a, b] = [before, after].map((t) => t.match(word) ?? []);
  if (a.length * b.length > 9e6) [a, b] = [before, after].map((t) => t.match(/[^\n]*\n?/g));
  const body = make("div", { class: "text", "aria-label": "Refinement, with differences to the response" });
  let kind = 0, run = "";
  const flush = () => {
    if (run) body.append(kind === 0 ? run : make(kind > 0 ? "ins" : "del", {}, run));
    run = "";
  };
  for (const [change, piece] of edits(a, b)) {
    if (change !== kind) flush();
    kind = change;
    run += piece;
  }
  flush();
  return body;
}

/** Shortest edit of word lists: [0 kept, 1 new or -1 gone, word], by their longest common subsequence. */
function edits(a, b) {
  let head = 0, tail = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head++;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
  const n = a.length - head - tail, m = b.length - head - tail, width = m + 1;
  const length = new Uint16Array((n + 1) * width); // common length of what follows
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      length[i * width + j] =
        a[head + i] === b[head + j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
  const found = a.slice(0, head).map((word) => [0, word]);
  for (let i = 0, j = 0; i < n || j < m; ) {
    if (i < n && j < m && a[head + i] === b[head + j]) {
      found.push([0, a[head + i++]]);
      j++;
    } else if (i < n && (j === m || length[(i + 1) * width + j] >= length[i * width + j + 1])) found.push([-1, a[head + i++]]);
    else found.push([1, b[head + j++]]);
  }
  return found.concat(a.slice(a.length - tail).map((word) => [0, word]));
}
