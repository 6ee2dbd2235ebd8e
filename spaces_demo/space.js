// The script of the page: it hides boxes below the threshold, places labels beside their boxes, and fills the prompt.
window.medglip = (() => {
  let value = null;
  const all = (root, selector) => Array.from(root.querySelectorAll(selector));
  const overlap = (a, b) =>
    Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

  // Labels: the position around the box that covers the least of other labels, within the image.
  function place(stage) {
    const limit = stage.getBoundingClientRect();
    const taken = [];
    for (const box of all(stage, ".mg-box:not([hidden])")) {
      const tag = box.querySelector("span"), frame = box.getBoundingClientRect();
      const width = tag.offsetWidth, height = tag.offsetHeight;
      const lefts = [frame.left - 1, frame.right - width + 1];
      const tops = [frame.top - height, frame.top + 2, frame.bottom, frame.bottom - height - 2];
      let best = null;
      for (const top of tops) for (const left of lefts) {
        const x = Math.min(Math.max(left, limit.left), limit.right - width);
        const y = Math.min(Math.max(top, limit.top), limit.bottom - height);
        const spot = {left: x, top: y, right: x + width, bottom: y + height};
        const moved = Math.abs(x - left) + Math.abs(y - top);
        const cost = 50 * taken.reduce((sum, other) => sum + overlap(spot, other), 0) + moved;
        if (best === null || cost < best.cost) best = {cost, spot};
      }
      taken.push(best.spot);
      tag.style.left = `${best.spot.left - frame.left}px`;
      tag.style.top = `${best.spot.top - frame.top}px`;
    }
  }

  function apply(root) {
    if (value !== null) {
      for (const part of all(root, "[data-score]")) part.hidden = Number(part.dataset.score) < value;
    }
    for (const group of all(root, "tbody[data-region]")) {
      group.hidden = group.querySelector(".mg-row:not([hidden])") === null;
    }
    for (const region of all(root, ".mg-region")) {
      let next = region.parentElement.nextElementSibling, empty = true;
      for (; next && next.dataset.region !== undefined; next = next.nextElementSibling) empty &&= next.hidden;
      region.parentElement.hidden = empty;
    }
    for (const table of all(root, ".mg-table")) {
      const found = new Set(all(table, ".mg-row:not([hidden])").map((row) => row.dataset.label));
      const chips = all(table, ".mg-missing [data-label]");
      for (const chip of chips) chip.hidden = found.has(chip.dataset.label);
      table.querySelector(".mg-missing").hidden = chips.every((chip) => chip.hidden);
      table.querySelector("table").hidden = found.size === 0;
    }
    for (const stage of all(root, ".mg-stage")) place(stage);
    for (const canvas of all(root, ".mg-space canvas")) space(canvas);
  }

  // In space. Coordinates are voxels from the middle slices (u); the axes convert them to mm. The three slices cut the
  // space into eight parts, which are drawn from the farthest to the nearest, so nothing shows through a slice.
  const camera = {yaw: -0.6, pitch: 0.35};
  const views = {front: [0, 0], left: [Math.PI / 2, 0], top: [0, Math.PI / 2]};
  const scenes = new WeakMap();
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

  function space(canvas) {
    if (!scenes.has(canvas)) {
      const scene = JSON.parse(canvas.dataset.scene);
      canvas.removeAttribute("data-scene");
      scene.images = scene.slices.map((uri) => {
        const image = new Image();
        image.onload = () => draw(canvas);
        image.src = uri;
        return image;
      });
      scenes.set(canvas, scene);
      turnable(canvas);
    }
    draw(canvas);
  }

  function turnable(canvas) {
    let last = null;
    const turn = (x, y) => {
      camera.yaw -= x;
      camera.pitch = Math.min(Math.max(camera.pitch + y, -Math.PI / 2), Math.PI / 2);
      draw(canvas);
    };
    canvas.addEventListener("pointerdown", (event) => { last = event; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", () => { last = null; });
    canvas.addEventListener("pointercancel", () => { last = null; });
    canvas.addEventListener("pointermove", (event) => {
      if (last) turn((event.clientX - last.clientX) / 120, (event.clientY - last.clientY) / 120);
      if (last) last = event;
    });
    const steps = {ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15]};
    canvas.addEventListener("keydown", (event) => {
      if (steps[event.key]) { turn(...steps[event.key]); event.preventDefault(); }
    });
    canvas.closest("figure").addEventListener("click", (event) => {
      const view = views[event.target.dataset.view];
      if (view) { [camera.yaw, camera.pitch] = view; draw(canvas); }
    });
  }

  // Screen coordinates of u, and on which side of every slice the viewer is.
  function projection(scene, width, height) {
    const {yaw, pitch} = camera, cos = Math.cos(pitch);
    const near = [Math.sin(yaw) * cos, -Math.cos(yaw) * cos, Math.sin(pitch)];
    const right = [Math.cos(yaw), Math.sin(yaw), 0];
    const up = [near[1] * right[2] - near[2] * right[1], near[2] * right[0] - near[0] * right[2],
                near[0] * right[1] - near[1] * right[0]];
    const extent = scene.axes.map((axis, k) => Math.hypot(...axis) * (scene.high[k] - scene.low[k]));
    const scale = 1.2 * Math.min(width, height) / Math.max(...extent);
    const middle = [0, 1, 2].map((c) => scene.axes.reduce(
      (sum, axis, k) => sum + axis[c] * (scene.low[k] + scene.high[k]) / 2, 0));
    const flat = (u) => {
      const p = [0, 1, 2].map((c) => scene.axes.reduce((sum, axis, k) => sum + axis[c] * u[k], 0) - middle[c]);
      return [width / 2 + dot(p, right) * scale, height / 2 - dot(p, up) * scale];
    };
    return {flat, side: scene.axes.map((axis) => dot(axis, near) >= 0 ? 1 : -1)};
  }

  // A quarter of a slice: the texture's columns and rows run along two axes, rows of upright slices from the head.
  function quarters(scene) {
    const parts = [];
    for (let k = 0; k < 3; k += 1) {
      const [column, row] = [0, 1, 2].filter((axis) => axis !== k), down = k === 2;
      for (const a of [-1, 1]) for (const b of [-1, 1]) {
        const place = [0, 0, 0];
        place[column] = a;
        place[row] = b;
        parts.push({k, column, row, down, place});
      }
    }
    return parts;
  }

  function sheet(context, scene, part, flat) {
    const image = scene.images[part.k], {column, row, down, place} = part;
    if (!image.complete || !image.naturalWidth) return;
    const ends = (axis) => place[axis] < 0 ? [scene.low[axis], 0] : [0, scene.high[axis]];
    const corner = (c, r) => { const u = [0, 0, 0]; u[column] = c; u[row] = r; return flat(u); };
    const first = down ? scene.low[row] : scene.high[row], last = down ? scene.high[row] : scene.low[row];
    const o = corner(scene.low[column], first), x = corner(scene.high[column], first), y = corner(scene.low[column], last);
    const w = image.naturalWidth, h = image.naturalHeight, ratio = context.getTransform().a;
    context.save();
    context.beginPath();
    const [c, r] = [ends(column), ends(row)];
    for (const point of [corner(c[0], r[0]), corner(c[1], r[0]), corner(c[1], r[1]), corner(c[0], r[1])]) {
      context.lineTo(...point);
    }
    context.clip();
    context.setTransform((x[0] - o[0]) / w * ratio, (x[1] - o[1]) / w * ratio, (y[0] - o[0]) / h * ratio,
                         (y[1] - o[1]) / h * ratio, o[0] * ratio, o[1] * ratio);
    context.globalAlpha = 0.9;
    context.drawImage(image, 0, 0);
    context.restore();
  }

  // The twelve edges of a box, cut where they pass through a slice.
  function edges(box) {
    const pieces = [];
    for (let axis = 0; axis < 3; axis += 1) for (const a of [0, 1]) for (const b of [0, 1]) {
      const u = [0, 0, 0], [first, second] = [0, 1, 2].filter((other) => other !== axis);
      u[first] = a ? box.high[first] : box.low[first];
      u[second] = b ? box.high[second] : box.low[second];
      const stops = [box.low[axis], ...(box.low[axis] < 0 && box.high[axis] > 0 ? [0] : []), box.high[axis]];
      for (let n = 0; n + 1 < stops.length; n += 1) {
        const [from, to] = [[...u], [...u]];
        from[axis] = stops[n];
        to[axis] = stops[n + 1];
        pieces.push({from, to, place: from.map((value, k) => Math.sign(value + to[k]) || 1), box});
      }
    }
    return pieces;
  }

  function line(context, part, hot) {
    context.strokeStyle = part.box.color;
    context.lineWidth = part.box.number === hot ? 4 : 2;
    context.setLineDash(part.box.untrained ? [6, 4] : []);
    context.beginPath();
    context.moveTo(...part.ends[0]);
    context.lineTo(...part.ends[1]);
    context.stroke();
  }

  // A label over a point, higher where another one is in the way.
  function tag(context, words, x, y, color, taken) {
    const width = context.measureText(words).width + 8, left = x - width / 2;
    const spot = (top) => ({left, top, right: left + width, bottom: top + 16});
    let top = y - 16;
    while (top > 0 && taken.some((other) => overlap(other, spot(top)) > 0)) top -= 4;
    taken.push(spot(top));
    context.strokeStyle = color;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x, top + 16);
    context.stroke();
    context.fillStyle = color;
    context.fillRect(left, top, width, 16);
    context.fillStyle = "#101418";
    context.fillText(words, left + 4, top + 12);
  }

  function draw(canvas) {
    const scene = scenes.get(canvas), ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!scene || !width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const context = canvas.getContext("2d"), {flat, side} = projection(scene, width, height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const limit = value === null ? scene.threshold : value;
    const boxes = scene.boxes.filter((box) => box.score >= limit);
    const parts = [...quarters(scene), ...boxes.flatMap(edges)];
    const depth = (part) => part.place.map((sign, k) => sign * side[k]);
    parts.sort((a, b) => { const [p, q] = [depth(a), depth(b)]; return p[0] - q[0] || p[1] - q[1] || p[2] - q[2]; });
    const lines = parts.filter((part) => part.box);
    for (const part of lines) part.ends = [flat(part.from), flat(part.to)];
    for (const part of parts) part.box ? line(context, part, scene.hot) : sheet(context, scene, part, flat);
    context.globalAlpha = 0.3; // what lies behind a slice shows faintly
    for (const part of lines) line(context, part, scene.hot);
    context.globalAlpha = 1;
    context.setLineDash([]);
    context.font = "11.5px system-ui, sans-serif";
    const far = (axis, end) => { const u = [0, 0, 0]; u[axis] = (end ? scene.high : scene.low)[axis] * 1.08; return flat(u); };
    context.fillStyle = "#8fa3ad";
    ["R", "L", "A", "P", "F", "H"].forEach((letter, n) => {
      const [x, y] = far(n >> 1, n & 1);
      context.fillText(letter, x - 4, y + 4);
    });
    const taken = [];
    for (const box of boxes) {
      const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => flat([0, 1, 2].map((k) => (n >> k & 1 ? box.high : box.low)[k])));
      const top = corners.reduce((best, point) => point[1] < best[1] ? point : best);
      tag(context, box.label, top[0], top[1] - 6, box.color, taken);
    }
    canvas.dataset.boxes = boxes.length;
  }

  function threshold(now) {
    value = now;
    const root = document.querySelector("#mg-result");
    if (root) apply(root);
  }

  // On a telephone the answer is far below the question.
  let asked = false;
  document.addEventListener("click", (event) => {
    if (event.target.closest(".mg-example, #mg-find, #mg-find-all")) asked = true;
  });

  function refresh(root) {
    requestAnimationFrame(() => {
      apply(root);
      if (asked && window.innerWidth <= 768 && root.querySelector(".mg-table")) {
        document.querySelector("#mg-answers").scrollIntoView({behavior: "smooth"});
      }
      asked = false;
    });
  }

  function mark(root, event, on) {
    const part = event.target.closest("[data-number]");
    if (!part || !root.contains(part)) return;
    const half = part.closest(".mg-results > div");
    for (const other of all(half, `[data-number="${part.dataset.number}"]`)) other.classList.toggle("mg-hot", on);
    for (const canvas of all(half, ".mg-space canvas")) {
      if (scenes.has(canvas)) scenes.get(canvas).hot = on ? Number(part.dataset.number) : null;
      draw(canvas);
    }
  }

  function result(element, jump) {
    element.addEventListener("mouseover", (event) => mark(element, event, true));
    element.addEventListener("mouseout", (event) => mark(element, event, false));
    const go = (event) => {
      const row = event.target.closest("tr[data-plane]");
      if (row) jump(row.dataset.plane, row.dataset.index);
    };
    element.addEventListener("click", go);
    element.addEventListener("keydown", (event) => { if (event.key === "Enter") go(event); });
    new ResizeObserver(() => {
      all(element, ".mg-stage").forEach(place);
      all(element, ".mg-space canvas").forEach(draw);
    }).observe(element);
    refresh(element);
  }

  const prompt = () => document.querySelector("#mg-prompt textarea");
  const labels = () => prompt().value.split(/[.,;\n]/).map((part) => part.trim()).filter(Boolean);

  function write(text) {
    prompt().value = text;
    prompt().dispatchEvent(new Event("input", {bubbles: true}));
  }

  function pressed(element) {
    const asked = new Set(labels().map((label) => label.toLowerCase()));
    for (const pick of all(element, ".mg-pick")) {
      pick.setAttribute("aria-pressed", String(asked.has(pick.dataset.label.toLowerCase())));
    }
  }

  function search(element, text) {
    const wanted = text.trim().toLowerCase();
    for (const pick of all(element, ".mg-pick")) {
      pick.hidden = !pick.dataset.label.toLowerCase().includes(wanted);
    }
    for (const part of [...all(element, "section"), ...all(element, "details")]) {
      part.hidden = part.querySelector(".mg-pick:not([hidden])") === null;
    }
    if (wanted) for (const region of all(element, "details")) region.open = true;
  }

  function tree(element) {
    element.addEventListener("click", (event) => {
      const pick = event.target.closest(".mg-pick"), every = event.target.closest(".mg-all");
      if (pick) {
        const asked = labels(), name = pick.dataset.label;
        const rest = asked.filter((label) => label.toLowerCase() !== name.toLowerCase());
        const now = rest.length === asked.length ? [...asked, name] : rest;
        write(now.length ? `${now.join(". ")}.` : "");
      } else if (every) write(every.dataset.labels);
      if (pick || every) pressed(element);
    });
    element.addEventListener("input", (event) => {
      if (event.target.matches(".mg-search")) search(element, event.target.value);
    });
    document.addEventListener("input", (event) => { if (event.target === prompt()) pressed(element); });
    new MutationObserver(() => pressed(element)).observe(element, {attributes: true, attributeFilter: ["class"]});
  }

  function examples(element, pick) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest(".mg-example");
      if (button) pick(button.dataset.example);
    });
  }

  return {threshold, refresh, result, tree, examples};
})();
