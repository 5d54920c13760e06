"use strict";
// Sorting, filters, copying and tooltips. The page is complete without them.
const told = document.getElementById("told");
const tip = document.getElementById("tip");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
function tell(words) { told.textContent = ""; setTimeout(() => { told.textContent = words; }, 30); }

function showTip(words, box) {
  tip.textContent = words;
  tip.hidden = false;
  const left = Math.min(Math.max(8, box.left + box.width / 2 - tip.offsetWidth / 2), document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 10;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : box.bottom + 10}px`;
}
function hideTip() { tip.hidden = true; }
addEventListener("scroll", hideTip, { passive: true, capture: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => {
        const raw = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
        return raw === "" ? null : Number.isNaN(Number(raw)) ? raw : Number(raw);
      };
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === null || y === null) return (x === null) - (y === null);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return falling ? -order : order;
      });
      table.tBodies[0].append(...rows);
      tell(`sorted by ${button.textContent}, ${falling ? "falling" : "rising"}`);
    });
  });
}

for (const button of all("[data-toggle]")) {
  const table = document.getElementById(button.dataset.toggle);
  const toggle = () => button.setAttribute("aria-pressed", String(!table.classList.toggle("brief")));
  button.addEventListener("click", toggle);
  if (table.scrollWidth > table.parentNode.clientWidth) toggle();
}

for (const filters of all(".filters")) {
  const items = all("[data-filter]", document.getElementById(filters.dataset.for));
  const controls = all("select, input", filters);
  const apply = () => {
    let shown = 0;
    for (const item of items) {
      const facts = JSON.parse(item.dataset.filter);
      item.hidden = controls.some((control) => {
        const wanted = control.value.toLowerCase();
        const fact = facts[control.name];
        if (!wanted) return false;
        if (control.type === "search") return !String(fact).toLowerCase().includes(wanted);
        return Array.isArray(fact) ? !fact.map((f) => f.toLowerCase()).includes(wanted) : String(fact).toLowerCase() !== wanted;
      });
      shown += !item.hidden;
    }
    tell(`${shown} of ${items.length} shown`);
  };
  controls.forEach((control) => control.addEventListener("input", apply));
}

for (const button of all("button.copy")) {
  button.addEventListener("click", async () => {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    const label = button.firstElementChild;
    label.textContent = "Copied";
    tell("copied");
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
  });
}

// Charts: titles become tooltips. A chart is one stop of the Tab key, and the arrow keys read its marks.
for (const title of all(".chart title")) {
  title.parentNode.dataset.tip = title.textContent;
  title.remove();
}

function marksOf(chart) {
  const axes = chart.dataset.axes && JSON.parse(chart.dataset.axes);
  const value = ([, start, from, step], place, digits) => String(Number((start + step * (place - from)).toFixed(digits)));
  return all("[data-tip]", chart).flatMap((mark) => {
    if (mark.localName !== "polyline") return [{ mark, words: mark.dataset.tip, box: () => (mark.querySelector("circle") || mark).getBoundingClientRect() }];
    return [...mark.points].map(({ x, y }) => ({
      mark, x, y,
      words: `${mark.dataset.tip}: ${axes.y[0]} ${value(axes.y, y, 3)} at ${axes.x[0]} ${value(axes.x, x, 2)}`,
      box: () => { const at = new DOMPoint(x, y).matrixTransform(chart.getScreenCTM()); return new DOMRect(at.x - 4, at.y - 4, 8, 8); },
    }));
  });
}

for (const chart of all(".chart")) {
  let marks = null, ring = null, current = -1;
  const leave = () => {
    hideTip();
    all(".on", chart).forEach((other) => other.classList.remove("on"));
    chart.classList.remove("picked");
    ring?.remove();
  };
  const pick = (found, aloud) => {
    leave();
    found.mark.classList.add("on");
    if (found.x !== undefined) {
      chart.classList.add("picked");
      ring ??= document.createElementNS("http://www.w3.org/2000/svg", "circle");
      for (const [name, of] of Object.entries({ class: "ring", r: 4, cx: found.x, cy: found.y })) ring.setAttribute(name, of);
      chart.append(ring);
    }
    showTip(found.words, found.box());
    if (aloud) tell(found.words);
  };
  const ready = () => { marks ??= marksOf(chart); return marks; };
  chart.tabIndex = 0;
  chart.addEventListener("pointermove", (event) => {
    const points = chart.dataset.axes ? ready() : [];
    if (!points.length) {
      const mark = event.target.closest("[data-tip]");
      return mark ? pick(ready().find((one) => one.mark === mark)) : leave();
    }
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const away = (one) => Math.hypot(one.x - at.x, one.y - at.y);
    const near = points.reduce((a, b) => (away(b) < away(a) ? b : a));
    return away(near) < 24 ? pick(near) : leave();
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step === undefined || !ready().length) return;
    event.preventDefault();
    current = Math.min(Math.max(current + step, 0), marks.length - 1);
    pick(marks[current], true);
  });
}

// The matrix of pairs: a cell's tooltip is its sentence. It is one stop of the Tab key, too.
for (const table of all("table.pairs")) {
  const cells = all("td a", table);
  const words = (cell) => document.querySelector(cell.hash).querySelector(".words").textContent;
  cells.forEach((cell, n) => { cell.tabIndex = n ? -1 : 0; });
  for (const cell of cells) {
    cell.addEventListener("pointerenter", () => showTip(words(cell), cell.getBoundingClientRect()));
    cell.addEventListener("pointerleave", hideTip);
    cell.addEventListener("blur", hideTip);
    cell.addEventListener("focus", () => {
      cells.forEach((other) => { other.tabIndex = other === cell ? 0 : -1; });
      setTimeout(() => showTip(words(cell), cell.getBoundingClientRect()), 0);
      tell(words(cell));
    });
    cell.addEventListener("keydown", (event) => {
      const [down, right] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] || [0, 0];
      if (!down && !right) return;
      event.preventDefault();
      const td = cell.parentNode;
      table.rows[td.parentNode.rowIndex + down]?.cells[td.cellIndex + right]?.querySelector("a")?.focus();
    });
    cell.addEventListener("click", () => { document.querySelector(cell.hash).closest("details").open = true; hideTip(); });
  }
}

const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const inView = new Set();
const observer = new IntersectionObserver((entries) => {
  entries.forEach(({ target, isIntersecting }) => (isIntersecting ? inView.add(target.id) : inView.delete(target.id)));
  const first = [...links.keys()].find((id) => inView.has(id));
  for (const [id, link] of links) {
    if (id === first) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-20% 0px -60% 0px" });
all("main section").forEach((section) => observer.observe(section));
