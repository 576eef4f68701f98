"use strict";
// The page of a run. Texts of models are shown through textContent alone; nothing here makes HTML of a string.
(() => {
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

  let data, owner, place, starts, lowered; // of each episode its source and its row there
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
    starts = [];
    let e = 0;
    data.sources.forEach((s, n) => {
      starts.push(e);
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

  function course(e) {
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
      if (course(e)) below.append(make("span", {}, course(e)));
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

  // -- one episode ------------------------------------------------------------------------------------------

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

  // -- metrics and curves -----------------------------------------------------------------------------------

  function drawMetrics() {
    const parts = [];
    for (const table of data.tables) {
      const caption = make("caption", {}, data.names[table.run], " ", make("small", {}, `(${table.origin})`));
      const head = make("tr", {}, make("th", { scope: "col", class: "name" }, "Method"), make("th", { scope: "col", class: "name" }, "Data set"));
      for (const name of table.columns) head.append(make("th", { scope: "col" }, name));
      const body = make("tbody");
      for (const [method, dataset, cells] of table.rows) {
        const row = make("tr", {}, make("th", { scope: "row" }, method), make("td", { class: "name" }, dataset));
        for (const [value, interval] of cells)
          row.append(make("td", {}, value, interval ? make("small", {}, interval) : ""));
        body.append(row);
      }
      const frame = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Metrics of ${data.names[table.run]}` });
      frame.append(make("table", {}, caption, make("thead", {}, head), body));
      parts.push(frame);
    }
    if (parts.length) parts.push(make("p", {}, "Shares in percent; below each its 95 % interval: over seeds, or with one seed over problems."));
    else parts.push(make("p", {}, "There are no metrics."));
    $("view-metrics").replaceChildren(...parts);
  }

  /** Centred moving average over 9 RL steps, shorter at the ends; steps without a value stay without. */
  function smooth(values) {
    return values.map((v, i) => {
      if (v === null) return null;
      const near = values.slice(Math.max(0, i - 4), i + 5).filter((x) => x !== null);
      return near.reduce((sum, x) => sum + x, 0) / near.length;
    });
  }

  function meanOf(lists) {
    const length = Math.min(...lists.map((l) => l.length));
    return Array.from({ length }, (_, i) => {
      const known = lists.map((l) => l[i]).filter((v) => v !== null);
      return known.length ? known.reduce((sum, v) => sum + v, 0) / known.length : null;
    });
  }

  function lines() {
    const groups = new Map();
    for (const curve of data.curves) {
      const name = data.names.length > 1 ? `${data.names[curve.run]}: ${curve.stage}` : curve.stage;
      if (!groups.has(name)) groups.set(name, { run: curve.run, stage: curve.stage, curves: [] });
      groups.get(name).curves.push(curve);
    }
    const stages = [...new Set(data.curves.map((c) => c.stage))];
    for (const group of groups.values()) {
      const at = stages.indexOf(group.stage);
      group.style = `s${at % 8} d${(group.run + 2 * Math.floor(at / 8)) % 4}`;
    }
    return groups;
  }

  function drawCurves() {
    const groups = lines(), hidden = new Set();
    if (!groups.size) {
      $("view-curves").replaceChildren(make("p", {}, "There are no training curves."));
      return;
    }
    const legend = make("ul", { class: "legend", "aria-label": "Stages" });
    for (const [name, { style, curves }] of groups) {
      const sample = draw("svg", { viewBox: "0 0 34 12", "aria-hidden": "true" }, draw("path", { d: "M0 6H34", class: `line ${style}` }));
      const seeds = curves.length > 1 ? `, ${curves.length} seeds` : "";
      const box = make("input", { type: "checkbox", checked: "" });
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(name);
        else hidden.add(name);
        drawPanels(groups, hidden);
      });
      legend.append(make("li", {}, make("label", {}, box, sample, name + seeds)));
    }
    const note = "Over RL steps: thin each seed as it was logged, thick their mean, smoothed over 9 steps.";
    $("view-curves").replaceChildren(legend, make("p", {}, note), make("div", { id: "panels" }));
    drawPanels(groups, hidden);
  }

  function drawPanels(groups, hidden) {
    const panels = make("div", { class: "panels" }), ends = [];
    for (const [key, title] of Object.entries(data.panels)) {
      const drawn = [];
      for (const [name, { style, curves }] of groups) {
        if (hidden.has(name)) continue;
        const raw = curves.map((c) => c.series[key]).filter(Boolean);
        if (raw.length) drawn.push({ name, style, raw, mean: smooth(meanOf(raw)) });
      }
      if (drawn.length) panels.append(make("figure", {}, make("figcaption", {}, title), panel(title, drawn)));
      for (const { name, mean } of drawn) {
        const known = mean.filter((v) => v !== null);
        ends.push([name, title, known[0], known[known.length - 1]]);
      }
    }
    const body = make("tbody");
    for (const [name, title, first, last] of ends)
      body.append(make("tr", {}, make("th", { scope: "row" }, name), make("td", { class: "name" }, title), make("td", {}, short(first)), make("td", {}, short(last))));
    const head = make("tr", {}, ...["Stage", "Metric"].map((n) => make("th", { scope: "col", class: "name" }, n)), ...["at the start", "at the end"].map((n) => make("th", { scope: "col" }, n)));
    const numbers = make("details", {}, make("summary", {}, "The same in numbers"), make("table", {}, make("thead", {}, head), body));
    $("panels").replaceChildren(panels, numbers);
  }

  const short = (v) => (v === undefined ? "–" : String(Number(v.toPrecision(3))));

  function panel(title, drawn) {
    const width = 340, height = 190, left = 44, right = 8, top = 8, bottom = 24;
    const values = drawn.flatMap((d) => d.raw.flat()).filter((v) => v !== null);
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) [low, high] = [low - 0.5, high + 0.5];
    const steps = Math.max(...drawn.flatMap((d) => d.raw.map((r) => r.length)), 2);
    const x = (i) => left + ((width - left - right) * i) / (steps - 1);
    const y = (v) => height - bottom - ((height - top - bottom) * (v - low)) / (high - low);
    const path = (list) => {
      let pen = "M";
      return list
        .map((v, i) => {
          if (v === null) return "";
          const point = `${pen}${x(i).toFixed(1)} ${y(v).toFixed(1)}`;
          pen = "L";
          return point;
        })
        .join("");
    };
    const says = drawn.map((d) => {
      const known = d.mean.filter((v) => v !== null);
      return `${d.name} from ${short(known[0])} to ${short(known[known.length - 1])}`;
    });
    const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} over RL steps: ${says.join("; ")}` });
    for (const v of ticks(low, high)) {
      picture.append(draw("path", { class: "grid", d: `M${left} ${y(v).toFixed(1)}H${width - right}` }));
      picture.append(draw("text", { class: "tick", x: left - 5, y: (y(v) + 3.5).toFixed(1), "text-anchor": "end" }, short(v)));
    }
    for (const i of ticks(1, steps).filter(Number.isInteger))
      picture.append(draw("text", { class: "tick", x: x(i - 1).toFixed(1), y: height - 8, "text-anchor": "middle" }, String(i)));
    for (const { style, raw, mean } of drawn) {
      for (const list of raw) picture.append(draw("path", { class: `line thin ${style}`, d: path(list) }));
      picture.append(draw("path", { class: `line ${style}`, d: path(mean) }));
    }
    return picture;
  }

  /** About five round values in a range. */
  function ticks(low, high) {
    const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }

  // -- the page ---------------------------------------------------------------------------------------------

  function fill() {
    const add = (id, value, name) => $(id).append(make("option", { value }, name));
    add("source", "", "all");
    add("compare", "", "nothing");
    if (data.names.length > 1) add("compare", "same", "the other run");
    data.sources.forEach((s, i) => {
      add("source", i, sourceName(s));
      add("compare", i, sourceName(s));
    });
    const flags = data.sources.reduce((all, s) => s.columns.flags.reduce((a, f) => a | f, all), 0);
    for (const [value, name] of Object.entries(FILTERS))
      if (!(value in FLAGS) || flags & FLAGS[value]) add("filter", value, name);
    add("order", "", "as recorded");
    const named = new Set(data.sources.flatMap((s) => Object.keys(s.numbers)));
    const ranked = ["advantage", "reward", "kl", ...named].filter((n, i, all) => named.has(n) && all.indexOf(n) === i);
    for (const name of ranked.filter((n) => n !== "rl_step")) {
      add("order", `most ${name}`, `highest ${spelt(name)}`);
      add("order", `least ${name}`, `lowest ${spelt(name)}`);
    }
    if (data.names.length > 1) $("compare").value = "same";
  }

  function view(name) {
    for (const part of ["episodes", "metrics", "curves"]) {
      $(`view-${part}`).hidden = part !== name;
      const link = document.querySelector(`[data-view="${part}"]`);
      if (part === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (name === "episodes") drawRows();
  }

  function follow() {
    let wanted;
    try {
      wanted = decodeURIComponent(location.hash.slice(1));
    } catch {
      wanted = "";
    }
    if (["metrics", "curves"].includes(wanted)) return view(wanted);
    view("episodes");
    if (wanted === "episodes") $("list").focus();
    const [, run, key, item] = /^([ab]):(.*)\/([^/]*)$/s.exec(wanted) ?? [];
    const found = data.sources.find((s) => "ab"[s.run] === run && s.key === key)?.rows.get(item);
    if (found === undefined) {
      if (chosen < 0 && shown.length) choose(shown[0], { note: false });
      return;
    }
    if (shown.indexOf(found) < 0) {
      for (const id of ["source", "filter", "order", "query"]) $(id).value = id === "filter" ? "all" : "";
      refresh();
    }
    choose(found, { read: true });
  }

  function leave() {
    document.body.classList.remove("reading");
    $("list").focus();
    refresh();
  }

  function listen() {
    let timer;
    $("query").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(changed, 60);
    });
    for (const id of ["source", "filter", "compare"]) $(id).addEventListener("change", changed);
    $("order").addEventListener("change", () => {
      chosen = -1; // what comes first now is what is asked for
      changed();
    });
    $("controls").addEventListener("submit", (event) => event.preventDefault());
    $("list").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
    $("list").addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) choose(Number(row.id.slice(4)), { read: true });
    });
    $("help-open").addEventListener("click", () => $("help").showModal());
    addEventListener("hashchange", follow);
    addEventListener("resize", drawRows);
    addEventListener("keydown", pressed);
  }

  function changed() {
    refresh();
    if (shown.indexOf(chosen) < 0) choose(shown.length ? shown[0] : -1);
    else drawDetail();
  }

  const LETTERS = {
    j: () => move(1),
    k: () => move(-1),
    g: () => move(-shown.length),
    G: () => move(shown.length),
    d: toggleDifferences,
    f: () => {
      const filter = $("filter");
      filter.selectedIndex = (filter.selectedIndex + 1) % filter.options.length;
      changed();
    },
    "/": () => $("query").focus(),
    "?": () => $("help").showModal(),
  };
  const ON_LIST = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    PageDown: () => move(Math.max(1, Math.floor($("list").clientHeight / ROW) - 1)),
    PageUp: () => move(-Math.max(1, Math.floor($("list").clientHeight / ROW) - 1)),
    Home: () => move(-shown.length),
    End: () => move(shown.length),
    Enter: () => {
      if (chosen < 0) return;
      document.body.classList.add("reading");
      $("detail").focus();
    },
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || $("view-episodes").hidden) return;
    if (event.key === "Escape") return leave();
    const typing = event.target.closest("input, select, textarea");
    const action = typing
      ? undefined
      : (event.target === $("list") && ON_LIST[event.key]) || ($("single-keys").checked && LETTERS[event.key]);
    if (!action) return;
    event.preventDefault();
    action();
  }

  async function start() {
    if (!("DecompressionStream" in window)) {
      $("loading").textContent = "This page needs a browser of 2023 or later.";
      return;
    }
    data = await read();
    flatten();
    fill();
    drawMetrics();
    drawCurves();
    listen();
    $("loading").hidden = true;
    $("view-episodes").hidden = false; // the list must have a height before it is drawn
    refresh();
    follow();
    if (!owner.length && !location.hash) view(data.tables.length ? "metrics" : "curves");
    document.documentElement.dataset.ready = "true";
  }

  start().catch((error) => {
    $("loading").textContent = `The page cannot be shown: ${error.message}`;
    throw error;
  });
})();
