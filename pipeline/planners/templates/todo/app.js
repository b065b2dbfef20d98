let items = storage.read("items", [
  { id: 1, text: "Open " + document.title, done: true, due: "", priority: 2 },
  { id: 2, text: "Add the first task of your own", done: false, due: "", priority: 3 },
  { id: 3, text: "Tick it off", done: false, due: "", priority: 2 },
]);
let show = storage.read("show", "all");

function value(selector, otherwise) {
  const field = find(selector);
  return field ? field.value : otherwise;
}

function save() {
  storage.write("items", items);
  render();
}

function visible(item) {
  const wanted = value("#search", "").trim().toLowerCase();
  return (show === "all" || item.done === (show === "done")) && item.text.toLowerCase().includes(wanted);
}

function row(item) {
  const id = "item-" + item.id;
  const tick = make("input", { type: "checkbox", id, checked: item.done });
  tick.addEventListener("change", () => {
    item.done = tick.checked;
    save();
  });
  const remove = make("button", { type: "button", className: "remove" }, "✕");
  remove.setAttribute("aria-label", "Delete " + item.text);
  remove.addEventListener("click", () => {
    items = items.filter((other) => other !== item);
    save();
  });
  const tags = [];
  /* if priority */
  if (item.priority !== 2) {
    tags.push(make("span", { className: item.priority === 3 ? "tag high" : "tag" }, item.priority === 3 ? "High" : "Low"));
  }
  /* end */
  /* if due */
  if (item.due) {
    const late = !item.done && item.due < new Date().toISOString().slice(0, 10);
    tags.push(make("span", { className: late ? "tag late" : "tag" }, item.due));
  }
  /* end */
  return make(
    "li",
    { className: item.done ? "done" : "" },
    tick,
    make("label", { htmlFor: id }, item.text),
    ...tags,
    remove,
  );
}

function render() {
  const shown = items.filter(visible);
  /* if priority */
  shown.sort((a, b) => Number(a.done) - Number(b.done) || b.priority - a.priority);
  /* end */
  find("#list").replaceChildren(...shown.map(row));
  find("#empty").hidden = shown.length > 0;
  const done = items.filter((item) => item.done).length;
  const left = items.length - done;
  const percent = items.length ? Math.round((100 * done) / items.length) : 0;
  find("#count").textContent = left + (left === 1 ? " task left" : " tasks left");
  find("#fill").style.width = percent + "%";
  find(".meter").setAttribute("aria-valuenow", String(percent));
  find("#clear").hidden = done === 0;
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === show));
  }
}

find("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find("#text").value.trim();
  if (!text) return;
  const id = Math.max(0, ...items.map((item) => item.id)) + 1;
  items.push({ id, text, done: false, due: value("#due", ""), priority: Number(value("#priority", 2)) });
  find("#add").reset();
  find("#text").focus();
  save();
});

for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    show = button.dataset.show;
    storage.write("show", show);
    render();
  });
}

find("#clear").addEventListener("click", () => {
  items = items.filter((item) => !item.done);
  save();
});

/* if search */
find("#search").addEventListener("input", render);
/* end */

render();
