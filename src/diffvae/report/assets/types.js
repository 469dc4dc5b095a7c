// Why these types: press a square of dimension x cluster, or choose both from the lists.
if (data.types) {
  const types = data.types;
  const clusterGroup = cells.groups.find((g) => g.key === "diffvae_cluster");

  const show = (row, column) => {
    const d = types.dimensions[column];
    $("type-cluster").value = String(row);
    $("type-dimension").value = String(column);
    const side = types.side[row][column] === "-" ? -1 : 1;
    const chosen = types.chosen[row][column];
    $("dimension-title").textContent = `Dimension ${d}, ${side > 0 ? "high" : "low"} in cluster ${types.clusters[row]}: ${percent(types.share[row][column] || 0)} of its outlying cells, odds ratio ${number(types.odds_ratio[row][column])}, q ${number(types.q_value[row][column])}${chosen ? "" : " (not chosen for the cluster)"}`;
    const genes = types.of_dimension[d] || { up: [], down: [] };
    const [up, down] = side > 0 ? [genes.up, genes.down] : [genes.down, genes.up];
    for (const [id, list] of [["dimension-up", up], ["dimension-down", down]])
      $(id).replaceChildren(...list.map(([gene]) => { const item = element("li"); item.append(geneButton(gene)); return item; }));
    rows("cluster-genes", (types.of_cluster[types.clusters[row]] || []).map(([gene, ...rest]) => [{ gene }, ...rest]), [4, 5]);
    drawDimension(d, row);
    return drawTypes(row, column);
  };

  const drawDimension = (d, row) => {
    const ends = cells.latent[d], of = value(bytes(ends.values), ends);
    const lists = clusterGroup.names.map(() => []);
    for (let i = 0; i < cells.n; i++) lists[clusterGroup.codes[i]].push(of(i));
    caption("dimension-plot", `Latent dimension ${d} in each cluster (box: quartiles)`);
    draw("dimension-plot", () => [lists.map((y, k) => ({ type: "box", y, name: plain(clusterGroup.names[k]), boxpoints: false,
      line: { width: clusterGroup.names[k] === types.clusters[row].split(" · ")[0] ? 3 : 1.3 },
      marker: { color: clusterGroup.colours[k] } })),
    { xaxis: { title: { text: "cluster" }, type: "category" }, yaxis: { title: { text: `dimension ${d}` } } }]);
  };

  const drawTypes = (row, column) => draw("types-plot", () => {
    const text = types.chosen.map((line, i) => line.map((is, j) => (is ? (types.side[i][j] === "-" ? "−" : "+") : "")));
    const told = types.share.map((line, i) => line.map((share, j) =>
      `dimension ${types.dimensions[j]}, ${plain(types.clusters[i])}<br>${percent(share || 0)} of its outlying cells<br>odds ratio ${number(types.odds_ratio[i][j])}, q ${number(types.q_value[i][j])}`));
    const trace = { type: "heatmap", z: types.share, x: types.dimensions.map((_, j) => j), y: types.clusters.map((_, i) => i), text, texttemplate: "%{text}",
      hovertext: told, hoverinfo: "text", colorscale: SEQUENTIAL, zmin: 0, xgap: 1, ygap: 1,
      colorbar: { title: { text: "share", side: "right" }, tickformat: ".0%", thickness: 12, outlinewidth: 0 } };
    const every = Math.max(1, Math.ceil((types.dimensions.length * 20) / Math.max(300, $("types-plot").clientWidth - 220)));
    const narrow = $("types-plot").clientWidth < 600;
    const cut = (name) => (narrow ? name.split(" · ")[0] : name.length > 28 ? `${name.slice(0, 27)}…` : name);
    return [[trace], { yaxis: { autorange: "reversed", tickvals: types.clusters.map((_, i) => i), ticktext: types.clusters.map((c) => plain(cut(c))), showgrid: false, fixedrange: true },
      xaxis: { title: { text: "latent dimension" }, tickvals: types.dimensions.map((_, j) => j).filter((j) => j % every === 0), ticktext: types.dimensions.filter((_, j) => j % every === 0).map(String), showgrid: false, fixedrange: true },
      shapes: [{ type: "rect", x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5, line: { width: 2.5, color: ink().text } }] }];
  });

  fill($("type-cluster"), types.clusters.map((c, i) => [String(i), c]));
  fill($("type-dimension"), types.dimensions.map((d, j) => [String(j), String(d)]));
  const again = () => show(Number($("type-cluster").value), Number($("type-dimension").value));
  $("type-cluster").addEventListener("change", again);
  $("type-dimension").addEventListener("change", again);
  const first = Math.max(0, types.chosen[0].indexOf(true));
  show(0, first).then(() => {
    $("types-plot").on("plotly_click", (event) => show(event.points[0].y, event.points[0].x));
  });
}
