"use strict";
// Draws the charts from the JSON in #data. All text goes in as text nodes, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["6 4", "", "", "", "10 3", "10 3", "2 3", "2 3"];

  function node(name, attributes = {}, ...children) {
    const made = name.startsWith("svg:")
      ? document.createElementNS(SVG, name.slice(4))
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function format(value) {
    const size = Math.abs(value);
    const minus = value < 0 ? "−" : "";
    if (size >= 1e4) {
      const power = Math.min(8, Math.floor(Math.log10(size) / 3 + 1e-9));
      return minus + Number((size / 1000 ** power).toPrecision(4)) + " " + " kMGTPEZY"[power];
    }
    if (size > 0 && size < 1e-4) return minus + size.toExponential(2);
    return minus + String(Number(size.toPrecision(size < 1 ? 4 : 5)));
  }

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => (first + index) * step);
  }

  function extent(values, pad) {
    const known = values.filter((value) => value !== null && Number.isFinite(value));
    if (!known.length) return [0, 1];
    const low = known.reduce((a, b) => Math.min(a, b));
    const high = known.reduce((a, b) => Math.max(a, b));
    const margin = high > low ? (high - low) * pad : Math.abs(high) * 0.05 || 1;
    return [low - margin, high + margin];
  }

  function path(xs, ys) {
    let text = "";
    let open = false;
    xs.forEach((x, index) => {
      const y = ys[index];
      const known = x !== null && y !== null;
      if (known) text += (open ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1);
      open = known;
    });
    return text;
  }

  const defined = (scale) => (value) => (value === null ? null : scale(value));

  // spec: {lines: [{name, colour, x, y, std?, thin?}], xName, yName, height, target?, points?}
  function draw(box, spec) {
    const width = Math.max(box.clientWidth, 200);
    const { lines, height } = spec;
    const xs = lines.flatMap((line) => line.x);
    const ys = lines.flatMap((line) =>
      line.y.flatMap((y, i) => (y === null ? [] : line.std ? [y - line.std[i], y + line.std[i]] : [y])));
    if (spec.target !== null && spec.target !== undefined) ys.push(spec.target);
    const [x0, x1] = extent(xs, 0);
    const [y0, y1] = extent(ys, 0.06);
    const yTicks = ticks(y0, y1, height > 200 ? 6 : 4);
    const left = 10 + 7 * Math.max(...yTicks.map((tick) => format(tick).length), 2);
    const right = 14;
    const top = 10;
    const bottom = spec.xName ? 44 : 24;
    const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right);
    const py = (y) => top + ((y1 - y) / (y1 - y0 || 1)) * (height - top - bottom);
    const svg = node("svg:svg", {
      viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": spec.label,
    });
    for (const tick of yTicks) {
      svg.append(node("svg:line", { class: "grid", x1: left, x2: width - right, y1: py(tick), y2: py(tick) }));
      svg.append(node("svg:text", { x: left - 8, y: py(tick) + 4, "text-anchor": "end" }, format(tick)));
    }
    svg.append(node("svg:line", {
      class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom,
    }));
    for (const tick of ticks(x0, x1, Math.max(3, Math.floor(width / 110)))) {
      const anchor = px(tick) > width - 30 ? "end" : px(tick) < left + 10 ? "start" : "middle";
      svg.append(node("svg:text", { x: px(tick), y: height - bottom + 18, "text-anchor": anchor }, format(tick)));
    }
    if (spec.xName) {
      svg.append(node("svg:text", { x: width - right, y: height - 6, "text-anchor": "end" }, spec.xName));
    }
    if (spec.target !== null && spec.target !== undefined) {
      const y = py(spec.target);
      svg.append(node("svg:line", { class: "rule", x1: left, x2: width - right, y1: y, y2: y }));
      svg.append(node("svg:text", { x: left + 6, y: y - 6 }, `baseline's best ${format(spec.target)}`));
    }
    for (const line of lines) {
      const at = line.x.map(defined(px));
      const group = node("svg:g", { class: `c${line.colour}` });
      if (line.std && line.std.some((value) => value > 0)) group.append(band(line, at, py));
      const dash = DASHES[line.colour];
      const style = { class: line.thin ? "thin" : "", d: path(at, line.y.map(defined(py))) };
      group.append(node("svg:path", dash ? { ...style, "stroke-dasharray": dash } : style));
      for (const [x, y] of line.points || []) {
        group.append(node("svg:circle", { cx: px(x), cy: py(y), r: 3.5 }));
      }
      svg.append(group);
    }
    box.replaceChildren(svg);
    if (!lines.length) svg.append(node("svg:text", { x: left + 8, y: height / 2 }, "nothing to show yet"));
    hover(box, svg, spec, { px, py, x0, x1, left, right, top, bottom, width });
  }

  function band(line, at, py) {
    const edge = (sign) => line.y.map((y, i) => (y === null ? null : py(y + sign * line.std[i])));
    const kept = at.map((x, i) => i).filter((i) => at[i] !== null && line.y[i] !== null);
    const pick = (values, order) => order.map((i) => values[i]);
    const back = [...kept].reverse();
    const outline = path(pick(at, kept), pick(edge(1), kept));
    const under = path(pick(at, back), pick(edge(-1), back)).replace("M", "L");
    return node("svg:path", { class: "band", d: outline + under + "Z" });
  }

  function nearest(line, x) {
    let best = -1;
    line.x.forEach((value, index) => {
      if (value === null || line.y[index] === null) return;
      if (best < 0 || Math.abs(value - x) < Math.abs(line.x[best] - x)) best = index;
    });
    return best;
  }

  function hover(box, svg, spec, at) {
    const cursor = node("svg:line", { class: "hover", y1: at.top, y2: spec.height - at.bottom, visibility: "hidden" });
    const tip = node("div", { class: "tip" });
    tip.hidden = true;
    svg.append(cursor);
    box.append(tip);
    const hide = () => {
      tip.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const place = event.clientX - svg.getBoundingClientRect().left;
      const x = at.x0 + ((place - at.left) / (at.width - at.left - at.right)) * (at.x1 - at.x0);
      const rows = spec.lines.map((line) => [line, nearest(line, x)]).filter(([, index]) => index >= 0);
      if (place < at.left || !rows.length) return hide();
      const shown = rows[0][0].x[rows[0][1]];
      cursor.setAttribute("x1", at.px(shown));
      cursor.setAttribute("x2", at.px(shown));
      cursor.setAttribute("visibility", "visible");
      tip.replaceChildren(node("div", { class: "head" }, `${format(shown)} ${spec.xName || "updates"}`));
      for (const [line, index] of rows.slice(0, 12)) {
        const spread = line.std && line.std[index] > 0 ? ` ± ${format(line.std[index])}` : "";
        const name = node("span", {}, node("span", { class: `swatch c${line.colour}` }), line.name);
        tip.append(node("div", {}, name, node("span", {}, format(line.y[index]) + spread)));
      }
      tip.hidden = false;
      const over = Math.min(at.px(shown) + 14, at.width - tip.offsetWidth);
      tip.style.left = `${Math.max(0, over)}px`;
      tip.style.top = `${at.top}px`;
    });
  }

  const charts = [];
  function chart(box, spec) {
    const entry = { box, spec, width: 0 };
    charts.push(entry);
    return () => {
      entry.width = box.clientWidth;
      draw(box, spec());
    };
  }

  function control(name, options, state, changed) {
    const group = node("div", { class: "switch", role: "group", "aria-label": name, "data-switch": name });
    for (const [value, label] of options) {
      const button = node("button", { type: "button", "data-value": value }, label);
      button.addEventListener("click", () => {
        state[name] = value;
        press();
        changed();
      });
      group.append(button);
    }
    const press = () => {
      for (const button of group.children) {
        button.setAttribute("aria-pressed", String(button.dataset.value === state[name]));
      }
    };
    press();
    return group;
  }

  function mainLines(state) {
    const drawn = [];
    for (const curve of data.main.curves[state.metric] || []) {
      if (state.hidden.has(curve.recipe)) continue;
      const { name, colour } = data.recipes[curve.recipe];
      const many = curve.seeds.length > 1;
      const seeds = state.lines === "seeds" || !curve.mean.raw.length;
      for (const line of seeds ? curve.seeds : [curve.mean]) {
        const x = line.x[state.axis];
        if (!x || !x.some((value) => value !== null)) continue;
        drawn.push({
          name: seeds && many ? `${name}, seed ${line.seed}` : name,
          colour, x, y: line[state.view], thin: seeds && many,
          std: seeds ? null : line[`${state.view}Std`],
        });
      }
    }
    return drawn;
  }

  function main() {
    const { axes, metrics } = data.main;
    const box = document.getElementById("main-chart");
    const controls = document.getElementById("main-controls");
    const state = {
      metric: metrics.length ? metrics[0].key : "", axis: "step", view: "raw", lines: "mean", hidden: new Set(),
    };
    const spec = () => {
      const axis = axes.find((one) => one.key === state.axis);
      const metric = metrics.find((one) => one.key === state.metric);
      return {
        lines: mainLines(state), height: 380, xName: axis ? axis.name : "",
        target: metric && state.view === "raw" ? metric.target : null,
        label: `${state.metric} over ${axis ? axis.name : ""}`,
      };
    };
    const render = chart(box, spec);
    const update = () => {
      render();
      box.dataset.shown = [state.metric, state.axis, state.view, state.lines].join("|");
      const lines = state.lines === "mean" ? "Lines are means over seeds; bands are one standard deviation." : "Every line is one seed.";
      const view = state.view === "smooth" ? " Running medians." : " As measured.";
      document.getElementById("main-note").textContent = lines + view;
    };
    const pick = node("select", { "aria-label": "metric", "data-switch": "metric" });
    for (const metric of metrics) pick.append(node("option", { value: metric.key }, metric.key));
    pick.addEventListener("change", () => {
      state.metric = pick.value;
      update();
    });
    const short = {
      step: "updates", "flops/full": "FLOPs, full", "flops/paper": "FLOPs, paper", seconds: "seconds",
      examples_learned: "examples learned", examples_seen: "examples seen", examples_unique: "unique examples",
    };
    controls.append(
      pick,
      control("axis", axes.map((axis) => [axis.key, short[axis.key] || axis.name]), state, update),
      control("view", [["raw", "raw"], ["smooth", "smoothed"]], state, update),
      control("lines", [["mean", "mean ± std"], ["seeds", "every seed"]], state, update),
      legend(state, update),
    );
    update();
  }

  function legend(state, changed) {
    const row = node("div", { class: "legend", role: "group", "aria-label": "recipes", "data-switch": "recipe" });
    data.recipes.forEach(({ name, colour }, index) => {
      const button = node(
        "button", { type: "button", "aria-pressed": "true", "data-value": String(index) },
        node("span", { class: `swatch c${colour}` }), name,
      );
      button.addEventListener("click", () => {
        if (!state.hidden.delete(index)) state.hidden.add(index);
        button.setAttribute("aria-pressed", String(!state.hidden.has(index)));
        changed();
      });
      row.append(button);
    });
    return row;
  }

  function diagnostics() {
    const grid = document.getElementById("diagnostics");
    if (!grid) return;
    for (const one of data.diagnostics) {
      const box = node("div", { class: "chart" });
      grid.append(node("div", {}, node("h4", {}, one.title), node("p", {}, one.unit), box));
      const lines = one.lines.map((line) => ({ ...data.recipes[line.recipe], x: line.x, y: line.y }));
      chart(box, () => ({ lines, height: 150, xName: "", label: one.title }))();
    }
  }

  function scaling() {
    if (!data.scaling) return;
    const lines = data.scaling.series.map((series) => ({
      name: series.name, colour: data.recipes[series.recipe].colour, x: series.fit.x, y: series.fit.y,
      points: series.x.map((x, index) => [x, series.y[index]]),
    }));
    const label = `${data.scaling.metric} over budgets`;
    chart(document.getElementById("scaling-chart"), () => ({ lines, height: 320, xName: "learner updates", label }))();
  }

  main();
  scaling();
  diagnostics();
  addEventListener("resize", () => {
    for (const entry of charts) {
      if (entry.box.clientWidth !== entry.width) {
        entry.width = entry.box.clientWidth;
        draw(entry.box, entry.spec());
      }
    }
  });
  document.documentElement.dataset.ready = "true";
})();
