"use strict";
// Comfort only: without this script everything can be read, followed and copied by hand.
const told = document.getElementById("told");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // where the clipboard is not open to pages from disk
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser does not let this page copy");
  }
}

for (const place of document.querySelectorAll("[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${place.dataset.what}`);
  button.addEventListener("click", async () => {
    try {
      await copy(place.dataset.copy);
      told.textContent = `Copied ${place.dataset.what}`;
      button.textContent = "Copied";
    } catch (problem) {
      told.textContent = problem.message;
      button.textContent = "Not copied";
    }
    button.focus();
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  place.after(button);
}

const readout = document.getElementById("readout");
const advice = "Point at a cell, or reach it by Tab, to see what it is.";
readout.hidden = false;
readout.textContent = advice;
for (const cell of document.querySelectorAll("[data-cell]")) {
  const show = () => { readout.textContent = cell.getAttribute("aria-label"); };
  cell.addEventListener("pointerenter", show);
  cell.addEventListener("focus", show);
  cell.addEventListener("pointerleave", () => { readout.textContent = advice; });
}

function unfold() {
  const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = row?.closest("details");
  if (details) {
    details.open = true;
    row.scrollIntoView({ block: "center" });
  }
}
addEventListener("hashchange", unfold);
unfold();

const table = document.getElementById("components");
const body = table.tBodies[0];
const rows = [...body.rows];
const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
const form = document.getElementById("filter");
const text = document.getElementById("filter-text");
const kind = document.getElementById("filter-kind");
const count = document.getElementById("filter-count");

function filter() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const fits = words.every((word) => texts.get(row).includes(word))
      && (!kind.value || row.cells[2].textContent === kind.value);
    row.hidden = !fits;
    shown += fits;
  }
  count.textContent = `${shown} of ${rows.length}`;
}

form.hidden = false;
form.addEventListener("submit", (event) => event.preventDefault());
text.addEventListener("input", filter);
kind.addEventListener("input", filter);
filter();

const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const heads = [...table.tHead.rows[0].cells];
for (const [column, head] of heads.entries()) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sort";
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    rows.sort((a, b) => sign * order.compare(a.cells[column].textContent, b.cells[column].textContent));
    body.append(...rows);
  });
}

for (const licence of document.querySelectorAll(".licence")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = licence.textContent;
  button.setAttribute("aria-label", `Show components under ${licence.textContent}`);
  licence.replaceChildren(button);
  button.addEventListener("click", () => {
    text.value = licence.textContent;
    kind.value = "";
    filter();
    form.scrollIntoView({ block: "center" });
    text.focus();
  });
}
