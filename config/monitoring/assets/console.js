// The consoles: what the server wrote is fetched anew every quarter of a minute, charts are drawn of the range queries.
// Everything is asked of Prometheus itself; nothing is loaded from elsewhere.
"use strict";

const REFRESH_SECONDS = 15;
const STEPS = 240; // points of a line: about one for two pixels
const RANGES = { "15m": 900, "1h": 3600, "6h": 21600, "1d": 86400, "7d": 604800 };
const COLOURS = 8; // as many as console.css has
const SVG = "http://www.w3.org/2000/svg";

async function api(path, parameters) {
  const response = await fetch(`../api/v1/${path}?${new URLSearchParams(parameters)}`);
  const answer = await response.json();
  if (answer.status !== "success") throw new Error(answer.error);
  return answer.data;
}

function element(name, attributes = {}, text = "", space = "") {
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Numbers, in the units that the charts name.
function scaled(value, base, units) {
  let power = 0;
  while (Math.abs(value) >= base && power < units.length - 1) { value /= base; power += 1; }
  return `${+value.toPrecision(3)}${units[power]}`;
}

const FORMS = {
  number: (value) => scaled(value, 1000, ["", "k", "M", "G", "T"]),
  bytes: (value) => scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]),
  dollars: (value) => `$${+value.toPrecision(3)}`,
  share: (value) => `${+(100 * value).toPrecision(3)} %`,
  seconds: (value) => (value < 1 ? `${+(1000 * value).toPrecision(3)} ms` : value < 120 ? `${+value.toPrecision(3)} s` : `${+(value / 60).toPrecision(3)} min`),
};

// The least "round" step (1, 2 or 5 times a power of the base) that divides up to `most` into at most four.
function roundStep(most, base) {
  if (!(most > 0)) return 1;
  const raw = most / 4;
  const unit = base === 1024 && raw >= 1024 ? 1024 ** Math.floor(Math.log(raw) / Math.log(1024)) : 1;
  const power = unit * 10 ** Math.floor(Math.log10(raw / unit));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
}

function clock(seconds, range) {
  const options = range > 86400 ? { weekday: "short", hour: "2-digit", minute: "2-digit" } : { hour: "2-digit", minute: "2-digit" };
  return new Date(seconds * 1000).toLocaleTimeString([], { ...options, hour12: false });
}

async function lines(figure, start, end, step) {
  const window = `${Math.max(60, 4 * step)}s`; // a rate needs two samples; every point of the line covers its neighbours'
  const found = await Promise.all(figure.dataset.queries.split("\n").map(async (line) => {
    const cut = line.indexOf("=");
    const query = line.slice(cut + 1).replaceAll("$rate", window);
    const data = await api("query_range", { query, start, end, step });
    return data.result.map((series) => ({
      name: line.slice(0, cut).replace(/\{(\w+)\}/g, (_, label) => series.metric[label] ?? ""),
      points: series.values.map(([time, value]) => [time, Number(value)]).filter(([, value]) => Number.isFinite(value)),
    }));
  }));
  return found.flat().filter((each) => each.points.length).sort((a, b) => a.name.localeCompare(b.name));
}

function drawn(points, x, y, step) {
  let path = "";
  points.forEach(([time, value], at) => {
    const gap = at === 0 || time - points[at - 1][0] > 1.5 * step;
    path += `${gap ? "M" : "L"}${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    const alone = gap && (at === points.length - 1 || points[at + 1][0] - time > 1.5 * step);
    if (alone) path += "h.1"; // a round cap makes it a dot
  });
  return path;
}

function plot(figure, series, start, end, step) {
  const place = figure.querySelector(".plot");
  const form = FORMS[figure.dataset.unit];
  const legend = figure.querySelector(".legend");
  place.replaceChildren();
  legend.replaceChildren(...series.map((each, at) => {
    const item = element("li", {}, `${each.name} `);
    item.prepend(element("span", { class: "swatch", style: `background: var(--s${at % COLOURS})` }));
    item.append(element("b", {}, form(each.points.at(-1)[1])));
    return item;
  }));
  if (!series.length) {
    place.append(element("p", { class: "empty" }, "nothing in this range"));
    return;
  }
  const [width, height, left, bottom] = [place.clientWidth, place.clientHeight, 52, 18];
  const tick = roundStep(Math.max(...series.flatMap((each) => each.points.map(([, value]) => value))), figure.dataset.unit === "bytes" ? 1024 : 10);
  const highest = Math.max(...series.flatMap((each) => each.points.map(([, value]) => value)), 0);
  const top = Math.max(tick, Math.ceil(highest / tick - 1e-9) * tick);
  const x = (time) => left + ((time - start) / (end - start)) * (width - left - 6);
  const y = (value) => height - bottom - (value / top) * (height - bottom - 8);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": figure.querySelector("figcaption").textContent }, "", SVG);
  for (let value = 0; value <= top * 1.0001; value += tick) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - 6, y1: y(value), y2: y(value) }, "", SVG));
    svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, form(value), SVG));
  }
  for (let part = 0; part <= 4; part += 1) {
    const time = start + (part * (end - start)) / 4;
    svg.append(element("text", { x: x(time), y: height - 2, "text-anchor": part === 0 ? "start" : part === 4 ? "end" : "middle" }, clock(time, end - start), SVG));
  }
  series.forEach((each, at) => svg.append(element("path", { d: drawn(each.points, x, y, step), style: `stroke: var(--s${at % COLOURS})` }, "", SVG)));
  place.append(svg);
  pointed(place, svg, { series, start, end, step, form, x, left, width, height, bottom });
}

// A line at the pointer, and what the series were there.
function pointed(place, svg, { series, start, end, step, form, x, left, width, height, bottom }) {
  const cursor = element("line", { class: "cursor", y1: 0, y2: height - bottom, visibility: "hidden" }, "", SVG);
  const tip = element("div", { class: "tip", hidden: "" });
  svg.append(cursor);
  place.append(tip);
  place.onpointerleave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  place.onpointermove = (event) => {
    const inside = event.clientX - place.getBoundingClientRect().left;
    const time = Math.min(end, Math.max(start, start + ((inside - left) / (width - left - 6)) * (end - start)));
    const rows = series.flatMap((each, at) => {
      const near = each.points.reduce((best, point) => (Math.abs(point[0] - time) < Math.abs(best[0] - time) ? point : best));
      return Math.abs(near[0] - time) > step ? [] : [{ each, at, value: near[1] }];
    }).sort((a, b) => b.value - a.value).slice(0, 10);
    cursor.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(time));
    tip.hidden = false;
    tip.replaceChildren(element("div", {}, new Date(time * 1000).toLocaleString([], { hour12: false })), ...rows.map(({ each, at, value }) => {
      const row = element("div", {}, `${each.name} `);
      row.prepend(element("span", { class: "swatch", style: `background: var(--s${at % COLOURS})` }));
      row.append(element("b", {}, form(value)));
      return row;
    }));
    tip.style.left = `${Math.min(Math.max(0, inside + 12), Math.max(0, width - tip.offsetWidth))}px`;
  };
}

async function drawCharts() {
  const place = document.querySelector("[data-range]");
  if (!place) return;
  const range = RANGES[place.dataset.range];
  const step = Math.max(5, Math.ceil(range / STEPS));
  const end = Math.floor(Date.now() / 1000 / step) * step; // the same points at each refresh, so that lines do not tremble
  const start = end - range;
  await Promise.all([...place.querySelectorAll(".chart")].map(async (figure) => plot(figure, await lines(figure, start, end, step), start, end, step)));
}

// The parts marked data-live are taken from the page as the server writes it now.
async function refreshParts() {
  const parts = document.querySelectorAll("[data-live]");
  if (!parts.length) return;
  const response = await fetch(location.href);
  if (!response.ok) throw new Error(`status ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const part of parts) part.replaceChildren(...fresh.querySelector(`[data-live="${part.dataset.live}"]`).childNodes);
}

async function drawRules() {
  const { groups } = await api("rules", { type: "alert" });
  const rules = groups.flatMap((group) => group.rules);
  const texts = {};
  for (const rule of rules) for (const alert of rule.alerts) if (alert.state === "firing") (texts[rule.name] ??= []).push(alert.annotations);
  for (const item of document.querySelectorAll("[data-alert]")) {
    const told = texts[item.dataset.alert]?.shift();
    if (told) item.querySelector(".text").textContent = `${told.summary} ${told.description}`;
  }
  const list = document.getElementById("rules");
  if (!list) return;
  const order = { firing: 0, pending: 1, inactive: 2 };
  rules.sort((a, b) => order[a.state] - order[b.state]);
  list.replaceChildren(...rules.map((rule) => {
    const item = element("li", { class: rule.state === "firing" ? rule.labels.severity : rule.state });
    item.append(element("b", {}, rule.name), ` ${rule.state} `, element("span", { class: "severity" }, rule.labels.severity));
    for (const alert of rule.alerts) item.append(element("span", { class: "text" }, alert.annotations.summary));
    item.append(element("span", { class: "text note" }, rule.annotations.description), element("code", {}, rule.query));
    return item;
  }));
}

async function refresh() {
  const note = document.getElementById("refreshed");
  try {
    await refreshParts();
    await Promise.all([drawCharts(), drawRules()]);
    note.textContent = `as of ${new Date().toLocaleTimeString([], { hour12: false })}`;
    note.className = "";
  } catch (error) {
    note.textContent = `not refreshed: ${error.message}`;
    note.className = "late";
  }
}

refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 1000 * REFRESH_SECONDS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
addEventListener("resize", () => drawCharts().catch(() => {}));
