// Pictures as SVG, drawn from plain values; nothing here asks the node anything.

const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function fresh(svg, width, height) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  return svg;
}

export function bytes(value) {
  if (value === null || value === undefined || value === "unknown") return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = Number(value);
  while (Math.abs(left) >= 1024 && unit < units.length - 1) { left /= 1024; unit += 1; }
  return `${unit === 0 ? left : left.toFixed(1)} ${units[unit]}`;
}

// nodes: [{name, role, kind: "primary"|"standby"|"bad"|"", line, follows: bool}]
export function topology(svg, nodes) {
  const primary = nodes.find((node) => node.kind === "primary");
  const others = nodes.filter((node) => node !== primary);
  const width = Math.max(420, others.length * 150);
  fresh(svg, width, 210);
  const place = (index) => ((index + 0.5) * width) / Math.max(others.length, 1);
  others.forEach((node, index) => {
    if (!primary || !node.server) return;
    const x = place(index);
    svg.append(make("path", {
      class: node.follows ? "link" : "link broken",
      d: `M${width / 2},72 C${width / 2},110 ${x},100 ${x},138`,
    }));
  });
  if (primary) box(svg, primary, width / 2, 12);
  else svg.append(make("text", { x: width / 2, y: 45, "text-anchor": "middle" }, "no primary"));
  others.forEach((node, index) => box(svg, node, place(index), 138));
}

function box(svg, node, x, y) {
  svg.append(make("rect", {
    class: `box ${node.kind}`, x: x - 68, y, width: 136, height: 60, rx: 8,
  }));
  const at = { x, "text-anchor": "middle" };
  svg.append(make("text", { ...at, y: y + 18, "font-weight": 600 }, node.name));
  svg.append(make("text", { ...at, y: y + 34 }, node.role));
  svg.append(make("text", { ...at, y: y + 50, class: "dim" }, node.line));
}

// series: {name: [[seconds, value], ...]}
export function plot(svg, legend, series, format) {
  const [width, height, left] = [460, 150, 62];
  fresh(svg, width, height);
  const points = Object.values(series).flat();
  const last = Math.max(...points.map(([at]) => at), 1);
  const first = Math.min(...points.map(([at]) => at), last - 60);
  const top = Math.max(...points.map(([, value]) => value), 1);
  const x = (at) => left + ((at - first) / Math.max(last - first, 1)) * (width - left - 6);
  const y = (value) => height - 20 - (value / top) * (height - 34);
  for (const share of [0, 0.5, 1]) {
    const line = y(top * share);
    svg.append(make("line", { class: "axis", x1: left, x2: width - 6, y1: line, y2: line }));
    svg.append(make("text", { class: "dim", x: left - 6, y: line + 4, "text-anchor": "end" },
      format(Math.round(top * share))));
  }
  svg.append(make("text", { class: "dim", x: left, y: height - 4 },
    `${Math.round(last - first)} s ago`));
  svg.append(make("text", { class: "dim", x: width - 6, y: height - 4, "text-anchor": "end" },
    "now"));
  legend.replaceChildren();
  Object.entries(series).forEach(([name, values], index) => {
    const d = values.map(([at, value], i) => `${i ? "L" : "M"}${x(at)},${y(value)}`).join("");
    svg.append(make("path", { class: `s${(index % 4) + 1}`, d }));
    const entry = document.createElement("span");
    entry.className = `s${(index % 4) + 1}`;
    const newest = values.length ? values[values.length - 1][1] : 0;
    entry.textContent = `${name} ${format(Math.round(newest))}`;
    legend.append(entry);
  });
}

// changes: [{node, at: Date, gap_ms: number|null}], oldest first
export function timeline(svg, changes, now) {
  const width = 900;
  const nodes = [...new Set(changes.map((change) => change.node))].sort();
  const height = 30 + nodes.length * 26;
  fresh(svg, width, height);
  if (!changes.length) return;
  const start = changes[0].at.getTime();
  const span = Math.max(now.getTime() - start, 1);
  const x = (at) => 60 + ((at - start) / span) * (width - 80);
  nodes.forEach((node, row) => {
    const y = 18 + row * 26;
    svg.append(make("text", { x: 4, y: y + 4 }, node));
    svg.append(make("line", { class: "axis", x1: 60, x2: width - 20, y1: y, y2: y }));
  });
  changes.forEach((change, index) => {
    const row = nodes.indexOf(change.node);
    const y = 18 + row * 26;
    const from = change.at.getTime();
    const to = index + 1 < changes.length ? changes[index + 1].at.getTime() : now.getTime();
    svg.append(make("line", {
      class: `reign s${(row % 4) + 1}`, x1: x(from), x2: Math.max(x(to), x(from) + 2), y1: y, y2: y,
    }));
    if (change.gap_ms === null) return;
    const mark = make("line", { class: "gap", x1: x(from), x2: x(from), y1: y - 9, y2: y + 9 });
    mark.append(make("title", {}, `${change.gap_ms} ms without a primary`));
    svg.append(mark);
  });
  svg.append(make("text", { class: "dim", x: 60, y: height - 2 }, changes[0].at.toLocaleString()));
  svg.append(make("text", { class: "dim", x: width - 20, y: height - 2, "text-anchor": "end" },
    "now"));
}
