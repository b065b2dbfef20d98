// Figures that look real and are the same at every visit: a small generator with a fixed seed.
function series(seed) {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) % 4294967296;
    return state / 4294967296;
  };
}

const chance = series({{ seed }});
const days = Array.from({ length: 60 }, (_, day) => ({
  visits: Math.round(420 + 140 * Math.sin(day / 4) + 260 * chance() + day * 4),
  orders: Math.round(18 + 22 * chance() + day / 5),
}));
const names = ["Ada", "Bruno", "Chiara", "Dmitri", "Elif", "Farid", "Grace", "Hana", "Ivo", "Jun", "Kemi", "Luz"];
const states = ["Paid", "Shipped", "Open", "Returned"];
const orders = names.map((customer, index) => ({
  id: 2041 + index,
  customer,
  state: states[Math.floor(chance() * states.length)],
  amount: Math.round(900 + 12000 * chance()) / 100,
}));
const sources = [["Search", 0.42], ["Direct", 0.27], ["Friends", 0.19], ["Mail", 0.12]];

let range = storage.read("range", 14);
let sort = { by: "id", down: false };

function total(list, name) {
  return list.reduce((sum, day) => sum + day[name], 0);
}

function figure(name, now, before, write) {
  const change = before ? ((now - before) / before) * 100 : 0;
  return make(
    "article",
    { className: "card" },
    make("small", {}, name),
    make("strong", {}, write(now)),
    make("small", { className: change >= 0 ? "up" : "down" }, (change >= 0 ? "▲ " : "▼ ") + Math.abs(change).toFixed(1) + " %"),
  );
}

function drawNumbers(now, before) {
  const whole = (number) => Math.round(number).toLocaleString("en");
  const money = (number) => "$" + Math.round(number).toLocaleString("en");
  const share = (number) => number.toFixed(1) + " %";
  const visits = [total(now, "visits"), total(before, "visits")];
  const bought = [total(now, "orders"), total(before, "orders")];
  find("#numbers").replaceChildren(
    figure("Visits", visits[0], visits[1], whole),
    figure("Orders", bought[0], bought[1], whole),
    figure("Revenue", bought[0] * 61, bought[1] * 58, money),
    figure("Conversion", (100 * bought[0]) / visits[0], (100 * bought[1]) / visits[1], share),
  );
}

function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  return element;
}

function drawLine(now) {
  const most = Math.max(...now.map((day) => day.visits)) * 1.1;
  const x = (index) => 10 + (580 * index) / (now.length - 1);
  const y = (visits) => 205 - (190 * visits) / most;
  const points = now.map((day, index) => x(index).toFixed(1) + "," + y(day.visits).toFixed(1));
  const parts = [0.25, 0.5, 0.75, 1].map((part) => {
    const level = 205 - 190 * part;
    return shape("line", { class: "grid", x1: 10, x2: 590, y1: level, y2: level });
  });
  parts.push(shape("polygon", { class: "area", points: "10,205 " + points.join(" ") + " 590,205" }));
  parts.push(shape("polyline", { class: "path", points: points.join(" ") }));
  now.forEach((day, index) => {
    const dot = shape("circle", { class: "dot", cx: x(index), cy: y(day.visits), r: 5 });
    dot.addEventListener("pointerenter", () => {
      const ago = now.length - 1 - index;
      find("#hover").textContent = day.visits + " visits, " + (ago === 0 ? "today" : ago + " days ago");
    });
    parts.push(dot);
  });
  find("#line").replaceChildren(...parts);
}

function drawBars(now) {
  const visits = total(now, "visits");
  find("#bars").replaceChildren(
    ...sources.map(([name, share]) => {
      const bar = make("i", {});
      bar.style.width = share * 200 + "%";
      bar.style.maxWidth = "100%";
      const count = Math.round(visits * share).toLocaleString("en");
      return make("div", {}, make("span", {}, name, make("b", {}, count)), bar);
    }),
  );
}

function shownOrders() {
  const field = find("#search");
  const wanted = field ? field.value.trim().toLowerCase() : "";
  const found = orders.filter((order) => Object.values(order).join(" ").toLowerCase().includes(wanted));
  const way = sort.down ? -1 : 1;
  return found.sort((a, b) => (a[sort.by] > b[sort.by] ? way : a[sort.by] < b[sort.by] ? -way : 0));
}

function drawRows() {
  const shown = shownOrders();
  find("#rows").replaceChildren(
    ...shown.map((order) =>
      make(
        "tr",
        {},
        make("td", {}, "#" + order.id),
        make("td", {}, order.customer),
        make("td", {}, make("span", { className: "state" }, order.state)),
        make("td", { className: "number" }, "$" + order.amount.toFixed(2)),
      ),
    ),
  );
  find("#empty").hidden = shown.length > 0;
  for (const button of document.querySelectorAll("[data-sort]")) {
    const order = button.dataset.sort === sort.by ? (sort.down ? "descending" : "ascending") : "none";
    button.closest("th").setAttribute("aria-sort", order);
  }
}

function draw() {
  const now = days.slice(-range);
  drawNumbers(now, days.slice(-2 * range, -range));
  drawLine(now);
  drawBars(now);
}

find("#range").value = String(range);
find("#range").addEventListener("change", (event) => {
  range = Number(event.target.value);
  storage.write("range", range);
  draw();
});

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    sort = { by: button.dataset.sort, down: sort.by === button.dataset.sort && !sort.down };
    drawRows();
  });
}

/* if search */
find("#search").addEventListener("input", drawRows);
/* end */

/* if export */
find("#export").addEventListener("click", () => {
  const lines = shownOrders().map((order) => [order.id, order.customer, order.state, order.amount].join(","));
  const text = ["order,customer,state,amount", ...lines].join("\n");
  find("#csv").value = text;
  find("#csv").hidden = false;
  find("#csv").select();
});
/* end */

draw();
drawRows();
