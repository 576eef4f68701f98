// Helpers, the episodes, and their list. Texts of models are shown through textContent alone: no HTML is made of a
// string. page.py joins all page.*.js in one function, so they share their names.
const ROW = 54, EDGE = 8; // height of a row of the list in pixels, as in page.css; rows drawn beyond its edges
const FLAGS = { wrong_verdict: 1, unparsed: 2, c_to_i: 4, i_to_c: 8 };
const FILTERS = {
  all: "all episodes",
  wrong_verdict: "wrong verdicts",
  c_to_i: "right to wrong (c→i)",
  i_to_c: "wrong to right (i→c)",
  unparsed: "unparsed",
  differ: "other outcome than compared",
};
const TEXTS = ["question", "answer", "response", "other", "critique", "refinement"];
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text nodes
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function read() {
  const text = $("data").textContent;
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const data = JSON.parse(await new Response(plain).text());
  $("data").remove();
  return data;
}

// -- episodes ---------------------------------------------------------------------------------------------

let data, owner, place, lowered; // owner, place: source of each episode, and its row there
let shown = new Int32Array(0), chosen = -1, differences = true;

const source = (e) => data.sources[owner[e]];
const cell = (e, name) => source(e).columns[name][place[e]];
const text = (e, name) => (cell(e, name) < 0 ? null : data.texts[cell(e, name)]);
const number = (e, name) => source(e).numbers[name]?.[place[e]] ?? null;
const address = (e) => `${"ab"[source(e).run]}:${source(e).key}/${cell(e, "item")}`;
const sourceName = (s) => (data.names.length > 1 ? `${data.names[s.run]}: ${s.label}` : s.label);

function flatten() {
  const total = data.sources.reduce((sum, s) => sum + s.columns.item.length, 0);
  owner = new Int32Array(total);
  place = new Int32Array(total);
  let e = 0;
  data.sources.forEach((s, n) => {
    s.rows = new Map();
    s.columns.item.forEach((item, row) => {
      s.rows.set(item, e);
      owner[e] = n;
      place[e++] = row;
    });
  });
}

/** The same item in the source it is compared with; null without one, -1 where it is missing. */
function partner(e) {
  const value = $("compare").value;
  if (value === "") return null;
  let other;
  if (value === "same") {
    other = data.sources.findIndex((s) => s.run !== source(e).run && s.key === source(e).key);
  } else {
    other = Number(value);
  }
  if (other === owner[e]) return null;
  const found = other < 0 ? undefined : data.sources[other].rows.get(cell(e, "item"));
  return found !== undefined && text(found, "question") === text(e, "question") ? found : -1;
}

/** Whether two episodes of an item ended differently. */
function differ(e) {
  const other = partner(e);
  if (other === null || other < 0) return false;
  return ["verdict", "refined", "truth"].some((name) => cell(e, name) !== cell(other, name));
}

/** For each text whether it holds a word. */
function holding(word) {
  lowered ??= data.texts.map((t) => t.toLowerCase());
  const found = new Uint8Array(lowered.length);
  for (let i = 0; i < lowered.length; i++) if (lowered[i].includes(word)) found[i] = 1;
  return found;
}

function select() {
  const only = $("source").value === "" ? -1 : Number($("source").value);
  const filter = $("filter").value, flag = FLAGS[filter] ?? 0;
  const words = $("query").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = words.map(holding);
  const columns = data.sources.map((s) => TEXTS.map((name) => s.columns[name]));
  const kept = [];
  for (let e = 0; e < owner.length; e++) {
    if (only >= 0 && owner[e] !== only) continue;
    if (flag && !(cell(e, "flags") & flag)) continue;
    if (filter === "differ" && !differ(e)) continue;
    const of = columns[owner[e]], row = place[e];
    if (found.every((has, w) => of.some((c) => c[row] >= 0 && has[c[row]]) || cell(e, "item").startsWith(words[w])))
      kept.push(e);
  }
  shown = Int32Array.from(sorted(kept));
}

function sorted(kept) {
  const [direction, name] = $("order").value.split(" ");
  if (direction === "") return kept;
  const sign = direction === "most" ? -1 : 1;
  const value = new Map(kept.map((e) => [e, number(e, name)]));
  return kept.filter((e) => value.get(e) !== null).sort((a, b) => sign * (value.get(a) - value.get(b)) || a - b);
}

// -- the list ---------------------------------------------------------------------------------------------

function refresh({ scroll = true } = {}) {
  select();
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${owner.length.toLocaleString("en")} episodes`;
  $("rows").style.height = `${shown.length * ROW}px`;
  if (scroll) {
    const at = shown.indexOf(chosen);
    $("list").scrollTop = at < 0 ? 0 : Math.max(0, at * ROW - $("list").clientHeight / 2);
  }
  drawRows();
}

const SIGN = { true: "✓", false: "✗" };

function outcome(e) {
  const before = cell(e, "truth"), after = cell(e, "refined");
  const sign = (t) => SIGN[t] ?? (t === null ? "?" : String(t));
  if (cell(e, "refinement") < 0) return before === null ? "" : sign(before);
  return `${sign(before)} → ${sign(after)}`;
}

function described(e) {
  const right = cell(e, "right"), verdict = text(e, "verdict");
  if (verdict === null) return ["", ""];
  if (verdict === "unparsed") return ["unparsed", "unknown"];
  return [verdict + (right < 0 ? "" : right ? " ✓" : " ✗"), right < 0 ? "unknown" : right ? "good" : "bad"];
}

/** A row in words. */
function spoken(e) {
  const truth = (t) => (t === null ? "not graded" : typeof t === "number" ? `rated ${t}` : t ? "right" : "wrong");
  const right = cell(e, "right"), parts = [text(e, "question") ?? "", `response ${truth(cell(e, "truth"))}`];
  if (text(e, "verdict") !== null)
    parts.push(`verdict ${text(e, "verdict")}${right < 0 ? "" : right ? ", which is true" : ", which is false"}`);
  if (text(e, "refinement") !== null) parts.push(`refinement ${truth(cell(e, "refined"))}`);
  return [...parts, sourceName(source(e))].join("; ");
}

function drawRows() {
  const list = $("list"), rows = $("rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - EDGE);
  const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + EDGE);
  const made = [];
  for (let i = first; i < last; i++) {
    const e = shown[i], [says, kind] = described(e), advantage = number(e, "advantage");
    const below = make("div", { class: "below" });
    if (says) below.append(make("span", { class: kind }, says));
    if (outcome(e)) below.append(make("span", {}, outcome(e)));
    if (advantage !== null) below.append(make("span", {}, `A ${advantage.toFixed(2)}`));
    below.append(make("span", { class: "place" }, sourceName(source(e))));
    const row = make(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${e}`,
        "aria-selected": String(e === chosen),
        "aria-label": spoken(e),
        "aria-posinset": i + 1,
        "aria-setsize": shown.length,
      },
      make("div", {}, text(e, "question") ?? ""),
      below,
    );
    row.style.top = `${i * ROW}px`;
    made.push(row);
  }
  rows.replaceChildren(...made);
  if (shown.indexOf(chosen) >= first && shown.indexOf(chosen) < last)
    list.setAttribute("aria-activedescendant", `row-${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}

function choose(e, { read: open = false, note = true } = {}) {
  chosen = e;
  const at = shown.indexOf(e), list = $("list");
  if (at >= 0) {
    if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
    else if ((at + 1) * ROW > list.scrollTop + list.clientHeight)
      list.scrollTop = (at + 1) * ROW - list.clientHeight;
  }
  if (open) document.body.classList.add("reading");
  drawRows();
  drawDetail();
  if (note && e >= 0) history.replaceState(null, "", `#${encodeURIComponent(address(e))}`);
}

function move(by) {
  if (shown.length === 0) return;
  const at = shown.indexOf(chosen);
  const to = at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + by));
  choose(shown[to]);
}
