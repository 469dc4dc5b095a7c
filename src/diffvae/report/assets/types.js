// Evidence for the types: click a square of dimension x cluster, or choose both from the lists.
if (data.types) {
  const types = data.types;
  const titles = types.clusters.map((c, i) => `${c} · ${types.types[i]}`);

  const show = (row, column) => {
    const d = types.dimensions[column];
    $("type-cluster").value = String(row);
    $("type-dimension").value = String(column);
    const side = types.side[row][column] === "-" ? -1 : 1;
    const chosen = types.chosen[row][column];
    const high = types.share_high[row][column] || 0, low = types.share_low[row][column] || 0;
    const both = Math.min(high, low) > Math.max(high, low) / 2;
    $("dimension-title").textContent = `Dimension ${d} and cluster ${titles[row]}: ${percent(high)} of the cells far above its mean and ${percent(low)} of the cells far below it belong to the cluster${both ? " (both sides)" : ""}; odds ratio ${number(types.odds_ratio[row][column])}, q ${number(types.q_value[row][column])}${chosen ? "" : " (not chosen for the cluster)"}`;
    const [explained, chance] = types.batches[d] || [];
    $("dimension-batches").textContent = explained === undefined ? "" : `Batches explain ${percent(explained)} of what the clusters leave of this dimension (${percent(chance)} by chance).`;
    const genes = types.of_dimension[d] || { up: [], down: [] };
    const [up, down] = side > 0 ? [genes.up, genes.down] : [genes.down, genes.up];
    for (const [id, list] of [["dimension-up", up], ["dimension-down", down]])
      $(id).replaceChildren(...list.map(([gene]) => { const item = element("li"); item.append(geneButton(gene)); return item; }));
    rows("cluster-genes", (types.of_cluster[row] || []).map(([gene, ...rest]) => [{ gene }, ...rest]), [4, 5]);
    drawDimension(d, row);
    return drawTypes(row, column);
  };

  const drawDimension = (d, row) => {
    caption("dimension-plot", `Latent dimension ${d} by cluster, all cells: median, quartiles, 5 % and 95 %; coloured by type`);
    draw("dimension-plot", types.boxes[d].map(([low, q1, middle, q3, high], k) => ({ type: "box", x: [plain(types.clusters[k])], name: plain(titles[k]),
      lowerfence: [low], q1: [q1], median: [middle], q3: [q3], upperfence: [high], line: { width: k === row ? 3.5 : 1.3 }, marker: { color: types.colours[k] } })),
    { xaxis: { title: { text: "cluster" }, type: "category" }, yaxis: { title: { text: `dimension ${d}` } } });
  };

  const drawTypes = (row, column) => {
    const text = types.chosen.map((line, i) => line.map((is, j) => (is ? (types.side[i][j] === "-" ? "−" : "+") : "")));
    const texts = types.share.map((line, i) => line.map((share, j) =>
      `dimension ${types.dimensions[j]}, ${plain(titles[i])}<br>${percent(share || 0)} of its outlying cells<br>odds ratio ${number(types.odds_ratio[i][j])}, q ${number(types.q_value[i][j])}`));
    const trace = { type: "heatmap", z: types.share, x: types.dimensions.map((_, j) => j), y: types.clusters.map((_, i) => i), text, texttemplate: "%{text}",
      hovertext: texts, hoverinfo: "text", colorscale: SEQUENTIAL, zmin: 0, xgap: 1, ygap: 1,
      colorbar: { title: { text: "share", side: "right" }, tickformat: ".0%", thickness: 12, outlinewidth: 0 } };
    const every = Math.max(1, Math.ceil((types.dimensions.length * 20) / Math.max(300, $("types-plot").clientWidth - 220)));
    const narrow = $("types-plot").clientWidth < 600;
    const cut = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);
    return draw("types-plot", [trace], { yaxis: { autorange: "reversed", tickvals: types.clusters.map((_, i) => i), ticktext: (narrow ? types.clusters : titles).map((c) => plain(cut(c))), showgrid: false, fixedrange: true },
      xaxis: { title: { text: "latent dimension" }, tickvals: types.dimensions.map((_, j) => j).filter((j) => j % every === 0), ticktext: types.dimensions.filter((_, j) => j % every === 0).map(String), showgrid: false, fixedrange: true },
      shapes: [{ type: "rect", x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5, line: { width: 2.5, color: INK } }] });
  };

  fill($("type-cluster"), titles.map((c, i) => [String(i), c]));
  fill($("type-dimension"), types.dimensions.map((d, j) => [String(j), String(d)]));
  const again = () => show(Number($("type-cluster").value), Number($("type-dimension").value));
  $("type-cluster").addEventListener("change", again);
  $("type-dimension").addEventListener("change", again);
  const first = Math.max(0, types.chosen[0].indexOf(true));
  show(0, first).then(() => {
    $("types-plot").on("plotly_click", (event) => show(event.points[0].y, event.points[0].x));
  });
}
