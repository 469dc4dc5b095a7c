// Perturbation: all steps are precomputed, and the slider looks them up.
if (data.changes) {
  const { steps, pairs, methods } = data.changes;
  const sources = [...new Set(pairs.map((p) => p.source))];
  const DASHES = { shift: "solid", mean: "dash", expression_mean: "dot", none: "dashdot" };
  const COLOURS = { shift: "#d55e00", mean: "#0072b2", expression_mean: "#009e73", none: "#7d8794" };

  const current = () => pairs[Number($("change-target").value)];

  const drawMap = (pair, step) => {
    const lit = new Set(pair.converted[step].map((i) => pair.cells[i]));
    const sourceCells = new Set(pair.cells);
    const layer = (index, marker, status) => points(index.map((i) => cells.x[i]), index.map((i) => cells.y[i]),
      { marker, ...(status ? { text: index.map((i) => hover(i, status)), hoverinfo: "text" } : {}) });
    const others = [...cells.x.keys()].filter((i) => !sourceCells.has(i));
    const still = pair.cells.filter((i) => !lit.has(i));
    const last = step === steps.length - 1 && pair.placed.length;
    caption("change-map", `${pair.source} on the map: orange cells become ${pair.target} at λ = ${steps[step]}, black cells do not${last ? "; triangles are the changed cells" : ""}`);
    draw("change-map", [layer(others, { size, color: GREY, opacity: 0.35 }),
      layer(still, { size: size + 3, color: INK, opacity: 0.9, line: { width: 1, color: PAPER } }, "not converted"),
      ...(last ? [{ type: "scatter", mode: "markers", x: pair.placed.map((p) => p[0]), y: pair.placed.map((p) => p[1]), text: pair.placed.map(() => "changed cell"), hoverinfo: "text",
        marker: { symbol: "triangle-up", size: size + 4, color: "#e8760a", line: { width: 1, color: INK } } }] : []),
      layer([...lit], { size: size + 4, color: "#e8760a", line: { width: 1, color: INK } }, "converted")],
    onMap({ uirevision: "change" }));
  };

  const drawCurve = (pair, step) => {
    const { curves } = pair;
    caption("change-curve", `Share of ${pair.n_cells} ${pair.source} cells classified as ${pair.target}, by step; band: 95 % of random directions`);
    const traces = [];
    if (curves.null_low) {
      const known = steps.map((_, i) => i).filter((i) => curves.null_low[i] !== null);
      traces.push({ x: known.map((i) => steps[i]), y: known.map((i) => curves.null_low[i]), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
        { x: known.map((i) => steps[i]), y: known.map((i) => curves.null_high[i]), mode: "lines", line: { width: 0 }, fill: "tonexty",
          fillcolor: "rgba(130,140,155,0.35)", name: "random directions", showlegend: true, hoverinfo: "skip" });
    }
    for (const [key, name] of Object.entries(methods))
      if (curves[key]) traces.push({ x: steps, y: curves[key], mode: "lines+markers", name, showlegend: true, line: { dash: DASHES[key], color: COLOURS[key], width: key === "shift" ? 3 : 1.6 }, marker: { size: 6 },
        hovertemplate: `${name}<br>λ %{x}: %{y:.0%}<extra></extra>` });
    draw("change-curve", traces, { showlegend: true, xaxis: { title: { text: "step λ (standard deviations)" } },
        yaxis: { title: { text: "cells converted" }, tickformat: ".0%", range: [-0.03, 1.05] }, legend: { orientation: "h", y: -0.24 },
        margin: { l: 58, r: 12, t: 10, b: 60 },
        shapes: [{ type: "line", x0: steps[step], x1: steps[step], y0: 0, y1: 1, line: { color: INK, width: 1, dash: "dot" } }] });
  };

  const show = () => {
    const pair = current(), step = Number($("change-step").value), { curves } = pair;
    $("change-value").textContent = String(steps[step]);
    const q = curves.q_value ? curves.q_value[step] : null;
    const baseline = curves.null_mean && curves.null_mean[step] !== null ? `; random directions of this length ${percent(curves.null_mean[step])}` : "";
    $("change-note").textContent = `At λ = ${steps[step]}, ${Math.round(curves.shift[step] * pair.n_cells)} of ${pair.n_cells} ${pair.source} cells (${percent(curves.shift[step])}) are classified as ${pair.target} (${percent(curves.shift[0])} at λ = 0${baseline}${q === null ? "" : `; q ${number(q)}, ${q < 0.05 ? "beyond chance" : "not beyond chance"}`}).${pair.cells.length < pair.n_cells ? ` ${pair.cells.length} of them are drawn.` : ""}`;
    drawMap(pair, step);
    drawCurve(pair, step);
  };

  const showGenes = () => {
    const pair = current(), { numbers } = pair;
    rows("change-effects", pair.effects.map(([gene, ...rest]) => [{ gene }, ...rest]), [2, 3]);
    rows("change-minimal", pair.minimal.map(([gene, ...rest]) => [{ gene }, ...rest]), [2, 3, 4]);
    const baseline = numbers && numbers.flipped_by_de_genes !== null ? `; equally many top differentially expressed genes flip ${percent(numbers.flipped_by_de_genes)} of them, random ones ${percent(numbers.flipped_by_random_genes)}` : "";
    const median = numbers && numbers.median_n_genes !== null ? `; median ${number(numbers.median_n_genes)}${baseline}` : "";
    caption("change-counts", pair.n_genes.length
      ? `Genes that must change in each of ${pair.n_genes.length} cells that flip to ${pair.target}${median}`
      : `No cell flips to ${pair.target} by changing genes in the shift's direction`);
    draw("change-counts", [{ type: "histogram", x: pair.n_genes, marker: { color: "#0072b2" }, hovertemplate: "%{x} genes: %{y} cells<extra></extra>" }],
      { xaxis: { title: { text: "genes changed" }, rangemode: "tozero" }, yaxis: { title: { text: "cells" } }, bargap: 0.06 });
  };

  const targets = () => {
    const own = [...pairs.keys()].filter((i) => pairs[i].source === sources[Number($("change-source").value)]);
    fill($("change-target"), own.map((i) => [String(i), pairs[i].target]));
    $("change-target").value = String(own.reduce((a, b) => (pairs[b].curves.shift.at(-1) > pairs[a].curves.shift.at(-1) ? b : a), own[0]));
  };
  fill($("change-source"), sources.map((s, i) => [String(i), s]));
  targets();
  $("change-step").max = String(steps.length - 1);
  $("change-step").value = String(steps.length - 1);
  $("change-source").addEventListener("change", () => { targets(); show(); showGenes(); });
  $("change-target").addEventListener("change", () => { show(); showGenes(); });
  $("change-step").addEventListener("input", show);
  show();
  showGenes();
}
