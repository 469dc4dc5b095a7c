// Fates: the map of progenitors by where walks end, and the means of their groups.
if (data.fates) {
  const { progenitors, map, groups, source } = data.fates;
  const REST = "#e4e4e4", NONE = "#8f8f8f", MOST_FATES = 4, MOST_GROUPS = 6, SEEN = 0.05;
  rows("fate-calls", progenitors.map((p) => p.slice(1)), [2, 3]);
  if (!map) { $("fate-figures").remove(); $("fate-table-block").remove(); }
  else {
    const fate = bytes(map.fate), strength = bytes(map.strength);
    const called = new Map(progenitors.map((p) => [p[0], p[2]]));
    const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    const blend = (hex, part) => `rgb(${rgb(NONE).map((v, k) => Math.round(v + (rgb(hex)[k] - v) * Math.sqrt(part)))})`;
    const colour = (i) => (fate[i] < 254 ? blend(map.colours[fate[i]], strength[i] / 255) : NONE);
    const all = [...cells.x.keys()], own = all.filter((i) => fate[i] !== 255).sort((a, b) => strength[a] - strength[b]);
    const ring = (i) => called.has(i) && called.get(i) !== "uncommitted";
    own.sort((a, b) => ring(a) - ring(b));
    const told = (i) => `${fate[i] < 254 ? `towards ${plain(map.names[fate[i]])}: ${percent(strength[i] / 255)} above the mean` : "towards no fate"}${called.has(i) ? `<br>call: ${plain(called.get(i))}` : ""}`;
    const others = all.filter((i) => fate[i] === 255);
    caption("fate-map", `${own.length.toLocaleString("en")} progenitors (${source}) by the fate furthest above the mean; a dark ring marks called cells`);
    // a fate that no cell leans to visibly has no colour on the map, and no entry in the legend
    const shown = map.names.map((_, k) => k).filter((k) => own.some((i) => fate[i] === k && strength[i] / 255 >= SEEN));
    draw("fate-map", [
      points(others.map((i) => cells.x[i]), others.map((i) => cells.y[i]), { text: others.map((i) => hover(i)), hoverinfo: "text", marker: { size: 0.8 * size, color: REST, line: { width: 0 } } }),
      { ...points(own.map((i) => cells.x[i]), own.map((i) => cells.y[i]), { text: own.map((i) => hover(i, told(i))), hoverinfo: "text",
        marker: { size: size + 2, color: own.map(colour), line: { width: own.map((i) => (ring(i) ? 1 : 0)), color: INK } } }), type: own.length > 3000 && webgl ? "scattergl" : "scatter" },
      ...keys([...shown.map((k) => `towards ${map.names[k]}`), "uncommitted: no fate above the mean", "other cells"], [...shown.map((k) => map.colours[k]), NONE, REST])], onMap());
    $("fate-legend").replaceChildren(...shown.map((k) => legendEntry(`towards ${map.names[k]}`, { background: map.colours[k] })),
      legendEntry("uncommitted: no fate above the mean", { background: NONE }), legendEntry("other cells", { background: REST }), legendEntry("called", { background: "transparent", border: "2px solid currentColor" }));

    // a block of bars per group, under its name; the largest groups, after all progenitors
    const drawnGroups = [groups[0], ...groups.slice(1).sort((a, b) => b.n_cells - a.n_cells)].slice(0, MOST_GROUPS);
    const bars = [], annotations = [];
    let y = 0;
    for (const group of drawnGroups) {
      annotations.push({ text: `<b>${plain(group.name)}</b>, ${group.n_cells.toLocaleString("en")} cells`, x: 0, xanchor: "left", y, showarrow: false, yanchor: "middle" });
      y += 1;
      const likely = group.fates.filter((f, i) => i === 0 || f[2] >= 0.01).slice(0, MOST_FATES);
      for (const f of likely) bars.push([y++, f, group]);
    }
    const cut = (name) => (name.length > 14 ? `${name.slice(0, 13)}…` : name);
    const on = { y: bars.map(([at]) => at), text: bars.map(([, f, g]) => `${plain(g.name)}: ${plain(f[0])}<br>mean ${number(f[2])} ± ${number(f[3])}<br>PCA neighbours ${number(f[4])}<br>random group ${number(f[5])}`), hoverinfo: "text", cliponaxis: false };
    const left = drawnGroups.length < groups.length ? `; the ${drawnGroups.length} largest of ${groups.length} groups` : "";
    caption("fate-bars", `Mean fate probabilities by call, with standard errors${left}`);
    $("fate-bars").style.height = `${95 + 24 * y}px`;
    draw("fate-bars", [
      { ...on, type: "bar", orientation: "h", name: "whitened neighbours", textposition: "none", x: bars.map(([, f]) => f[2]), error_x: { type: "data", array: bars.map(([, f]) => f[3] || 0), color: INK, thickness: 1.2, width: 0 }, marker: { color: bars.map(([, f]) => f[1]) }, width: 0.8 },
      { ...on, type: "scatter", mode: "markers", name: "PCA neighbours", x: bars.map(([, f]) => f[4]), marker: { symbol: "diamond", size: 8, color: PAPER, line: { color: INK, width: 1.4 } } },
      { ...on, type: "scatter", mode: "markers", name: "random group", x: bars.map(([, f]) => f[5]), marker: { symbol: "line-ns-open", size: 14, color: INK, line: { width: 2 } } },
    ], { showlegend: true, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 }, annotations, margin: { l: 20, r: 16, t: 8, b: 70 },
      xaxis: { range: [0, 1], fixedrange: true, tickvals: [0, 0.5, 1] }, yaxis: { range: [y - 0.4, -0.6], tickvals: bars.map(([at]) => at), ticktext: bars.map(([, f]) => plain(cut(f[0]))), fixedrange: true, showgrid: false, zeroline: false } });
    rows("fate-table", groups.flatMap((g) => g.fates.filter((f) => f[2] >= 0.01 || f[4] >= 0.01).map(([name, , mean, se, pca, random, sd]) => [g.name, g.n_cells, name, mean, se, pca, random, sd])), [1, 3, 4, 5, 6, 7]);
  }
}
