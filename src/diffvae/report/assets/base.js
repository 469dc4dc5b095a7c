"use strict";
// What every section uses. Names reach the page as text only: textContent, or escaped where the drawing library
// reads a little markup of its own.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const typed = (text, Type) => new Type(bytes(text).buffer);
const inflated = async (text) =>
  new Uint8Array(await new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
const plain = (name) => String(name).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const percent = (x) => `${(100 * x).toFixed(x && x < 0.095 ? 1 : 0)} %`;
const GREY = "#b9bec7";
const SEQUENTIAL = [[0, "#e4e6ea"], [0.25, "#f7b98b"], [0.5, "#e8605f"], [0.75, "#992d80"], [1, "#330e5c"]];
const shown = {}; // identity of a plot -> function that draws it again in the page's present colours

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
      const cell = element("td", entry && entry.gene ? undefined : number(entry));
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

function ink() {
  const style = getComputedStyle(document.documentElement);
  return { text: style.getPropertyValue("--ink").trim(), line: style.getPropertyValue("--line").trim(),
    paper: style.getPropertyValue("--paper").trim() };
}

function draw(id, make) { // make: () => [traces, layout]; kept, so that the theme can change
  shown[id] = () => {
    const [traces, layout] = make();
    const { text, line, paper } = ink();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
    const themed = { paper_bgcolor: paper, plot_bgcolor: paper, font: { color: text, size: 13 }, hovermode: "closest",
      margin: { l: 50, r: 16, t: 10, b: 46 }, showlegend: false, ...layout };
    for (const key of Object.keys(themed)) if (/^[xy]axis/.test(key)) themed[key] = { ...axis, ...themed[key] };
    return Plotly.react(id, traces, themed, { displaylogo: false, responsive: true,
      modeBarButtonsToRemove: ["toImage", "autoScale2d"] });
  };
  return shown[id]();
}

function caption(id, text) {
  $(`${id}-caption`).textContent = text;
  $(id).setAttribute("aria-label", text);
}

const onMap = (extra = {}) => ({ margin: { l: 8, r: 8, t: 8, b: 8 }, dragmode: "pan", uirevision: "map",
  xaxis: { visible: false }, yaxis: { visible: false, scaleanchor: "x" }, ...extra });

// a computer without WebGL draws circles in SVG instead: slower, the same picture
const webgl = (() => { try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; } })();

function points(x, y, more) {
  return { type: webgl && x.length > 3000 ? "scattergl" : "scatter", mode: "markers", x, y, hoverinfo: "skip", ...more };
}

// genes are named in many tables; each name colours the map
const geneNumber = new Map((data.genes ? data.genes.stored : []).map((g, i) => [g.name, i]));

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.gene) { colourByGene(button.dataset.gene); $("map").scrollIntoView(); }
  if (button.dataset.save) {
    const id = button.dataset.save;
    Plotly.downloadImage(id, { format: button.dataset.format, filename: id, scale: button.dataset.format === "png" ? 3 : 1,
      width: $(id).clientWidth, height: $(id).clientHeight });
  }
  if (button.dataset.csv) saveTable(button.dataset.csv);
});

function saveTable(id) {
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // a cell that begins like a formula would be run by a spreadsheet
  const safe = (text) => (/^[=+\-@\t]/.test(text) && !/^[+-]?[\d.]/.test(text) ? `'${text}` : text);
  const lines = [...$(id).rows].map((row) => [...row.cells].map((c) => quote(safe(c.textContent.trim().replace(/\s+/g, " ")))).join(","));
  const link = element("a", "", { download: `${id}.csv`, href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  Object.values(shown).forEach((again) => again());
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Object.values(shown).forEach((again) => again()));
document.querySelectorAll("button.gene").forEach((b) => { b.disabled = !geneNumber.has(b.dataset.gene); });
