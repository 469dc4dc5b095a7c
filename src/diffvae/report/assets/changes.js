// Perturbation: all steps are precomputed, and the slider looks them up.
if (data.changes) {
  const { unit, steps, pairs, methods, default: first, max_q, plasticity } = data.changes;
  const sources = [...new Set(pairs.map((p) => p.source))];
  const DASHES = { mean: "solid", shift: "dash", ot: "dashdot", anchored: "longdash", expression_mean: "dot", none: "longdashdot" };
  const LIT = "#e8760a";
  const axisTitle = unit === "step" ? "step (share of the distance to the target)" : "step (standard deviations)";
  const sizeOf = (step) => (unit === "step" ? `step ${steps[step]}` : `${steps[step]} sd`);
  $("change-unit").textContent = unit === "step"
    ? "A step of 1 is the mean difference in expression between the two types."
    : "Steps are in standard deviations of the latent dimensions (λ of the paper).";

  const current = () => pairs[Number($("change-target").value)];

  const drawMap = (pair, step) => {
    const lit = new Set(pair.converted[step].map((i) => pair.cells[i]));
    const sourceCells = new Set(pair.cells);
    const layer = (index, marker, status) => points(index.map((i) => cells.x[i]), index.map((i) => cells.y[i]),
      { marker, ...(status ? { text: index.map((i) => hover(i, status)), hoverinfo: "text" } : {}) });
    const others = [...cells.x.keys()].filter((i) => !sourceCells.has(i));
    const still = pair.cells.filter((i) => !lit.has(i));
    const moved = step === pair.start ? pair.placed : []; // of one step only, the map has the places
    caption("change-map", moved.length
      ? `${pair.source} cells on the map. Rings: cells that become ${pair.target}. Triangles: where their new expression lies. Black: cells that do not convert`
      : `${pair.source} cells on the map: orange cells become ${pair.target} at ${sizeOf(step)}, black cells do not`);
    const was = moved.length ? { symbol: "circle-open", size: size + 2, color: LIT, opacity: 0.6 } : { size: size + 4, color: LIT, line: { width: 1, color: INK } };
    draw("change-map", [layer(others, { size, color: GREY, opacity: 0.35 }),
      layer(still, { size: size + 3, color: INK, opacity: 0.9, line: { width: 1, color: PAPER } }, "not converted"),
      layer([...lit], was, "converted"),
      ...(moved.length ? [points(moved.map((p) => p[1]), moved.map((p) => p[2]), { text: moved.map((p) => hover(p[0], "converted, moved here")), hoverinfo: "text",
        marker: { symbol: "triangle-up", size: size + 4, color: LIT, line: { width: 0.7, color: INK } } })] : [])],
    onMap({ uirevision: "change" }));
  };

  const drawCurve = (pair, step) => {
    const { curves } = pair;
    caption("change-curve", `Share of ${pair.n_cells} ${pair.source} cells called ${pair.target}, by step. Thick line: classifier, rings: judge, band: 95 % of random directions, stars: more than chance (q ≤ ${max_q})`);
    const traces = [];
    const known = steps.map((_, i) => i).filter((i) => pair.null_low && pair.null_low[i] !== null);
    if (known.length)
      traces.push({ x: known.map((i) => steps[i]), y: known.map((i) => pair.null_low[i]), mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false },
        { x: known.map((i) => steps[i]), y: known.map((i) => pair.null_high[i]), mode: "lines", line: { width: 0 }, fill: "tonexty",
          fillcolor: "rgba(130,140,155,0.35)", name: "random directions", showlegend: true, hoverinfo: "skip" });
    for (const key of Object.keys(curves).filter((k) => k !== first).concat(first)) { // the first method on top
      const [name, colour] = methods[key] || [key, INK];
      traces.push({ x: steps, y: curves[key], mode: key === first ? "lines+markers" : "lines", name, showlegend: true, line: { dash: DASHES[key], color: colour, width: key === first ? 4 : 1.6 }, marker: { size: 7 },
        hovertemplate: `${name}<br>%{x}: %{y:.0%}<extra></extra>` });
    }
    const colour = (methods[first] || [first, INK])[1];
    if (pair.judged) traces.push({ x: steps, y: pair.judged, mode: "lines+markers", name: "by the judge", showlegend: true, line: { color: colour, width: 1.4 },
      marker: { symbol: "circle-open", size: 8 }, hovertemplate: "judge<br>%{x}: %{y:.0%}<extra></extra>" });
    const sure = steps.map((_, i) => i).filter((i) => pair.q_value && pair.q_value[i] !== null && pair.q_value[i] <= max_q);
    traces.push({ x: sure.map((i) => steps[i]), y: sure.map((i) => curves[first][i]), mode: "markers", name: "more than chance", showlegend: sure.length > 0, hoverinfo: "skip",
      marker: { symbol: "star", size: 14, color: colour, line: { width: 1, color: PAPER } } });
    draw("change-curve", traces, { showlegend: true, xaxis: { title: { text: axisTitle } },
        yaxis: { title: { text: "cells converted" }, tickformat: ".0%", range: [-0.03, 1.05] }, legend: { orientation: "h", y: 1.03, yanchor: "bottom", font: { size: 12 }, traceorder: "normal" },
        margin: { l: 58, r: 12, t: 10, b: 52 },
        shapes: [{ type: "line", x0: steps[step], x1: steps[step], y0: 0, y1: 1, line: { color: INK, width: 1, dash: "dot" } }] });
  };

  // what the note says of one step, a sentence each
  const told = (pair, step) => {
    const share = pair.curves[first], q = pair.q_value && pair.q_value[step];
    const start = pair.reached === null || step !== pair.start ? ""
      : pair.reached ? " (the smallest step that reaches the type)" : " (the step that comes nearest; none reaches the type)";
    const said = [`At ${sizeOf(step)}${start}, the classifier calls ${Math.round(share[step] * pair.n_cells)} of ${pair.n_cells} ${pair.source} cells (${percent(share[step])}) ${pair.target}`
      + `${pair.judged ? `, the judge ${percent(pair.judged[step])}` : ""}${pair.nearest ? `, and the nearest real cells ${percent(pair.nearest[step])}` : ""}.`];
    if (pair.null_mean && pair.null_mean[step] !== null)
      said.push(`Random directions of the same size convert ${percent(pair.null_mean[step])} (classifier; q ${number(q)}).`);
    if (step) said.push(`Without a step, the classifier calls ${percent(share[0])} ${pair.target}.`);
    if (pair.way) said.push(pair.way);
    if (pair.cells.length < pair.n_cells) said.push(`${pair.cells.length} cells are drawn.`);
    return said.join(" ");
  };

  const show = () => {
    const pair = current(), step = Number($("change-step").value);
    $("change-value").textContent = String(steps[step]);
    $("change-note").textContent = told(pair, step);
    drawMap(pair, step);
    drawCurve(pair, step);
  };

  const showGenes = () => {
    const pair = current(), { numbers } = pair;
    rows("change-effects", pair.effects.map(([gene, ...rest]) => [{ gene }, ...rest]), [2, 3]);
    caption("change-effects", `Genes that change most on the way to ${pair.target}, at ${sizeOf(pair.start)}`);
    $("change-empty").textContent = pair.empty;
    $("change-empty").hidden = !pair.empty;
    $("change-sets").hidden = Boolean(pair.empty);
    if (pair.empty) return;
    rows("change-minimal", pair.minimal.map(([gene, ...rest]) => [{ gene }, ...rest]), [2, 3, 4, 5]);
    const specific = pair.minimal.filter(([, , , , , q]) => q !== null && q <= 0.1).length;
    caption("change-minimal", `Genes of the smallest sets that convert a cell: mean change of log-normalised expression, and the share of the sets with the gene (by chance: under random directions). ${specific || "None"} of these ${pair.minimal.length} genes ${specific === 1 ? "is" : "are"} in more sets than by chance (q ≤ 0.1).`);
    const baseline = numbers && numbers.flipped_by_de_genes !== null ? `. The same number of top differentially expressed genes converts ${percent(numbers.flipped_by_de_genes)} of the cells, random genes ${percent(numbers.flipped_by_random_genes)}` : "";
    const median = numbers && numbers.median_n_genes !== null ? `; median ${number(numbers.median_n_genes)}${baseline}` : "";
    caption("change-counts", `Smallest number of genes that converts each of ${pair.n_genes.length} cells to ${pair.target}${median}`);
    draw("change-counts", [{ type: "histogram", x: pair.n_genes, marker: { color: "#0072b2" }, hovertemplate: "%{x} genes: %{y} cells<extra></extra>" }],
      { xaxis: { title: { text: "genes changed" }, rangemode: "tozero" }, yaxis: { title: { text: "cells" } }, bargap: 0.06 });
  };

  const start = () => { $("change-step").value = String(current().start); show(); showGenes(); };
  const targets = () => {
    const own = [...pairs.keys()].filter((i) => pairs[i].source === sources[Number($("change-source").value)]);
    fill($("change-target"), own.map((i) => [String(i), pairs[i].target]));
    const share = (i) => pairs[i].curves[first][pairs[i].start] + (pairs[i].reached ? 1 : 0) + (pairs[i].n_genes && pairs[i].n_genes.length ? 2 : 0);
    $("change-target").value = String(own.reduce((a, b) => (share(b) > share(a) ? b : a), own[0]));
  };
  // with several sources: the map of all pairs, whose fields choose the pair
  const drawPlasticity = () => {
    const { sources: from, targets: to, share, reached, within, change } = plasticity;
    $("change-size").textContent = number(change);
    $("change-plasticity").style.height = `${Math.max(300, 130 + 30 * from.length)}px`;
    const room = ($("change-plasticity").clientWidth - 150) / to.length;
    const field = (i, j) => (share[i][j] === null ? "" : `${room > 34 ? Math.round(100 * share[i][j]) : ""}${reached[i][j] ? "*" : ""}`);
    const says = (i, j) => (share[i][j] === null ? "not tried"
      : `${percent(share[i][j])} beyond chance${within[i][j] ? "" : " (at the largest step, a smaller change)"}${reached[i][j] ? ", reached by some step" : ", not reached"}`);
    const grid = (of) => from.map((_, i) => to.map((_, j) => of(i, j)));
    const most = Math.max(0.05, ...share.flat().filter((v) => v !== null).map(Math.abs));
    caption("change-plasticity", `Share of cells (%) that convert beyond chance from each source (rows) to each target (columns), at a change of ${number(change)}; * reached by some step, white: not tried`);
    draw("change-plasticity", [{ type: "heatmap", z: share, x: to.map((_, j) => j), y: from.map((_, i) => i), zmin: -most, zmax: most, xgap: 1, ygap: 1,
      colorscale: [[0, "#2b6ca3"], [0.5, "#f4f4f4"], [1, "#c2410c"]], text: grid(field), texttemplate: "%{text}",
      customdata: grid((i, j) => `${plain(from[i])} to ${plain(to[j])}<br>${says(i, j)}`), hovertemplate: "%{customdata}<extra></extra>", hoverongaps: false,
      colorbar: { thickness: 10, outlinewidth: 0, tickformat: ".0%" } }],
    { xaxis: { title: { text: "target" }, tickvals: [...to.keys()], ticktext: to.map(brief), tickangle: -45, showgrid: false, zeroline: false },
      yaxis: { title: { text: "source" }, tickvals: [...from.keys()], ticktext: from.map(brief), autorange: "reversed", showgrid: false, zeroline: false }, margin: { l: 60, r: 8, t: 8, b: 60 } });
    $("change-plasticity").on("plotly_click", ({ points: [field] }) => {
      const pressed = pairs.findIndex((p) => p.source === from[field.y] && p.target === to[field.x]);
      if (pressed < 0) return;
      $("change-source").value = String(sources.indexOf(from[field.y]));
      targets();
      $("change-target").value = String(pressed);
      start();
    });
  };
  const brief = (name) => plain(name.length > 22 ? `${name.slice(0, 21)}…` : name);
  if (plasticity) drawPlasticity();

  fill($("change-source"), sources.map((s, i) => [String(i), s]));
  $("change-step").max = String(steps.length - 1);
  const shown = pairs.findIndex((p) => p.n_genes && p.n_genes.length);  // the page opens at a pair with genes
  $("change-source").value = String(Math.max(0, sources.indexOf((pairs[shown] || pairs[0]).source)));
  targets();
  start();
  $("change-source").addEventListener("change", () => { targets(); start(); });
  $("change-target").addEventListener("change", start);
  $("change-step").addEventListener("input", show);
}
