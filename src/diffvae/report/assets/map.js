// The map, coloured by a group, a gene or a latent dimension, and the composition of selected cells.
const cells = data.cells && { ...data.cells, x: typed(data.cells.x, Float32Array), y: typed(data.cells.y, Float32Array),
  weight: data.cells.weight ? typed(data.cells.weight, Float32Array) : null,
  groups: data.cells.groups.map((g) => ({ ...g, codes: typed(g.codes, Uint16Array) })) };
const size = cells && Math.max(2.5, Math.min(8, 260 / Math.sqrt(cells.n)));
const value = (levels, ends) => (i) => ends.low + (levels[i] / 255) * (ends.high - ends.low);
let alone = null; // the group that is highlighted

function hover(i, more = "") {
  return [plain(cells.names[i]), ...cells.groups.map((g) => `${plain(g.title)}: ${plain(g.names[g.codes[i]])}`), more]
    .filter(Boolean).join("<br>");
}

function colourByGroup(key) {
  const group = cells.groups.find((g) => g.key === key);
  alone = null;
  $("colour-group").value = key;
  $("colour-gene").value = $("colour-dimension").value = "";
  $("map-note").textContent = "";
  const show = () => {
    // the largest group first, so that rare groups lie on top; unassigned cells lie below all others
    const order = group.names.map((_, k) => k).sort((a, b) => (group.unassigned[b] - group.unassigned[a] || group.sizes[b] - group.sizes[a]));
    const place = new Map(order.map((k, i) => [k, i]));
    const index = [...cells.x.keys()].sort((a, b) => place.get(group.codes[a]) - place.get(group.codes[b]));
    const colours = index.map((i) => (alone === null || group.codes[i] === alone ? group.colours[group.codes[i]] : GREY));
    const opacity = index.map((i) => (alone === null || group.codes[i] === alone ? 0.85 : 0.18));
    return draw("map-plot", [points(index.map((i) => cells.x[i]), index.map((i) => cells.y[i]), { customdata: index, text: index.map((i) => hover(i)),
      hoverinfo: "text", marker: { size, color: colours, opacity, line: { width: 0 } } }), ...keys(group.names, group.colours)], onMap({ dragmode: drag() }));
  };
  caption("map-plot", `t-SNE map of ${cells.n_all.toLocaleString("en")} cells, coloured by ${group.title}`);
  $("legend").replaceChildren(...group.names.map((name, k) => {
    const button = element("button", undefined, { type: "button", "aria-pressed": "false" });
    const dot = element("span", undefined, { class: "dot" });
    dot.style.background = group.colours[k];
    button.append(dot, element("bdi", name), document.createTextNode(`· ${group.sizes[k].toLocaleString("en")}`));
    button.addEventListener("click", () => {
      alone = alone === k ? null : k;
      [...$("legend").children].forEach((b, i) => b.setAttribute("aria-pressed", String(alone === i)));
      showSelection(alone === null ? [] : [...cells.x.keys()].filter((i) => group.codes[i] === k));
      show();
    });
    return button;
  }));
  return show();
}

function colourByValue(what, levels, ends, unit) {
  $("legend").replaceChildren();
  const of = value(levels, ends);
  const index = [...cells.x.keys()].sort((a, b) => levels[a] - levels[b]); // high values lie on top
  caption("map-plot", `t-SNE map of ${cells.n_all.toLocaleString("en")} cells, coloured by ${what}`);
  return draw("map-plot", [points(index.map((i) => cells.x[i]), index.map((i) => cells.y[i]), { customdata: index,
    text: index.map((i) => hover(i, `${plain(what)}: ${number(of(i))}`)), hoverinfo: "text",
    marker: { size, color: index.map(of), colorscale: SEQUENTIAL, cmin: ends.low, cmax: ends.high, opacity: 0.9,
      colorbar: { title: { text: unit, side: "right" }, thickness: 12, outlinewidth: 0 } } })], onMap({ dragmode: drag() }));
}

let asked = 0; // of two genes chosen in quick succession, the later one is shown

async function colourByGene(wanted) {
  const name = geneNumber.has(wanted) ? wanted : lower.get(wanted.toLowerCase());
  const i = geneNumber.get(name), mine = ++asked;
  if (i === undefined) {
    $("map-note").textContent = `No gene called ${wanted} is stored in this page.`;
    return;
  }
  let levels;
  try {
    levels = await inflated(data.genes.stored[i].values);
  } catch (error) {
    $("map-note").textContent = "This browser cannot decompress gene expression; use a newer one.";
    return;
  }
  if (mine !== asked) return;
  $("colour-gene").value = name;
  const gene = data.genes.stored[i];
  $("colour-group").value = $("colour-dimension").value = "";
  $("map-note").textContent = "";
  await colourByValue(gene.name, levels, gene, "log-normalised expression");
}

function colourByDimension(d) {
  const dimension = cells.latent[d];
  $("colour-dimension").value = String(d);
  $("colour-group").value = $("colour-gene").value = "";
  $("map-note").textContent = "";
  return colourByValue(`latent dimension ${d}`, bytes(dimension.values), dimension, `dimension ${d}`);
}

const drag = () => ($("lasso").getAttribute("aria-pressed") === "true" ? "lasso" : touch ? false : "pan");

function showSelection(chosen) {
  const panel = $("selection");
  if (!chosen.length) {
    panel.textContent = "Select cells with the lasso, or click a group above, to see their composition.";
    return;
  }
  const weight = (i) => (cells.weight ? cells.weight[i] : 1);
  const total = chosen.reduce((sum, i) => sum + weight(i), 0);
  panel.replaceChildren(element("h3", `${Math.round(total).toLocaleString("en")} cells selected`));
  const columns = element("div", undefined, { class: "two" });
  for (const group of cells.groups) {
    const count = new Float64Array(group.names.length);
    chosen.forEach((i) => { count[group.codes[i]] += weight(i); });
    const list = element("ul", undefined, { class: "genes" });
    [...count.keys()].filter((k) => count[k]).sort((a, b) => count[b] - count[a]).slice(0, 12).forEach((k) => {
      const item = element("li");
      const bar = element("span", undefined, { class: "bar" });
      bar.style.width = `${(5 * count[k]) / total}rem`;
      bar.style.background = group.colours[k];
      item.append(element("bdi", group.names[k]), ` ${percent(count[k] / total)} `, bar);
      list.append(item);
    });
    const block = element("div");
    block.append(element("h4", group.title), list);
    columns.append(block);
  }
  panel.append(columns);
}

if (cells) {
  fill($("colour-group"), [["", "–"], ...cells.groups.map((g) => [g.key, g.title])]);
  fill($("colour-dimension"), [["", "–"], ...cells.latent.map((_, d) => [String(d), String(d)])]);
  $("gene-names").replaceChildren(...data.genes.stored.map((g) => element("option", undefined, { value: g.name })));
  const { stored, n_all, n_silent } = data.genes, left = n_all - stored.length;
  const told = [];
  if (left) told.push(`${stored.length.toLocaleString("en")} of ${n_all.toLocaleString("en")} expressed genes are stored in this page: those in its tables, and the most variable. ${left.toLocaleString("en")} less variable ones are left out, to keep the page below 15 MB.`);
  if (n_silent) told.push(`${n_silent.toLocaleString("en")} genes are left out because no drawn cell expresses them.`);
  $("map-stored").textContent = told.join(" ");
  $("lasso").addEventListener("click", (e) => {
    e.target.setAttribute("aria-pressed", String(e.target.getAttribute("aria-pressed") !== "true"));
    Plotly.relayout("map-plot", { dragmode: drag() });
  });
  $("colour-group").addEventListener("change", (e) => e.target.value && colourByGroup(e.target.value));
  $("colour-dimension").addEventListener("change", (e) => e.target.value && colourByDimension(Number(e.target.value)));
  $("colour-gene").addEventListener("change", (e) => e.target.value && colourByGene(e.target.value.trim()));
  const first = cells.groups.find((g) => !g.unassigned.every(Boolean)) || cells.groups[0]; // not all in grey
  colourByGroup(first.key).then(() => {
    $("map-plot").on("plotly_selected", (event) => event && showSelection(event.points.filter((p) => p.customdata !== undefined).map((p) => p.customdata)));
    $("map-plot").on("plotly_deselect", () => showSelection([]));
  });
}
