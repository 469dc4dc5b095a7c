// Training curves: each term relative to its largest value.
Object.values(data.made || {}).forEach((curves, i) => {
  const id = `curves-${i + 1}`;
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9"];
  const terms = [...new Set(curves.lines.map((l) => l.name.replace(/^(train|validation) /, "")))];
  draw(id, curves.lines.map((line) => {
    const term = line.name.replace(/^(train|validation) /, "");
    const known = curves.epoch.map((_, j) => j).filter((j) => line.values[j] !== null);
    const top = Math.max(...known.map((j) => Math.abs(line.values[j]))) || 1;
    return { type: "scatter", mode: "lines", name: line.name, showlegend: true, x: known.map((j) => curves.epoch[j]), y: known.map((j) => line.values[j] / top),
      text: known.map((j) => `${line.name}, epoch ${curves.epoch[j]}: ${number(line.values[j])}`), hoverinfo: "text",
      line: { color: COLOURS[terms.indexOf(term) % COLOURS.length], dash: line.name.startsWith("train") ? "dot" : "solid", width: 1.8 } };
  }), { showlegend: true, xaxis: { title: { text: "epoch" } }, yaxis: { title: { text: "relative to the largest value" } }, legend: { orientation: "h", y: -0.28 }, margin: { l: 55, r: 12, t: 10, b: 70 } });
});
if ($("copy-methods")) $("copy-methods").addEventListener("click", async () => {
  const text = $("methods-text").innerText;
  try { await navigator.clipboard.writeText(text); $("copy-methods").textContent = "Copied"; }
  catch { getSelection().selectAllChildren($("methods-text")); }  // a page from disk may not write to the clipboard
});
