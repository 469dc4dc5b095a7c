// Links: two graphs ordered by type, and the links of one cell on the map.
if (data.links) {
  const links = data.links;
  const a = typed(links.a, Uint32Array), b = typed(links.b, Uint32Array);
  const probability = bytes(links.probability), isNew = bytes(links.new);
  const label = cells.groups.find((g) => g.key === links.groupby) || cells.groups[0];
  const progenitors = data.fates ? data.fates.progenitors : [];

  const drawGraph = (id, graph, what) => {
    const shares = typed(graph.values, Float32Array), n = graph.bins;
    const z = Array.from({ length: n }, (_, i) => Array.from(shares.subarray(i * n, (i + 1) * n)));
    caption(id, `${what}: ${graph.n.toLocaleString("en")} links of ${links.n_cells.toLocaleString("en")} cells, ordered by type`);
    const line = { color: LINE, width: 1 };
      const shapes = links.types.flatMap((t) => [{ type: "line", x0: t.to, x1: t.to, y0: 0, y1: n, line }, { type: "line", y0: t.to, y1: t.to, x0: 0, x1: n, line }]);
      // names of narrow types would overlap
      const named = links.types.filter((t) => t.to - t.from > n / 40);
      const cut = (name) => (name.length > 16 ? `${name.slice(0, 15)}…` : name);
      const ticks = { tickvals: named.map((t) => (t.from + t.to) / 2), ticktext: named.map((t) => plain(cut(t.name))), showgrid: false, zeroline: false };
      const type = (v) => { const t = links.types.find((k) => v >= k.from && v < k.to); return t ? plain(t.name) : "no type"; };
    draw(id, [{ type: "heatmap", z, x0: 0.5, dx: 1, y0: 0.5, dy: 1, zmin: 0, zmax: graph.high, colorscale: [[0, PAPER], [0.15, "#f7b98b"], [0.5, "#e8605f"], [1, "#7a1f78"]], colorbar: { thickness: 10, outlinewidth: 0, tickformat: ".0%", title: { text: "pairs linked", side: "right" } },
        hovertext: z.map((row, i) => row.map((v, j) => `${type(i + 0.5)} – ${type(j + 0.5)}<br>${percent(v)} of pairs linked`)), hoverinfo: "text" }],
      { xaxis: { visible: false, range: [0, n], constrain: "domain" }, yaxis: { ...ticks, range: [n, 0], scaleanchor: "x", constrain: "domain" }, shapes, margin: { l: 10, r: 10, t: 10, b: 10 } });
  };
  drawGraph("links-input", links.input, "Input graph");
  drawGraph("links-predicted", links.predicted, "Predicted links");

  const degree = typed(links.degree, Uint32Array);
  const offer = (cell) => { // a cell that was clicked joins the list
    if (![...$("link-cell").options].some((o) => o.value === String(cell)))
      $("link-cell").append(element("option", `${cells.names[cell]}: ${degree[cell]} links`, { value: String(cell) }));
  };

  const showCell = (cell) => {
    const own = [];
    for (let e = 0; e < a.length; e++) if (a[e] === cell || b[e] === cell) own.push(e);
    own.sort((p, q) => probability[q] - probability[p]);
    const far = (e) => (a[e] === cell ? b[e] : a[e]);
    const counts = new Map();
    own.forEach((e) => { const name = label.names[label.codes[far(e)]]; counts.set(name, (counts.get(name) || 0) + 1); });
    const byType = [...counts].sort((p, q) => q[1] - p[1]).map(([name, n]) => `${n} ${name}`).join(", ");
    const called = progenitors.find((p) => p[0] === cell);
    $("link-note").textContent = `${cells.names[cell]} (${label.names[label.codes[cell]]})${called ? `, called ${called[2]}` : ""}: ${degree[cell]} links${own.length < degree[cell] ? `, ${own.length} of them in this page` : ""}${own.length ? `: ${byType}; ${own.filter((e) => isNew[e]).length} of these new` : ""}.`;
    offer(cell);
    $("link-cell").value = String(cell);
    caption("link-map", `Links of ${cells.names[cell]} on the map: solid lines are new links, dotted lines are edges of the input graph`);
    const lines = [0, 1].map((fresh) => {
        const x = [], y = [];
        own.filter((e) => Boolean(isNew[e]) === Boolean(fresh)).forEach((e) => { x.push(cells.x[cell], cells.x[far(e)], null); y.push(cells.y[cell], cells.y[far(e)], null); });
        return { type: "scatter", mode: "lines", x, y, hoverinfo: "skip", line: { color: fresh ? "#d55e00" : INK, width: fresh ? 1.8 : 1.2, dash: fresh ? "solid" : "dot" } };
      });
      const ends = own.map(far), all = [...cells.x.keys()];
      const many = cells.n > 3000 ? "scattergl" : "scatter";
      const wrap = (t) => (webgl ? t : { ...t, type: "scatter" });
    return draw("link-map", [wrap({ ...points(cells.x, cells.y, { customdata: all, text: all.map((i) => hover(i)), hoverinfo: "text", marker: { size, color: all.map((i) => label.colours[label.codes[i]]), opacity: 0.35 } }), type: many }), ...lines,
        points(ends.map((i) => cells.x[i]), ends.map((i) => cells.y[i]), { customdata: ends, text: ends.map((i, k) => hover(i, `probability ${(probability[own[k]] / 255).toFixed(2)}`)), hoverinfo: "text",
          marker: { size: size + 4, color: ends.map((i) => label.colours[label.codes[i]]), line: { width: 1.2, color: INK } } }),
        { ...points([cells.x[cell]], [cells.y[cell]], { marker: { size: size + 9, color: "#d55e00", symbol: "star", line: { width: 1.2, color: INK } } }), type: "scatter" },
      ...keys(label.names, label.colours)],
      onMap({ uirevision: "links" }));
  };

  $("link-legend").replaceChildren(...label.names.map((name, k) => legendEntry(name, { background: label.colours[k] })),
    legendEntry("chosen cell", { color: "#d55e00" }, "★"), legendEntry("new link", { color: "#d55e00" }, "—"), legendEntry("edge of the input graph", {}, "┄"));
  rows("link-pairs", links.pairs, [2, 3, 4, 5]);
  // without progenitors, offer the cells with most links
  const own = progenitors.map((p) => p[0]).filter((i) => i >= 0);
  const offered = own.length ? own : [...degree.keys()].sort((p, q) => degree[q] - degree[p]).slice(0, 50);
  fill($("link-cell"), offered.map((i) => [String(i), `${cells.names[i]}: ${degree[i]} links`]));
  const start = offered.reduce((p, q) => (degree[q] > degree[p] ? q : p), offered[0]);
  $("link-cell").addEventListener("change", (e) => showCell(Number(e.target.value)));
  if (start !== undefined)
    showCell(start).then(() => $("link-map").on("plotly_click", (event) => event.points[0].customdata !== undefined && showCell(event.points[0].customdata)));
}
