// Tables of metrics, and training curves.
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
    const round = Math.floor(stages.indexOf(group.stage) / 8); // colours repeat, dashes tell them apart
    group.style = `s${data.colours[group.stage]} d${(group.run + 2 * round) % 4}`;
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
