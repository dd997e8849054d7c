"use strict";
// Sorts and filters the tables of episodes, and shows the slices and ways of the maps. Without it the tables are whole
// and as they were made, and of each map all of training and the first way are drawn; its slices are there in words.
const all = (selector, within) => [...(within || document).querySelectorAll(selector)];

function key(row, column) {
  const text = row.cells[column].dataset.key ?? row.cells[column].textContent;
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}

function order(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a.localeCompare(b);
}

function sort(button) {
  const head = button.closest("th"), body = button.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of all("th", head.parentElement)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows].sort((a, b) => order(key(a, head.cellIndex), key(b, head.cellIndex)));
  body.append(...(down ? rows.reverse() : rows));
}

function filter(select) {
  let shown = 0;
  for (const row of all("tbody tr", document.getElementById(select.dataset.table))) {
    row.hidden = select.value !== "" && !row.dataset.milestones.split(" ").includes(select.value);
    shown += row.hidden ? 0 : 1;
  }
  document.getElementById(select.dataset.count).textContent = `${shown} shown`;
}

function slice(slider) {
  const layers = all(".layer", document.getElementById(slider.dataset.map)), chosen = Number(slider.value);
  layers.forEach((layer, number) => layer.classList.toggle("shown", number === chosen));
  slider.setAttribute("aria-valuetext", layers[chosen].dataset.label);
  document.getElementById(slider.dataset.words).textContent = layers[chosen].dataset.label;
}

const follow = (box) => document.getElementById(box.dataset.way).classList.toggle("shown", box.checked);

// On the document, so that it holds for parts that are put in later.
const on = (event, selector, act) => document.addEventListener(event, ({ target }) => {
  const found = target.closest(selector);
  if (found) act(found);
});
on("click", "table.sortable th button", sort);
on("change", "select.milestone", filter);
on("input", "input.slice", slice);
on("change", "input.way", follow);
all("input.way").forEach(follow); // a browser keeps what was ticked when a page is read again

// Folds are read on paper too.
addEventListener("beforeprint", () => all("details:not([open])").forEach((fold) => { fold.open = true; }));
