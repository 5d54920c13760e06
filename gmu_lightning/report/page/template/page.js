"use strict";
// Sorting, filtering and copying: the page says all it has to say without them.
const told = document.getElementById("told");
function tell(words) { told.textContent = ""; setTimeout(() => { told.textContent = words; }, 30); }

for (const table of document.querySelectorAll("table.sortable")) {
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

for (const filters of document.querySelectorAll(".filters")) {
  const target = document.getElementById(filters.dataset.for);
  const items = [...target.querySelectorAll("[data-filter]")];
  const controls = [...filters.querySelectorAll("select, input")];
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

for (const button of document.querySelectorAll("button.copy")) {
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
    const before = button.textContent;
    button.textContent = "copied";
    tell("copied");
    setTimeout(() => { button.textContent = before; }, 1500);
  });
}
