"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const selects = all("select[data-filter]");
  const search = document.getElementById("search");
  const runs = all("details.run");
  const text = new Map(); // a run's number -> what the search looks through
  for (const row of all("tr[data-run]")) {
    text.set(row.dataset.run, `${row.textContent} seed ${row.cells[4].textContent}`.toLowerCase());
  }

  // An element is shown if it is of the method, network and data set that were chosen, as far as it is of any; what
  // holds elements is shown if any of them is.
  function filter() {
    const words = search.value.toLowerCase().trim();
    const wrong = element =>
      selects.some(({ dataset: { filter: key }, value }) => value && key in element.dataset && element.dataset[key] !== value) ||
      (words && "run" in element.dataset && !text.get(element.dataset.run).includes(words));
    for (const element of all("[data-method], [data-network], [data-dataset]")) {
      element.toggleAttribute("hidden", Boolean(wrong(element)));
    }
    for (const box of all("[data-container]:not([hidden])")) {
      box.hidden = all("[data-leaf]", box).every(leaf => leaf.closest("[hidden]"));
    }
    const shown = runs.filter(run => !run.hidden).length;
    document.getElementById("count").textContent = `${shown} of ${runs.length} runs`;
  }

  // Numbers by size, words by the alphabet, and what is empty at the end either way.
  function sort(head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    const index = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const key = row => row.cells[index].dataset.value ?? row.cells[index].textContent.trim();
    const compare = (a, b) => {
      if (!a || !b) return !a - !b;
      const order = a - b || a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    };
    const rows = [...body.rows].map(row => [key(row), row]).sort(([a], [b]) => compare(a, b));
    body.append(...rows.map(([, row]) => row));
    for (const other of all("th[aria-sort]", head.parentElement)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  for (const head of all("table[data-sortable] thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(head));
    head.append(button);
  }
  for (const select of selects) select.addEventListener("change", filter);
  search.addEventListener("input", filter);
  for (const button of all("button[data-open]")) {
    button.addEventListener("click", () => {
      for (const run of runs) if (!run.hidden) run.open = button.dataset.open === "true";
    });
  }
  const form = document.getElementById("controls");
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  filter(); // a page that is gone back to may have kept its choices
})();
