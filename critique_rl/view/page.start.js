// Controls, keys, links, and the start of the page.
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
