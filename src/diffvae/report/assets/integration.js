// Integration: scores of both sides before and after, and the cells by batch and by type.
if (data.integration) {
  const { sides, colours } = data.integration;
  const blue = "#0072b2", MOST = 3000;

  const wide = $("integration-scores").clientWidth >= 800;
  const n = sides.length, most = Math.max(...sides.map((side) => side.rows.length));
  $("integration-scores").style.height = `${wide ? 110 + 45 * most : 170 + n * (60 + 36 * most)}px`;
  const layout = { showlegend: true, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 }, annotations: [],
    margin: { l: 50, r: 16, t: 28, b: wide ? 70 : 110 } };
  const traces = sides.flatMap(({ title, rows }, k) => {
    const axis = k ? String(k + 1) : "";
    const names = rows.map((row) => plain(row.score));
    const at = (i, size) => (n === 1 ? [0, 1] : i ? [1 - size, 1] : [0, size]);
    layout[`xaxis${axis}`] = { range: wide ? [-0.02, 1.03] : [-0.05, 1.05], domain: wide ? at(k, 0.4) : [0, 1], anchor: `y${axis}`, fixedrange: true, zeroline: false,
      tickvals: [0, 0.25, 0.5, 0.75, 1], ticktext: ["0", "", "0.5", "", "1, best"] };
    layout[`yaxis${axis}`] = { type: "category", range: [most - 0.5, -0.5], dtick: 1, domain: wide ? [0, 1] : at(1 - k, 0.4), anchor: `x${axis}`, fixedrange: true, showgrid: false };
    layout.annotations.push({ text: `<b>${title[0].toUpperCase()}${title.slice(1)}</b>`, xref: `x${axis} domain`, yref: `y${axis} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom", showarrow: false });
    const on = { type: "scatter", xaxis: `x${axis}`, yaxis: `y${axis}`, y: names, mode: "markers", cliponaxis: false, showlegend: k === 0 };
    const said = (what) => `%{y}<br>${what}: %{x:.3f}<extra></extra>`;
    return [
      { ...on, mode: "lines", showlegend: false, hoverinfo: "skip", x: rows.flatMap((r) => [r.pca, r.latent, null]), y: names.flatMap((name) => [name, name, name]), line: { color: "#8fbfe0", width: 3 } },
      { ...on, name: n === 1 ? "permuted: best mixing" : "permuted: best mixing; for types, chance", x: rows.map((r) => r.permuted), hovertemplate: said("permuted"), marker: { symbol: "line-ns-open", size: 15, color: INK, line: { width: 2 } } },
      { ...on, name: "PCA, no integration", x: rows.map((r) => r.pca), hovertemplate: said("PCA"), marker: { size: 11, color: PAPER, line: { color: "#8a8a8a", width: 2.5 } } },
      { ...on, name: "latent space", x: rows.map((r) => r.latent), hovertemplate: said("latent space"), marker: { size: 12, color: blue } },
    ];
  });
  draw("integration-scores", traces, layout);

  // in an order that is random but always the same, so that no batch lies on top
  const order = [...cells.x.keys()].map((i) => [Math.imul(i + 1, 2654435761) >>> 0, i]).sort((a, b) => a[0] - b[0]).slice(0, MOST).map(([, i]) => i);
  const some = order.length < cells.n_all ? `, ${order.length.toLocaleString("en")} of ${cells.n_all.toLocaleString("en")} drawn` : "";
  ["integration-batches", "integration-types"].forEach((id, k) => {
    const group = cells.groups.find((g) => g.key === colours[k]);
    if (!group) return;
    caption(id, `${k ? "The same cells" : "Cells"} by ${group.title}${some}`);
    draw(id, [points(order.map((i) => cells.x[i]), order.map((i) => cells.y[i]), { text: order.map((i) => hover(i)), hoverinfo: "text",
      marker: { size: Math.max(3, 0.8 * size), color: order.map((i) => group.colours[group.codes[i]]), opacity: 0.8, line: { width: 0 } } }), ...keys(group.names, group.colours)], onMap());
    $(`${id}-legend`).replaceChildren(...group.names.map((name, c) => {
      const entry = element("span"), dot = element("span", undefined, { class: "dot" });
      dot.style.background = group.colours[c];
      entry.append(dot, " ", element("bdi", name));
      return entry;
    }));
  });
}
