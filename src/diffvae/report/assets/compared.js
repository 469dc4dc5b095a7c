// A comparison: every method on every data set, and the paired differences.
if (data.compared) {
  const { settings, reference } = data.compared;
  const show = () => {
    const s = settings[Number($("compared-setting").value)];
    caption("compared-plot", `${s.title}: points are data sets, bars are means`);
    draw("compared-plot", [
      { type: "scatter", mode: "markers", x: s.points.map((p) => plain(p[0])), y: s.points.map((p) => p[2]), error_y: { type: "data", array: s.points.map((p) => p[3] || 0), visible: true, thickness: 1, width: 2 },
        text: s.points.map((p) => `${plain(p[1])}: ${number(p[2])}`), hoverinfo: "text", marker: { size: 8, color: "#0072b2", opacity: 0.7 } },
      { type: "scatter", mode: "markers", x: s.methods.map(plain), y: s.mean, hoverinfo: "skip", marker: { symbol: "line-ew", size: 34, line: { width: 3, color: "#d55e00" } } }],
    { xaxis: { type: "category", categoryarray: s.methods.map(plain) }, yaxis: { title: { text: s.title.split(",")[0] } } });
    rows("compared-table", s.methods.map((m, i) => [m, s.mean[i], ...(m === reference ? ["reference", "", ""] : s.difference[m] || ["", "", ""])]), [1, 2, 3, 4]);
  };
  fill($("compared-setting"), settings.map((s, i) => [String(i), s.title]));
  $("compared-setting").addEventListener("change", show);
  show();
}
