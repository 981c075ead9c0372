// Polls the API and sets text; no value ever becomes markup.
"use strict";

const POLL_MS = 3000;
// Of what is over, the latest; the API has the rest.
const ENDED_MAX = 12;
const MAY_WRITE = document.body.dataset.mayWrite !== undefined;
const $ = (id) => document.getElementById(id);
let picture = { curves: new Map() };

function element(name, classes, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const percent = (ratio) => {
  const value = Math.expm1(ratio) * 100;
  if (value > 900) return "×" + Math.exp(ratio).toFixed(0);
  const rounded = Math.round(value);
  return (rounded < 0 ? "−" : rounded > 0 ? "+" : "") + Math.abs(rounded) + " %";
};
const count = (value) => value.toLocaleString("en");
const words = (text) => text.replaceAll("_", " ");

function ago(text) {
  const seconds = Math.round((Date.now() - Date.parse(text)) / 1000);
  if (Math.abs(seconds) < 90) return Math.abs(seconds) + " s";
  if (Math.abs(seconds) < 5400) return Math.round(Math.abs(seconds) / 60) + " min";
  if (Math.abs(seconds) < 172800) return Math.round(Math.abs(seconds) / 3600) + " h";
  return Math.round(Math.abs(seconds) / 86400) + " days";
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (value >= 1024 && unit < 3) { value /= 1024; unit += 1; }
  return (unit ? value.toFixed(1) : value) + " " + units[unit];
}

function empty(text, command) {
  return element("p", "empty", text, command ? element("code", "", command) : null);
}

function scope(alarm) {
  const part = (names, all) => (names.length ? names.join(", ") : all);
  return [part(alarm.scope.region, "all regions"), part(alarm.scope.device, "all devices"), part(alarm.scope.stack, "all stacks")].join(" · ");
}

// What holds an incident back besides its numbers, and for how long.
function until(suppressor) {
  if (!suppressor) return "";
  const by = { event: "event", maintenance: "maintenance", silence: "silence" }[suppressor.kind] + " " + suppressor.name;
  if (!suppressor.until) return by;
  const left = Date.parse(suppressor.until) - Date.now();
  return by + (left > 0 ? ", another " + ago(suppressor.until) : ", until " + suppressor.until);
}

function asked(sensitivity) {
  if (!sensitivity) return "";
  return sensitivity.factor.toFixed(1) + " times the usual is asked, for " + sensitivity.pages_per_week + " pages a week";
}

function incident(view) {
  const alarm = view.alarm;
  const severity = alarm.state === "open" ? alarm.severity : "";
  const over = alarm.state === "resolved";
  const id = element("a", "", "explain");
  id.href = "/api/v1/incidents/" + encodeURIComponent(alarm.id) + "/explain";
  id.dataset.key = alarm.id + "/explain";
  id.setAttribute("aria-label", "Explain incident " + alarm.id);
  const at = over ? alarm.at : alarm.started_at;
  const since = element("time", "", alarm.state === "open" ? "for " + ago(at) : (over ? "ended " : "began ") + ago(at) + " ago");
  since.dateTime = at;
  since.title = at;
  const badge = alarm.state === "open" ? element("span", "badge " + severity, severity) : element("span", "badge calm", words(alarm.verdict));
  const notified = over ? element("span", view.notified ? "badge warning" : "badge", view.notified ? "notified" : "held back") : null;
  const label = view.label ? element("span", "badge label", "labelled " + view.label.label) : null;
  if (label) label.title = [view.label.author, view.label.comment].filter(Boolean).join(": ");
  const returns = alarm.returns ? element("span", "badge", "came back " + (alarm.returns > 1 ? alarm.returns + " times" : "once")) : null;
  const card = element("article", "card " + severity, element("h3", "", alarm.summary));
  const parts = [notified, badge, label, returns, since, element("span", "", scope(alarm)), id];
  card.append(element("div", "meta", ...parts.filter((part) => part !== null)));
  if (alarm.evidence.reason) card.append(element("p", "why", alarm.evidence.reason));
  const notes = [!over && alarm.change, !over && until(alarm.evidence.suppressor), asked(alarm.evidence.sensitivity), alarm.split_from && "split from " + alarm.split_from];
  const said = notes.filter(Boolean).join(" · ");
  if (said) card.append(element("p", "note", said));
  if (MAY_WRITE) card.append(labels(view));
  return card;
}

// What somebody who may write says it was; the latest word holds.
function labels(view) {
  const buttons = ["real", "external", "noise"].map((label) => {
    const button = element("button", "quiet", label);
    button.type = "button";
    button.dataset.key = view.alarm.id + "/" + label;
    button.setAttribute("aria-pressed", String(Boolean(view.label) && view.label.label === label));
    button.setAttribute("aria-label", "It was " + label + ": " + view.alarm.summary);
    button.addEventListener("click", () => put(view.alarm.id, label));
    return button;
  });
  return element("div", "labels", element("span", "", "It was"), ...buttons);
}

async function put(id, label) {
  const request = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ label }) };
  try {
    const response = await fetch("/api/v1/incidents/" + encodeURIComponent(id) + "/label", request);
    if (response.status === 401) return location.assign("/login");
    if (!response.ok) throw new Error((await response.json()).message || response.statusText);
    await show();
  } catch (error) {
    status("stale", "the label was not taken: " + error.message);
  }
}

function showIncidents(incidents) {
  const of = (state) => incidents.filter((view) => view.alarm.state === state);
  const open = of("open"), held = of("suppressed");
  const none = empty("Nothing is open. Incidents appear here when somebody is notified.");
  $("open").replaceChildren(...(open.length ? open.map(incident) : [none]));
  const quiet = empty("Nothing is held back. Deviations that a common mode, a scheduled event or a silence explains appear here with the reason.");
  $("suppressed").replaceChildren(...(held.length ? held.map(incident) : [quiet]));
  tile("open", open.length, open.length > 0);
  tile("suppressed", held.length);
  document.title = open.length ? "(" + open.length + ") Vedette" : "Vedette";
}

function showEnded(ended) {
  const nothing = empty("Nothing has ended yet.");
  $("ended").replaceChildren(...(ended.length ? ended.map(incident) : [nothing]));
}

function tile(id, value, alarming) {
  $("tile-" + id).querySelector("dd").textContent = count(value);
  $("tile-" + id).classList.toggle("alarming", Boolean(alarming));
}

// What a person chose stays; until then the first thing to look at is shown.
function options(select, names, first) {
  const present = Array.from(select.options, (option) => option.value);
  if (present.join("\n") === names.join("\n")) return;
  const chosen = names.includes(select.value) && select.dataset.chosen ? select.value : first;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

function step(ratio) {
  if (ratio <= -0.693) return "n3";
  if (ratio <= -0.223) return "n2";
  if (ratio <= -0.051) return "n1";
  if (ratio < 0.049) return "z";
  if (ratio < 0.223) return "p1";
  return ratio < 0.693 ? "p2" : "p3";
}

function curve(points) {
  const top = Math.max(...points.flat(), 1e-9);
  const place = (value, at) => ((at / Math.max(points.length - 1, 1)) * 100).toFixed(1) + "," + (22 - (value / top) * 20).toFixed(1);
  const line = (which) => points.map((point, at) => place(point[which], at)).join(" ");
  const svg = drawn("svg", { viewBox: "0 0 100 22", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(drawn("polyline", { points: line(1), class: "expected" }), drawn("polyline", { points: line(0) }));
  return svg;
}

const STATES = { missing: "no data", learning: "learning", open: "open", suppressed: "held back" };

function heatCell(region, cell) {
  if (!cell) return element("td", "none", "");
  const judged = cell.state !== "missing" && cell.state !== "learning";
  const classes = judged ? step(cell.residual) + " " + cell.state : "none";
  const made = element("td", classes, element("b", "", judged ? percent(cell.residual) : STATES[cell.state]));
  const points = picture.curves.get([region, cell.device, cell.stack, cell.metric].join("\n"));
  if (points && points.length > 1) made.append(curve(points));
  const sizes = "observed " + count(cell.observed) + ", expected " + count(cell.expected);
  made.title = cell.device + " · " + cell.stack + ": " + sizes + (STATES[cell.state] ? ", " + STATES[cell.state] : "");
  return made;
}

function heatMap(region, metric) {
  const cells = region.cells.filter((cell) => cell.metric === metric);
  const sorted = (key) => [...new Set(cells.map((cell) => cell[key]))].sort();
  const stacks = sorted("stack");
  const heading = (name, wide) => { const th = element("th", "", name); th.scope = wide; return th; };
  const rows = sorted("device").map((device) => {
    const of = (stack) => cells.find((cell) => cell.device === device && cell.stack === stack);
    return element("tr", "", heading(device, "row"), ...stacks.map((stack) => heatCell(region.region, of(stack))));
  });
  const head = element("thead", "", element("tr", "", heading("device \\ stack", "col"), ...stacks.map((stack) => heading(stack, "col"))));
  const table = element("table", "heat", element("caption", "skip", "Left over of " + metric + " in " + region.region), head, element("tbody", "", ...rows));
  const scroll = element("div", "scroll", table);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Lattice of " + region.region);
  return scroll;
}

function showLattice() {
  const regions = picture.regions || [];
  tile("cells", regions.reduce((sum, it) => sum + new Set(it.cells.map((cell) => cell.device + "\n" + cell.stack)).size, 0));
  const some = (holds) => regions.find((it) => it.cells.some(holds));
  const troubled = some((cell) => cell.state === "open") || some((cell) => cell.state !== "missing") || regions[0];
  options($("region"), regions.map((it) => it.region), troubled && troubled.region);
  for (const part of document.querySelectorAll(".controls, .legend")) part.hidden = !regions.length;
  const region = regions.find((it) => it.region === $("region").value);
  if (!region) {
    $("lattice").replaceChildren(empty("No cells yet: send an agent something that names a region, a device and a stack.", 'echo "activity,region=eu,device=web,stack=shop value=42" | nc -q1 127.0.0.1 8094'));
    $("shared").textContent = "";
    return;
  }
  // Traffic first: it is what the common mode is made of.
  const roles = new Map(region.common_modes.map((mode) => [mode.metric, mode.role]));
  const metrics = [...new Set(region.cells.map((cell) => cell.metric))];
  metrics.sort((one, other) => (roles.get(other) === "traffic") - (roles.get(one) === "traffic") || (one < other ? -1 : 1));
  options($("metric"), metrics, metrics[0]);
  const mode = region.common_modes.find((it) => it.metric === $("metric").value);
  $("shared").textContent = mode && mode.peers ? "shared by " + mode.peers + " independent stacks: " + percent(mode.common_mode) : "";
  $("lattice").replaceChildren(heatMap(region, $("metric").value));
}

function showAgents(agents) {
  tile("agents", agents.length);
  if (!agents.length) {
    $("agents").replaceChildren(empty("No agent has reported. On this machine, start one and it enrols by itself; on others, create a token here and enrol with it:", "vedette-aggregator token create --region eu-west   →   vedette-agent enroll --aggregator HOST:8461 --token TOKEN"));
    return;
  }
  const names = ["agent", "regions", "last heard", "series", "spool", "dropped", "never came"];
  const head = element("tr", "", ...names.map((name, at) => { const th = element("th", at > 2 ? "number" : "", name); th.scope = "col"; return th; }));
  const rows = agents.map((agent) => {
    const dropped = agent.dropped.reduce((sum, [, number]) => sum + number, 0);
    const drops = element("td", "number", count(dropped));
    drops.title = agent.dropped.map(([reason, number]) => words(reason) + ": " + count(number)).join("\n");
    const heard = element("td", "", agent.silent ? element("span", "badge critical", "silent") : "", (agent.silent ? " " : "") + ago(agent.last_heard_at) + " ago");
    return element("tr", "", element("td", "", agent.agent), element("td", "", agent.regions.join(", ") || "–"), heard,
      element("td", "number", count(agent.series)), element("td", "number", bytes(agent.spooled_bytes)), drops, element("td", "number", count(agent.missing)));
  });
  const scroll = element("div", "scroll", element("table", "", element("thead", "", head), element("tbody", "", ...rows)));
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", "Agents");
  $("agents").replaceChildren(scroll);
}

async function ask(path) {
  const response = await fetch("/api/v1/" + path, { headers: { accept: "application/json" } });
  if (response.status === 401) location.assign("/login");
  if (!response.ok) throw new Error(path + ": " + response.status);
  return response.json();
}

// What has the keyboard's focus keeps it when everything is drawn anew.
function keepFocus(draw) {
  const key = document.activeElement && document.activeElement.dataset.key;
  draw();
  const same = key && document.querySelector("[data-key=" + JSON.stringify(key) + "]");
  if (same) same.focus({ preventScroll: true });
}

async function show() {
  try {
    const paths = ["incidents", "history?limit=" + ENDED_MAX, "lattice", "curves", "agents"];
    const [incidents, history, lattice, curves, agents] = await Promise.all(paths.map(ask));
    picture.regions = lattice.regions;
    picture.curves = new Map(curves.curves.map((it) => [[it.region, it.device, it.stack, it.metric].join("\n"), it.points]));
    keepFocus(() => {
      showIncidents(incidents.incidents);
      showEnded(history.incidents);
      showLattice();
      showAgents(agents.agents);
    });
    status("live", "live");
  } catch (error) {
    status("stale", "not reachable, trying again");
  }
}

async function poll() {
  await show();
  setTimeout(poll, POLL_MS);
}

// Said only when it changes, so that a screen reader is not told every three seconds.
function status(name, text) {
  if ($("status").textContent === text) return;
  $("status").className = name;
  $("status").textContent = text;
}

for (const id of ["region", "metric"]) {
  $(id).addEventListener("change", () => { $(id).dataset.chosen = "yes"; showLattice(); });
}
poll();
