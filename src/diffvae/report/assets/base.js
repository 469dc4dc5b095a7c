"use strict";
// Functions that all sections use. Names reach the page as text only: by textContent, or escaped where plotly.js
// would read markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const typed = (text, Type) => new Type(bytes(text).buffer);
const inflated = async (text) =>
  new Uint8Array(await new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
const plain = (name) => String(name).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const percent = (x) => x === null || x === undefined ? "" : `${(100 * x).toFixed(x && x < 0.095 ? 1 : 0)} %`;
const GREY = "#b9bec7";
// Figures are white in both themes: the palettes need it, and so do saved figures.
const INK = "#1d2430", LINE = "#d8dce3", PAPER = "#ffffff";
const SEQUENTIAL = [[0, "#e4e6ea"], [0.25, "#f7b98b"], [0.5, "#e8605f"], [0.75, "#992d80"], [1, "#330e5c"]];

function number(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "";
  if (typeof x === "boolean") return x ? "yes" : "no";
  if (typeof x === "number" && x !== 0 && Math.abs(x) < 1e-3) return x.toExponential(1);
  if (typeof x === "number") return Number.isInteger(x) ? x.toLocaleString("en") : String(Number(x.toPrecision(3)));
  return String(x);
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function fill(select, entries) { // entries: [value, text]
  select.replaceChildren(...entries.map(([value, text]) => element("option", text, { value })));
}

function rows(id, lines, numeric = []) { // a line's entries are text, numbers, or {gene}
  const body = $(id).tBodies[0];
  body.replaceChildren(...lines.map((line) => {
    const row = element("tr");
    line.forEach((entry, i) => {
      const cell = element(i ? "td" : "th", entry && entry.gene ? undefined : number(entry), i ? {} : { scope: "row" });
      if (typeof entry === "number") cell.dataset.value = entry;
      if (entry && entry.gene) cell.append(geneButton(entry.gene));
      if (numeric.includes(i)) cell.className = "n";
      row.append(cell);
    });
    return row;
  }));
}

function geneButton(name) {
  const button = element("button", name, { type: "button", class: "gene", "data-gene": name });
  button.disabled = !geneNumber.has(name);
  return button;
}

// no other buttons, such as those that upload a chart
const BUTTONS = [["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
// on a touch screen, dragging scrolls the page
const touch = matchMedia("(pointer: coarse)").matches;

function draw(id, traces, layout) {
  const axis = { gridcolor: LINE, zerolinecolor: LINE, linecolor: LINE, automargin: true };
  const whole = { paper_bgcolor: PAPER, plot_bgcolor: PAPER, font: { color: INK, size: 13 }, hovermode: "closest",
    margin: { l: 50, r: 16, t: 10, b: 52 }, showlegend: false, ...(touch ? { dragmode: false } : {}), ...layout };
  for (const key of Object.keys(whole)) if (/^[xy]axis/.test(key)) whole[key] = { ...axis, ...whole[key] };
  return Plotly.react(id, traces, whole, { displaylogo: false, responsive: true, modeBarButtons: BUTTONS, plotlyServerURL: "" });
}

// a legend for saved figures; on the page, the legend is below the map
const keys = (names, colours) => names.map((name, k) => ({ type: "scatter", mode: "markers", x: [null], y: [null], name: plain(name),
  showlegend: true, hoverinfo: "skip", marker: { size: 9, color: colours[k] } }));

function legendEntry(text, style, mark = "") { // below a figure
  const entry = element("span"), dot = element("span", mark, { class: mark ? "mark" : "dot" });
  Object.assign(dot.style, style);
  entry.append(dot, " ", element("bdi", text));
  return entry;
}

function caption(id, text) {
  $(`${id}-caption`).textContent = text;
  $(id).setAttribute("aria-label", text);
}

const onMap = (extra = {}) => ({ margin: { l: 8, r: 8, t: 8, b: 8 }, dragmode: touch ? false : "pan", uirevision: "map",
  xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, ...extra });

// without WebGL, points are drawn as SVG: slower, but the same
const webgl = (() => { try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; } })();

function points(x, y, more) {
  return { type: webgl && x.length > 3000 ? "scattergl" : "scatter", mode: "markers", x, y, hoverinfo: "skip", ...more };
}

// a click on a gene in any table colours the map
const lower = new Map((data.genes ? data.genes.stored : []).map((g) => [g.name.toLowerCase(), g.name]));
const geneNumber = new Map((data.genes ? data.genes.stored : []).map((g, i) => [g.name, i]));

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.gene) { colourByGene(button.dataset.gene); $("map").scrollIntoView(); }
  if (button.dataset.save) {
    const id = button.dataset.save;
    const plot = $(id);
    Plotly.downloadImage({ data: plot.data, layout: { ...plot.layout, showlegend: plot.data.some((t) => t.showlegend) } }, { format: button.dataset.format, filename: id, scale: button.dataset.format === "png" ? 3 : 1,
      width: $(id).clientWidth, height: $(id).clientHeight });
  }
  if (button.dataset.csv) saveTable(button.dataset.csv);
});

function saveTable(id) {
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // a spreadsheet would run a cell that starts like a formula
  const safe = (text) => (/^[=+\-@]/.test(text) && !/^[+-]?[\d.]+(e[+-]?\d+)?$/i.test(text) ? `'${text}` : text);
  const raw = (cell) => cell.dataset.value ?? (cell.querySelector("bdi[title]:only-child")?.title || cell.textContent);
  const lines = [...$(id).rows].map((row) => [...row.cells].map((c) => quote(safe(raw(c).trim().replace(/\s+/g, " ")))).join(","));
  const link = element("a", "", { download: `${id}.csv`, href: URL.createObjectURL(new Blob(["\ufeff" + lines.join("\n") + "\n"], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
document.querySelectorAll("button.gene").forEach((b) => { b.disabled = !geneNumber.has(b.dataset.gene); });
